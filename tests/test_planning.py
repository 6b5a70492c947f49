"""How much memory a run needs, known before it starts."""

import copy
from collections import Counter as Sums
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import pytest
import torch
from tiny_pipelines import BUILDERS, tiny_pipeline
from tiny_vlms import KINDS, save_vlm
from torch.profiler import ProfilerActivity, profile
from transformers import T5Config, T5EncoderModel

from benchmarks.step_by_kind import small_autoencoder
from hypernoise_core import RewardEnsemble, TensorBatch, Trainer, TrainingConfig, load_reward
from hypernoise_core.generators.diffusers_generator import PROMPTS_AT_A_TIME
from hypernoise_core.planning.count import (
    ACTIVATIONS,
    DENOISER,
    REWARDS,
    TEXT_ENCODERS,
    WINDOWS,
    Count,
    Setup,
    _encoding_activations,
    count,
    size_of,
)
from hypernoise_core.planning.counter import Counter
from hypernoise_core.planning.judges import CountedJudge, judge_model
from hypernoise_core.planning.loaded import Loaded, check_loaded_fits, count_loaded, held_throughout
from hypernoise_core.planning.models import build, configuration_of, countable
from hypernoise_core.planning.plan import GIB, SPARE, check_fits, fit
from hypernoise_core.planning.released import CONFIGURATIONS, Configuration, sana_pipeline, sana_transformer
from hypernoise_core.planning.rewards import build_rewards, tensors_of
from hypernoise_core.planning.without_data import without_data
from hypernoise_core.rewards import Reward
from hypernoise_core.rewards.vision_language import as_texts
from hypernoise_core.training import StepDone
from hypernoise_core.training.teachers import CriticTeacher
from train import __main__ as command
from train import estimate

REST = [("lora", "gradient"), ("head", "gradient"), ("lora", "critic")]
SMALL = Configuration(lambda: sana_transformer(2, 4, 2), lambda: small_autoencoder((8, 16, 32, 32)), sana_pipeline, ())


def allocated(trainer: Trainer) -> int:
    """The most bytes that torch's CPU allocator holds for a run, in its second step."""
    assert isinstance(trainer._next_event(), StepDone)
    held = [*trainer.generator.denoiser.parameters(), *trainer.generator.autoencoder.parameters()]
    optimizers = [trainer.optimizer]
    held += [*trainer.parameters, *(p.grad for p in trainer.parameters)]
    if isinstance(trainer.teacher, CriticTeacher):
        optimizers.append(trainer.teacher.optimizer)
        held += [*trainer.teacher.parameters, *(p.grad for p in trainer.teacher.parameters)]
    held += [v for own in optimizers for state in own.state.values() for v in state.values()]
    before = Counter(tensor for tensor in held if tensor is not None).now  # what a critic leaves without a gradient
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        assert isinstance(trainer._next_event(), StepDone)
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return before + max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())))


@pytest.mark.parametrize(
    ("kind", "teacher"),
    [("head", "critic"), *(pytest.param(*p, marks=pytest.mark.slow) for p in REST)],
)
def test_what_is_counted_is_what_the_allocator_holds(kind, teacher):
    config = TrainingConfig(
        hypernetwork=kind,
        teacher=teacher,
        rank=8,
        batch_size=2,
        replay=8,
        critic_warm_up=0,
        height=128,
        width=128,
        reward_grad_clip=100.0,
        diagnostics_every=0,
    )
    counted = count(Setup(configuration=SMALL, name="small", config=config, dtype=torch.float32))
    reward = RewardEnsemble([(load_reward("redness"), 1.0)])
    assert counted.peak == pytest.approx(allocated(Trainer(build(SMALL, "small"), reward, [""], config)), rel=0.1)


