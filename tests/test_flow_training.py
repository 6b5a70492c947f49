"""Rectified flows of the modern families: they train, and a number of steps without a schedule is refused first."""

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from tiny_pipelines import PROMPTS, tiny_generator, tiny_pipeline

from hypernoise_core import HeadHypernetwork, LoraHypernetwork, RewardEnsemble, Trainer, TrainingConfig, load_reward
from hypernoise_core.hypernetworks import load_hypernetwork
from train import __main__ as train_command
from train import evaluate, generate

FAMILIES = ["z-image", "flux2-klein", "qwen-image", "krea2", "sd3"]
SMALL = {
    "batch_size": 2, "max_steps": 1, "height": 32, "width": 64, "rank": 4, "alpha": 8.0, "head_width": 32,
    "head_depth": 1, "critic_width": 32, "critic_depth": 1, "critic_warm_up": 4, "replay": 8, "diagnostics_every": 0,
    "warmup_steps": 0,
}  # fmt: skip


def redness():
    return RewardEnsemble([(load_reward("redness"), 1.0)])


@pytest.mark.parametrize(("kind", "teacher", "steps"), [("head", "critic", 4), ("lora", "gradient", 2)])
@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_moves_the_hypernetwork_which_loads_again(family, kind, teacher, steps, tmp_path):
    generator = tiny_generator(family)
    before = {name: value.clone() for name, value in generator.denoiser.state_dict().items()}
    config = TrainingConfig(hypernetwork=kind, teacher=teacher, steps=steps, **SMALL)
    trainer = Trainer(generator, redness(), PROMPTS, config)
    list(trainer.events())
    trainer.save(tmp_path / "f.safetensors")
    f = load_hypernetwork(generator, tmp_path / "f.safetensors")
    assert isinstance(f, {"head": HeadHypernetwork, "lora": LoraHypernetwork}[kind])
    x0, conditioning = generator.noise(2, 32, 64, seed=1), generator.encode(PROMPTS[:2])
    with torch.no_grad():
        moved = f(x0, conditioning)
        assert moved.abs().max() > 0
        assert torch.allclose(moved, trainer.adapter(x0, conditioning), atol=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in generator.denoiser.state_dict().items())


@pytest.fixture(scope="module")
def terminal(tmp_path_factory):
    """The folder of a pipeline whose last noise level is set, as Qwen-Image's is."""
    pipeline = tiny_pipeline("qwen-image")
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)
    pipeline.register_modules(scheduler=scheduler)
    folder = tmp_path_factory.mktemp("models") / "terminal"
    pipeline.save_pretrained(folder)
    return folder


def terminal_generator():
    generator = tiny_generator("qwen-image")
    generator.pipeline.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift_terminal=0.02)
    return generator


def test_one_step_without_a_schedule_is_refused_before_any_call(monkeypatch):
    generator = terminal_generator()
    x0, conditioning = generator.noise(1, 32, 32), generator.encode(PROMPTS[:1])
    assert generator.generate(x0, conditioning, 2).isfinite().all()
    assert generator.read(x0, conditioning).prediction.isfinite().all()  # pure noise is a noise level of its own
    monkeypatch.setattr(generator.denoiser, "forward", lambda *args, **kwargs: pytest.fail("the denoiser was called"))
    for run in (generator.generate, lambda *args: generator.denoise(*args, seed=0)):
        with pytest.raises(ValueError, match=r"steps is 1, and tiny-qwen-image has no schedule .*0\.02.*at least 2"):
            run(x0, conditioning, 1)
    monkeypatch.setattr(generator, "encode", lambda prompts: pytest.fail("prompts were encoded"))
    with pytest.raises(ValueError, match="steps is 1, and tiny-qwen-image has no schedule"):
        Trainer(generator, redness(), PROMPTS, TrainingConfig(steps=1, **SMALL))


@pytest.mark.parametrize(
    ("main", "options"),
    [
        (train_command.main, ["--rewards=redness", "--prompts=prompts.txt", "--height=32", "--width=32"]),
        (generate.main, ["--prompt=a cross", "--height=32", "--width=32"]),
        (evaluate.main, ["--benchmark=geneval", "--steps=2,1", "--score=false", "--height=32", "--width=32"]),
    ],
)
def test_commands_refuse_it_before_they_write(main, options, terminal, tmp_path, geneval_prompts, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if main is evaluate.main:
        options = [*options, f"--prompts_dir={geneval_prompts}"]
    with pytest.raises(ValueError, match="--steps is 1, and terminal has no schedule of so many"):
        main([f"--model={terminal}", f"--save_dir={tmp_path / 'out'}", *options])
    assert not list((tmp_path / "out").rglob("*.png"))


@pytest.fixture
def geneval_prompts(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cross")
    (tmp_path / "prompts").mkdir()
    line = '{"tag": "single_object", "include": [{"class": "bench", "count": 1}], "prompt": "a photo of a bench"}\n'
    (tmp_path / "prompts" / "evaluation_metadata.jsonl").write_text(line)
    return tmp_path / "prompts"
