"""Stopping and going on: as if the run had never been stopped, bit for bit."""

import json
import shutil
from functools import cache

import pytest
import torch
from conftest import randomized
from safetensors.torch import load_file, save_file
from toy_world import ToyGenerator

from hypernoise_core import LoraHypernetwork, RewardEnsemble, Trainer, TrainingConfig
from hypernoise_core.embedded.prompts import prompts as embedded_prompts
from hypernoise_core.hypernetworks.adapter_file import read_adapter, write_peft_folder
from hypernoise_core.hypernetworks.lora_clone import lora_parameters
from hypernoise_core.prompt_sets import PromptMix, PromptSet
from hypernoise_core.rewards.redness import Redness
from hypernoise_core.training import (
    Checkpoints,
    StepDone,
    find_checkpoint,
    load_trainer_state,
    trainer_state,
)
from hypernoise_core.training.optimizers import load_optimizer_tensors, optimizer_tensors

SMALL = dict(
    rank=4, alpha=8, batch_size=2, max_steps=6, warmup_steps=2, lr=1e-3, decay_fraction=0.5, diagnostics_every=0
)


def mix_of(prompts):
    return PromptMix((PromptSet("a", tuple(prompts[:2]), 2.0), PromptSet("b", tuple(prompts[2:]), 1.0)))


def held_in():
    return [prompt.text for prompt in embedded_prompts(held_out=False)[::30]]


@pytest.fixture
def mix():
    return mix_of(held_in())


@pytest.fixture(scope="module")
def generator():
    """A toy: what is saved is the trainer's. tests/test_processes.py and test_kill.py resume on the embedded one."""
    return ToyGenerator()