def test_short_names_have_the_parameters_of_the_released_models():
    page = (Path(__file__).parents[1] / "docs" / "models.md").read_text("utf-8")
    rows = {cells[1].strip(" `"): cells[3].split() for line in page.splitlines() if len(cells := line.split("|")) == 6}
    for name, configuration in CONFIGURATIONS.items():
        number, unit = rows[name]
        with without_data():
            parameters = sum(p.numel() for p in configuration.denoiser().parameters())
        assert parameters == pytest.approx(float(number) * {"M": 1e6, "B": 1e9}[unit], rel=0.06), name


QUICK = "z-image"
"""The family whose steps need most of their own; the others are counted in CI alone."""


@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f == QUICK else pytest.mark.slow) for f in BUILDERS])
def test_every_family_is_counted_from_its_folder(family, tmp_path):
    tiny_pipeline(family).save_pretrained(tmp_path)
    config = TrainingConfig(
        hypernetwork="head", teacher="critic", batch_size=1, head_width=16, critic_width=16, critics=1, critic_steps=1,
        height=64, width=64, steps=2, diagnostics_every=0,
    )  # fmt: skip
    found = count(Setup(configuration=configuration_of(str(tmp_path)), name=family, config=config))
    assert found.parts[DENOISER][DENOISER] > 0 and found.parts[TEXT_ENCODERS][TEXT_ENCODERS] > 0
    assert found.linear > found.largest > 0


def test_a_text_encoder_holds_its_weights_once():
    with without_data():
        encoder = T5EncoderModel(T5Config(d_model=512, d_ff=1024, num_layers=8, num_heads=8, vocab_size=100))
        hidden = PROMPTS_AT_A_TIME * WINDOWS["t5"] * 1024 * 4
        assert (
            hidden < _encoding_activations(encoder) < 12 * hidden < 8 * 4 * sum(p.numel() for p in encoder.parameters())
        )


def pretended(setup: Setup) -> Count:
    """4 GiB of denoiser, 1 for a picture (a quarter when recomputed), two rewards of 2 GiB, 3 of text encoders."""
    each = GIB // 4 if setup.config.gradient_checkpointing is True else GIB
    held = Sums({DENOISER: 4 * GIB, ACTIVATIONS: each * setup.at_a_time, REWARDS: 4 * GIB, TEXT_ENCODERS: 3 * GIB})
    parts = {DENOISER: held, TEXT_ENCODERS: Sums({DENOISER: 4 * GIB, TEXT_ENCODERS: 3 * GIB})}
    return Count(parts, (2 * GIB, 2 * GIB), 0, 0).offloaded(setup.offload_rewards, setup.offload)


def run(**settings) -> Setup:
    config = TrainingConfig(hypernetwork="head", teacher="critic", batch_size=8)
    return replace(Setup(configuration=CONFIGURATIONS["sana"], name="sana", config=config), **settings)


@pytest.mark.parametrize(
    ("free", "chosen"),
    [
        (19.0, ""),
        (17.0, "offload true"),
        (13.0, "offload true, micro_batch_size 4"),
        (9.5, "offload true, micro_batch_size 1"),
        (7.5, "offload true, micro_batch_size 1, offload_rewards true"),
    ],
)
def test_settings_that_fit_are_chosen_in_order_of_the_time_they_cost(free, chosen):
    setup = run()
    known = pretended(setup)
    if chosen:
        with pytest.raises(ValueError, match=f"set {chosen}, as fit does"):
            check_fits(setup, known, free * GIB + SPARE, pretended)
    else:
        check_fits(setup, known, free * GIB + SPARE, pretended)
    plan = fit(setup, known, free * GIB + SPARE, pretended)
    assert str(plan.told) == chosen
    assert pretended(plan.setup).peak == plan.count.peak <= free * GIB


def test_a_run_that_cannot_fit_is_refused_with_what_it_needs():
    setup = run()
    with pytest.raises(ValueError, match=r"needs 4.8 GiB with all savings, most of it at the denoiser"):
        fit(setup, pretended(setup), 4.5 * GIB, pretended)


