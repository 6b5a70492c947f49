"""Training that goes on from a file, and a critic for a hypernetwork that has none."""

import pytest
import torch
from conftest import randomized, randomized_head
from test_critic_training import InNumpy, equal, everything, make
from toy_world import ToyGenerator

from hypernoise_core import HeadHypernetwork, LoraHypernetwork, load_hypernetwork
from hypernoise_core.rewards.redness import Redness
from hypernoise_core.training import StepDone, WarmStart, load_trainer_state, trainer_state


@pytest.fixture(scope="module")
def generator():
    return ToyGenerator()


@pytest.fixture(scope="module")
def files(generator, tmp_path_factory):
    folder = tmp_path_factory.mktemp("start")
    head = randomized_head(HeadHypernetwork.new(generator, 32, 1, iterations=3))
    lora = randomized(LoraHypernetwork(generator, rank=4, alpha=8), scale=0.1)
    for f, name in ((head, "head"), (lora, "lora")):
        f.save(folder / f"{name}.safetensors", steps_trained=7, rewards="redness=1")
    return {name: str(folder / f"{name}.safetensors") for name in ("head", "lora")}


def weights(f):
    return {name: parameter.detach().clone() for name, parameter in f.named_parameters().items()}


@pytest.mark.parametrize("kind", ["head", "lora"])
@pytest.mark.parametrize("teacher", ["critic", "gradient"])
def test_training_goes_on_from_the_file(generator, files, prompts, tmp_path, kind, teacher):
    shape = {"hypernetwork": kind, "rank": 4, "alpha": 8.0, "iterations": 3, "max_steps": 1}
    trainer = make(generator, Redness(), prompts, **shape, teacher=teacher, start_from=files[kind])
    before = weights(load_hypernetwork(generator, files[kind]))
    assert equal(weights(trainer.adapter), before)
    (step,) = (event for event in trainer.events() if isinstance(event, StepDone))
    assert step.metrics["kl"] > 0
    assert not equal(weights(trainer.adapter), before)
    trainer.save(tmp_path / "on.safetensors")
    assert load_hypernetwork(generator, tmp_path / "on.safetensors").training["steps_trained"] == "8"


def test_a_head_gets_a_critic_and_stays_as_it_is(generator, files, prompts, tmp_path):
    settings = {"start_from": files["head"], "max_steps": 0, "iterations": 3, "critic_warm_up": 12}
    whole = make(generator, InNumpy(), prompts, **settings)
    assert not whole.has_trained
    events = list(whole.events())
    assert [(type(event), event.done) for event in events] == [(WarmStart, 4), (WarmStart, 8), (WarmStart, 12)]
    assert whole.has_trained
    whole.save(tmp_path / "head.safetensors")
    found, start = (load_hypernetwork(generator, path) for path in (tmp_path / "head.safetensors", files["head"]))
    assert equal(weights(found), weights(start))
    assert start.critic is None
    assert torch.isfinite(found.critic.score(generator.noise(2), generator.encode(["a", "b"]))).all()
    assert found.training == {**start.training, "critic_rewards": "numpy=1"}
    first, second = (make(generator, InNumpy(), prompts, **settings) for _ in range(2))
    next(first.events())
    assert load_trainer_state(second, trainer_state(first)) == []
    assert len(list(second.events())) == 2
    assert equal(everything(second), everything(whole))


def test_a_critic_sees_noise_as_the_hypernetwork_moves_it(generator, files, prompts):
    trainer = make(
        generator, InNumpy(), prompts, start_from=files["head"], max_steps=0, iterations=3, critic_warm_up=64
    )
    list(trainer.events())
    seen, drawn = (
        trainer.teacher.replay.draw(64, torch.Generator(), torch.device("cpu"))[0],
        make(generator, InNumpy(), prompts, iterations=3, critic_warm_up=64),
    )
    list(drawn._warm_up_batch() for _ in range(16))
    plain = drawn.teacher.replay.draw(64, torch.Generator(), torch.device("cpu"))[0]
    moved = (seen - plain).flatten(1).norm(dim=1) > 1e-3
    assert 0 < moved.sum() < len(moved)


def test_another_start_is_not_resumed(generator, files, prompts):
    state = trainer_state(make(generator, InNumpy(), prompts, start_from=files["head"]))
    with pytest.raises(ValueError, match=r"start_sha256 is none, .*: it began from another file"):
        load_trainer_state(make(generator, InNumpy(), prompts), state)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"start_from": "head", "head_width": 48}, "start_from: .*head.safetensors has head_width 32, and this run 48"),
        ({"start_from": "head", "head_reads": "prediction"}, "has head_reads features, and this run prediction"),
        ({"start_from": "lora"}, "has hypernetwork lora, and this run head"),
        ({"start_from": "lora", "hypernetwork": "lora", "rank": 8}, "has rank 4, and this run 8"),
        ({"start_from": "nowhere.safetensors"}, "start_from: .*nowhere.safetensors"),
        ({"start_from": "head", "distill": "lora", "distill_steps": 1}, "leave out distill"),
        ({"max_steps": 0}, "max_steps is 0: give at least 1"),
        ({"start_from": "head", "max_steps": 0, "teacher": "gradient"}, "max_steps is 0: give at least 1"),
    ],
)
def test_starts_that_cannot_be(generator, files, prompts, changes, match):
    changes = {key: files.get(value, value) if key == "start_from" else value for key, value in changes.items()}
    with pytest.raises(ValueError, match=match):
        make(generator, Redness(), prompts, **changes)