@pytest.fixture(scope="module", autouse=True)
def folder(generator, tmp_path_factory):
    """The working folder, with the LoRA that heads follow."""
    folder = tmp_path_factory.mktemp("resume")
    randomized(LoraHypernetwork(generator, rank=4, alpha=8)).save(folder / DISTILLED["distill"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield


def make(generator, reward, prompts, **changes):
    return Trainer(
        generator, reward, prompts, TrainingConfig(**{**SMALL, **changes}), validation_prompts=prompts.texts[:1]
    )


def everything(trainer):
    """Copies of all state."""
    return {name: tensor.clone() for name, tensor in trainer_state(trainer).tensors.items()}


def told(events, count=None):
    events = iter(events)
    return [repr(event) for event in events] if count is None else [repr(next(events)) for _ in range(count)]


EVENTFUL = dict(accumulation_steps=2, ema_decay=0.9, diagnostics_every=3, validate_every=3, max_steps=3)
"""Three steps, one diagnosis, one validation."""

HEAD = dict(hypernetwork="head", head_width=32, head_depth=1, iterations=3)
DISTILLED = dict(distill="lora.safetensors", distill_steps=1)
KINDS = {"lora": EVENTFUL | dict(warm_start_pictures=4), "head": EVENTFUL | HEAD | DISTILLED}
"""A LoRA has two events of warm start before all that; a head's first step follows a LoRA."""


@pytest.fixture(scope="module")
def unbroken(generator):
    """Kind to (what a run told, how it ended), never stopped."""

    @cache
    def run(kind):
        trainer = make(generator, RewardEnsemble([(Redness(), 1.0)]), mix_of(held_in()), **KINDS[kind])
        return told(trainer.events()), everything(trainer)

    return run


STOPS = [("lora", 1), ("lora", 2), ("lora", 3), ("lora", 5), ("lora", 6), ("head", 1), ("head", 2), ("head", 4)]


@pytest.mark.parametrize(("kind", "stop_after"), STOPS)
def test_a_stopped_run_goes_on_bit_for_bit(generator, redness, mix, tmp_path, unbroken, kind, stop_after):
    """Stopped after any event (in the warm start, between a step and its measurements): weights, average, optimizer,
    order and every number told equal the unbroken run's."""
    wanted, expected = unbroken(kind)
    first = make(generator, redness, mix, **KINDS[kind])
    got = told(first.events(), stop_after)
    Checkpoints(tmp_path).save(trainer_state(first), first.save)
    second = make(generator, redness, mix, **KINDS[kind])
    assert load_trainer_state(second, Checkpoints(tmp_path).newest().load()) == []
    got += told(second.events())

    assert got == wanted
    assert {"weights", "average", "optimizer", "order", "random"} <= {name.split("/")[0] for name in expected}
    for name, tensor in everything(second).items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_every_optimizer_goes_on(generator, redness, mix, optimizer):
    unbroken = make(generator, redness, mix, optimizer=optimizer, max_steps=3)
    list(unbroken.events())
    first, second = (make(generator, redness, mix, optimizer=optimizer, max_steps=3) for _ in range(2))
    told(first.events(), 2)
    load_trainer_state(second, trainer_state(first))
    list(second.events())
    for a, b in zip(unbroken.parameters, second.parameters, strict=True):
        assert torch.equal(a, b)


class EightBit(torch.optim.SGD):
    """Tells its state as bitsandbytes' do: a count, and tensors in a dictionary, of which parameters share one."""

    table = torch.arange(256.0)

    def state_dict(self):
        told = super().state_dict()
        state = {i: {"step": 3, "quantised": own | {"qmap1": self.table}} for i, own in told["state"].items()}
        return {**told, "state": state}

    def load_state_dict(self, told):
        self.loaded = told["state"]


def test_the_state_of_an_8_bit_optimizer_is_saved_whole(tmp_path):
    parameters = [torch.nn.Parameter(torch.ones(n)) for n in (2, 3)]
    optimizer = EightBit(parameters, momentum=0.9)
    sum(p.sum() for p in parameters).backward()
    optimizer.step()
    save_file(optimizer_tensors(optimizer), tmp_path / "state.safetensors")
    load_optimizer_tensors(optimizer, load_file(tmp_path / "state.safetensors"))
    for i, own in optimizer.loaded.items():
        assert own["step"] == 3
        assert isinstance(own["step"], int)
        assert torch.equal(own["momentum_buffer"], torch.ones_like(parameters[i]))
        assert torch.equal(own["qmap1"], optimizer.table)
    assert optimizer.loaded.keys() == {0, 1}


def test_an_interrupt_inside_a_step_undoes_it(generator, redness, mix, monkeypatch):
    unbroken, broken = (make(generator, redness, mix, max_steps=3, accumulation_steps=2) for _ in range(2))
    wanted = told(unbroken.events())
    got = told(broken.events(), 1)
    calls, judge = [], broken.reward.judge

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return judge(*args)

    with monkeypatch.context() as patch:
        patch.setattr(broken.reward, "judge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            list(broken.events())
    assert got + told(broken.events()) == wanted


def test_changed_settings_are_named_one_by_one(generator, redness, mix):
    first = make(generator, redness, mix)
    told(first.events(), 2)
    second = make(generator, redness, mix, lr=2e-3, max_steps=8, ema_decay=0.9)
    changes = load_trainer_state(second, trainer_state(first))
    assert [change.split(":")[0] for change in changes] == ["lr", "max_steps", "ema_decay"]
    assert "0.001 -> 0.002" in changes[0]
    assert len([event for event in second.events() if isinstance(event, StepDone)]) == 6


def test_what_cannot_change_is_refused_and_nothing_is_touched(generator, redness, mix):
    first = make(generator, redness, mix)
    told(first.events(), 1)
    second = make(generator, redness, mix, rank=8, seed=3)
    before = everything(second)
    with pytest.raises(ValueError, match=r"rank is 8, the checkpoint has 4.*seed is 3, the checkpoint has 0"):
        load_trainer_state(second, trainer_state(first))
    assert all(torch.equal(tensor, before[name]) for name, tensor in everything(second).items())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            dict(distill=None, distill_steps=0),
            "distill_sha256 is none, the checkpoint has .*: its first steps followed another file",
        ),
        (
            dict(distill_steps=2),
            "distill_steps is 2, the checkpoint has 1: its first steps followed a file for another",
        ),
        (dict(head_width=48), "head_width is 48, the checkpoint has 32: its weights have another shape"),
        (dict(head_depth=2), "head_depth is 2"),
        (dict(head_reads="prediction"), "head_reads is prediction"),
        (dict(coarsen=2), "coarsen is 2"),
        (dict(hypernetwork="lora"), "hypernetwork is lora, the checkpoint has head: another kind of hypernetwork"),
    ],
)
def test_what_is_built_into_a_head_cannot_change(generator, redness, mix, change, words):
    first = make(generator, redness, mix, **HEAD, **DISTILLED)
    second = make(generator, redness, mix, **{**HEAD, **DISTILLED, **change})
    with pytest.raises(ValueError, match=words):
        load_trainer_state(second, trainer_state(first))