def test_text_encoders_that_change_places_with_the_rest_do_not_add_to_it():
    apart = pretended(run(offload=True))
    assert apart.parts[TEXT_ENCODERS].total() == 3 * GIB
    assert apart.peak == pretended(run()).peak - 3 * GIB


def test_packed_weights_count_as_what_they_hold_and_one_is_unpacked_at_a_time():
    held = Sums({DENOISER: 4 * GIB, ACTIVATIONS: GIB})
    plain = Count({DENOISER: held, REWARDS: held, TEXT_ENCODERS: Sums()}, (), 0, 0, 2 * GIB, GIB // 4, 2)
    packed = plain.quantized("int8")
    assert packed.parts[DENOISER] == {DENOISER: 3 * GIB, ACTIVATIONS: 1.25 * GIB}
    assert packed.parts[REWARDS] == {DENOISER: 3 * GIB, ACTIVATIONS: GIB}
    assert packed.parts[TEXT_ENCODERS].total() == 0
    assert packed.peak > plain.quantized("nf4").peak > plain.peak - 2 * GIB
    chosen = fit(run(offload=True), plain, 4.3 * GIB + SPARE, lambda setup: plain)
    assert str(chosen.told) == "quantize int8"


def test_the_estimate_loads_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(command, "_train", None)
    small = "--hypernetwork head --teacher critic --batch_size 1 --critic_steps 1 --use_checkpoint --vae_tiling"
    command.main(["--estimate", *small.split()])
    lines = capsys.readouterr().out.splitlines()
    total = next(line for line in lines if line.startswith("total"))
    assert lines[-1].startswith("peak ") and lines[-1].endswith(" GiB")
    assert float(lines[-1].split()[1]) == pytest.approx(float(total.split()[-2]), abs=0.06)
    assert any(line.startswith("--offload true ") for line in lines)
    assert not list(tmp_path.iterdir())


def test_a_run_on_a_gpu_is_refused_or_fitted_before_anything_is_loaded(monkeypatch):
    args = command.TrainArguments(model="sana", rewards="redness", prompts="none", hypernetwork="head", batch_size=8)
    monkeypatch.setattr(estimate, "count", pretended)
    monkeypatch.setattr(estimate.fit, "__defaults__", (pretended,))
    monkeypatch.setattr(estimate.check_fits, "__defaults__", (pretended,))
    said: list[str] = []
    refused = r"--model would need .* set --offload true, --micro_batch_size 4, as --fit does"
    with pytest.raises(ValueError, match=refused), command.in_arguments_of(command.TrainArguments):
        estimate.fitted(args, 13.5 * GIB, said.append, command.called)
    chosen = estimate.fitted(replace(args, fit=True), 13.5 * GIB, said.append, command.called)
    assert (chosen.offload, chosen.micro_batch_size, chosen.offload_rewards) == (True, 4, False)
    assert said[-1].startswith("--fit sets --offload true, --micro_batch_size 4; peak 12.0 GiB")


@pytest.mark.parametrize("kind", KINDS)
def test_a_judge_is_counted_as_it_runs(tmp_path, kind):
    """By its arithmetic, at the processor's own numbers of words and of pieces of a picture."""
    save_vlm(kind, tmp_path)
    reward = load_reward("vqa", judge=tmp_path)
    config, pictures, text = (
        reward.judge.model.config,
        torch.rand(2, 3, 56, 56),
        reward.encode_text(["a red square"] * 2),
    )
    ids = reward.judge._inputs(as_texts(text), pictures)["input_ids"][0]
    seen = int((ids == config.image_token_id).sum())
    side = round(seen**0.5) * config.vision_config.patch_size * config.vision_config.spatial_merge_size
    with Counter() as real:
        reward.score(pictures, text)
    with without_data():
        own = CountedJudge("vqa", judge_model(str(tmp_path)))
        words = TensorBatch({"ids": torch.ones(2, len(ids) - seen, dtype=torch.long)})
        with Counter() as counted:
            own.score(torch.rand(2, 3, side, side), words)
    assert counted.flops == pytest.approx(real.flops, rel=0.01)


def test_rewards_that_ask_one_judge_are_counted_once(tmp_path):
    save_vlm("Qwen2-VL", tmp_path)

    def weights(*names):
        with without_data():
            counter = Counter()
            for reward in build_rewards(names, (), torch.bfloat16, False, None, str(tmp_path)).rewards.values():
                counter.see(tensors_of(reward))
        return counter.now

    assert weights("vqa", "vqa-questions") == weights("vqa") > 0
    with pytest.raises(ValueError, match="judge is 'nowhere', whose configuration cannot be read"):
        build_rewards(("vqa",), (), torch.bfloat16, False, None, "nowhere")


class Peeking(Reward):
    """Its scores depend on what is in a picture."""

    name = "peeking"

    def __init__(self):
        self.model = torch.nn.Linear(1000, 1)

    def score(self, images, text):
        return torch.tensor([float(image.mean()) for image in images])


def test_loaded_models_are_counted_as_they_run_and_stay_as_they_are():
    config = TrainingConfig(
        hypernetwork="lora",
        teacher="gradient",
        rank=8,
        batch_size=2,
        height=64,
        width=64,
        diagnostics_every=0,
    )
    generator, peeking = build(SMALL, "small"), Peeking()
    before = {name: tensor.clone() for name, tensor in generator.denoiser.state_dict().items()}

    def copied(copies):
        own = copy.copy(generator)
        own.denoiser, own.autoencoder = copies.of(generator.denoiser), copies.of(generator.autoencoder)
        return countable(own)

    ensemble = RewardEnsemble([(load_reward("redness"), 1.0), (peeking, 1.0)])
    counted, unknown = count_loaded(Loaded(copied, generator.device, ensemble, "a red square"), config)
    held = size_of(list(peeking.model.parameters()))
    assert (unknown, counted.parts[counted.part][REWARDS]) == (["peeking"], held)
    trainer = Trainer(generator, RewardEnsemble([(load_reward("redness"), 1.0)]), [""], config)
    assert counted.peak - held == pytest.approx(allocated(trainer), rel=0.1)
    assert held_throughout(trainer) < counted.peak
    assert all(torch.equal(before[name], tensor) for name, tensor in generator.denoiser.state_dict().items())


def counted_by_pixels(config: TrainingConfig) -> Count:
    """2 GiB of weights, and 1 for a picture of 512 x 512: by the gradient 3, and a quarter when recomputed."""
    pictures = (config.micro_batch_size or config.batch_size) * config.height * config.width / 512**2
    each = GIB * (3 if config.teacher == "gradient" else 1) / (4 if config.gradient_checkpointing is True else 1)
    return Count({DENOISER: Sums({DENOISER: 2 * GIB, ACTIVATIONS: round(pictures * each)})}, (), 0, 0)


@pytest.mark.parametrize(
    ("free", "remedy"),
    [
        (6, "set micro_batch_size 1"),
        (4, "set micro_batch_size 1, gradient_checkpointing all"),
        (2.5, "set micro_batch_size 1, gradient_checkpointing all, teacher critic"),
        (2.1, "set .*, teacher critic, width 256 and height 256"),
        (2, "no settings help, it needs 2.6 GiB at least"),
    ],
)
def test_a_loaded_model_that_does_not_fit_is_refused_with_settings_that_would(free, remedy):
    config = TrainingConfig(hypernetwork="head", teacher="gradient", batch_size=2, height=512, width=512)
    known = counted_by_pixels(config)
    check_loaded_fits(config, known, 8 * GIB + SPARE, counted_by_pixels)
    with pytest.raises(ValueError, match=f"generator would need 8.5 GiB .* GiB are free: {remedy}"):
        check_loaded_fits(config, known, free * GIB + SPARE, counted_by_pixels)