def test_a_distilled_file_may_lie_elsewhere_but_not_become_another(generator, redness, mix, tmp_path):
    """Compared by content, for files and for PEFT folders."""
    here, there, folder = tmp_path / "a.safetensors", tmp_path / "b.safetensors", tmp_path / "peft"
    shutil.copy(DISTILLED["distill"], here)
    write_peft_folder(folder, *read_adapter(here))

    def run(file):
        return make(generator, redness, mix, **HEAD, distill=str(file), distill_steps=1)

    by_file, by_folder = trainer_state(run(here)), trainer_state(run(folder))
    here.rename(there)
    assert load_trainer_state(run(there), by_file) == [f"distill: {here} -> {there}"]
    assert load_trainer_state(run(folder), by_folder) == []
    randomized(LoraHypernetwork(generator, rank=4, alpha=8)).save(here)
    write_peft_folder(folder, *read_adapter(here))
    for state, file in ((by_file, here), (by_folder, folder)):
        with pytest.raises(ValueError, match=r"distill_sha256 is .*: its first steps followed another file"):
            load_trainer_state(run(file), state)


def test_a_head_may_go_on_with_more_readings(generator, redness, mix):
    first, second = make(generator, redness, mix, **HEAD), make(generator, redness, mix, **HEAD | dict(iterations=5))
    told(first.events(), 1)
    first.validation.progress.best_score = 9.0
    changes = load_trainer_state(second, trainer_state(first))
    assert changes == ["iterations: 3 -> 5 (validation begins anew)"]
    assert second.validation.progress.best_score < 0
    assert told(second.events(), 1)


def test_other_prompts_begin_a_new_pass(generator, redness, mix):
    first, second = make(generator, redness, mix), make(generator, redness, PromptMix.of(held_in()[:3]))
    told(first.events(), 1)
    (change,) = [c for c in load_trainer_state(second, trainer_state(first)) if c.startswith("prompts")]
    assert "a new pass begins" in change
    assert told(second.events(), 2)


@pytest.fixture
def saved(generator, redness, mix, tmp_path):
    """A trainer with checkpoints of steps 1 and 2."""
    trainer, checkpoints = make(generator, redness, mix), Checkpoints(tmp_path)
    for _ in range(2):
        told(trainer.events(), 1)
        checkpoints.save(trainer_state(trainer), trainer.save)
    return trainer, checkpoints


@pytest.mark.parametrize("name", ["state.safetensors", "state.json", "hypernoise.safetensors", "complete.json"])
def test_a_checkpoint_that_lost_a_file_or_its_end_is_passed_over(saved, name):
    _, checkpoints = saved
    newest = checkpoints.newest()
    assert newest.step == 2
    file = newest.path / name
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert checkpoints.newest().step == 1
    file.unlink()
    assert checkpoints.newest().step == 1
    assert find_checkpoint(newest.path) is None


def test_the_latest_and_the_best_are_kept(saved):
    trainer, checkpoints = saved
    checkpoints.keep = 2
    trainer.validation.progress.best_step = 2
    for _ in range(3):
        told(trainer.events(), 1)
        checkpoints.save(trainer_state(trainer), trainer.save)
    assert [checkpoint.step for checkpoint in checkpoints.all()] == [2, 4, 5]


def test_the_same_step_again_replaces_only_once_it_is_whole(saved, monkeypatch):
    trainer, checkpoints = saved
    before = checkpoints.newest()

    def full_disk(path):
        raise OSError("no space left")

    with pytest.raises(OSError):
        checkpoints.save(trainer_state(trainer), full_disk)
    assert checkpoints.newest() == before
    assert not list(checkpoints.folder.glob(".step-*"))
    checkpoints.save(trainer_state(trainer), trainer.save)
    assert [(c.step, c.serial) for c in checkpoints.all()] == [(1, 1), (2, 2)]


def test_checkpoints_never_unpickle(saved):
    _, checkpoints = saved
    assert {file.suffix for file in checkpoints.newest().path.iterdir()} == {".json", ".safetensors"}
    json.loads((checkpoints.newest().path / "complete.json").read_text())


def test_the_adapter_in_a_checkpoint_is_usable(saved, generator):
    trainer, checkpoints = saved
    lora = type(trainer.adapter).load(generator, checkpoints.newest().path / "hypernoise.safetensors")
    weights = lora_parameters(trainer.adapter.network)
    assert all(torch.equal(weight, weights[name]) for name, weight in lora_parameters(lora.network).items())
    shutil.rmtree(checkpoints.folder)
