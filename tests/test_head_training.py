"""Training of heads, and of either kind on its own iterates, coarsely seen, or from another hypernetwork."""

import pytest
import torch
from conftest import randomized, randomized_head

from hypernoise_core import HeadHypernetwork, LoraHypernetwork, Trainer, TrainingConfig, load_hypernetwork
from hypernoise_core.diagnostics import local_lipschitz
from hypernoise_core.hypernetworks.base import coarse, spread, with_norm_of
from hypernoise_core.noise import DIAGNOSTICS, derive_seed
from hypernoise_core.training import StepDone

SMALL = dict(
    hypernetwork="head", head_width=32, head_depth=1, rank=4, alpha=8, batch_size=4, max_steps=2, warmup_steps=0,
    diagnostics_every=0, temperature=0.01,
)  # fmt: skip
KINDS = ["head", "lora"]


def trainer(generator, reward, prompts, **changes):
    return Trainer(generator, reward, prompts, TrainingConfig(**{**SMALL, **changes}))


def as_if_trained(made):
    """A trainer whose hypernetwork is not zero."""
    (randomized_head if isinstance(made.adapter, HeadHypernetwork) else randomized)(made.adapter)
    return made


def metrics(made):
    return [event.metrics for event in made.events() if isinstance(event, StepDone)]


def test_ten_steps_raise_the_reward_and_leave_the_generator_alone(generator, redness, prompts):
    before = {name: value.clone() for name, value in generator.denoiser.state_dict().items()}
    made = trainer(generator, redness, prompts[:2], max_steps=10, latent_type="multi", lr=3e-3)
    rewards = [step["reward"] for step in metrics(made)]
    assert rewards[-1] > rewards[0] + 0.01
    for name, value in generator.denoiser.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert not any(p.requires_grad or p.grad is not None for p in generator.denoiser.parameters())


@pytest.mark.parametrize("checkpointing", [False, "hypernetwork"])
def test_no_gradient_goes_through_the_call_that_is_read(generator, redness, prompts, checkpointing):
    """Of the denoiser's calls in a step, the last makes the picture and carries a gradient; no reading does."""
    calls, changes = [], dict(iterations=3, gradient_checkpointing=checkpointing)
    made = as_if_trained(trainer(generator, redness, prompts, max_steps=4, lr=1e-9, **changes))
    handle = generator.denoiser.register_forward_hook(lambda *call: calls.append(call[2][0].requires_grad))
    try:
        steps = metrics(made)
    finally:
        handle.remove()
    assert all(step["grad_norm"] > 0 for step in steps)
    assert sum(calls) == len(steps)
    assert len(calls) > 2 * len(steps)


def test_the_base_is_the_first_picture_and_the_out_layer_the_first_to_move(generator, redness, prompts):
    made = trainer(generator, redness, prompts, max_steps=1)
    start = {name: value.clone() for name, value in made.adapter.state_dict().items()}
    (step,) = metrics(made)
    assert step["kl"] < 1e-9
    moved = {name for name, value in made.adapter.state_dict().items() if not torch.equal(value, start[name])}
    assert moved == {"out.weight", "out.bias"}


@pytest.mark.parametrize("kind", KINDS)
def test_readings_are_drawn_evenly(generator, redness, prompts, kind):
    """One that is told has 1, 2 or 3 readings in all equally often, and learns at any of them; one that is not sees
    each of its iterates equally often. A picture never has none to come."""
    made = trainer(generator, redness, prompts, hypernetwork=kind, iterations=3, batch_size=6000)
    before, remaining = made._readings()
    assert remaining.min() == 1
    assert before.min() == 0
    total = before + remaining
    if kind == "lora":
        assert (total == 3).all()
        shares = torch.bincount(before) / len(before)
        assert torch.allclose(shares, torch.full((3,), 1 / 3), atol=0.03)
    else:
        assert torch.allclose(torch.bincount(total)[1:] / len(total), torch.full((3,), 1 / 3), atol=0.03)
        for count in (2, 3):
            shares = torch.bincount(before[total == count]) / (total == count).sum()
            assert torch.allclose(shares, torch.full((count,), 1 / count), atol=0.04)
    one = trainer(generator, redness, prompts, hypernetwork=kind)
    assert [drawn.tolist() for drawn in one._readings()] == [[0] * 4, [1] * 4]


@pytest.mark.parametrize("kind", KINDS)
def test_each_picture_starts_after_its_own_readings(generator, redness, prompts, kind):
    """As `modulate` makes them, one by one: a head is told what is still to come, and keeps the norm."""
    made = as_if_trained(trainer(generator, redness, prompts, hypernetwork=kind, iterations=4, batch_size=8))
    (part,) = made._draw(5)
    assert part.before.max() > 1
    starts = made._read_before(made.adapter, part)
    for i in range(len(starts)):
        x0, c = part.x0[i : i + 1], part.conditioning.rows([i])
        before, remaining, x = int(part.before[i]), int(part.remaining[i]), x0
        with torch.no_grad():
            for done in range(before):
                x = x + made.adapter(x, c, before + remaining - done)
                x = with_norm_of(x, x0) if kind == "head" else x
            if kind == "lora":
                assert torch.equal(made.adapter.modulate(x0, c, iterations=before), x)
        assert torch.allclose(starts[i], x[0], atol=1e-4 * x.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
def test_the_step_is_that_of_plain_torch_on_an_iterate(generator, redness, prompts, kind):
    """The KL is that of the whole way from x0; the gradient that of the last reading alone."""
    made = as_if_trained(trainer(generator, redness, prompts, hypernetwork=kind, iterations=3, max_steps=1))
    drawn, draw = [], made._draw
    made._draw = lambda seed: (drawn.append(part) or part for part in draw(seed))
    (step,) = metrics(made)
    (part,) = drawn
    assert part.before.max() > 0
    f = as_if_trained(trainer(generator, redness, prompts, hypernetwork=kind)).adapter
    x = made._read_before(f, part)
    moved = x + f(x, part.conditioning, part.remaining)
    moved = with_norm_of(moved, part.x0) if kind == "head" else moved
    kl = 0.5 * (moved - part.x0).square().sum((1, 2, 3))
    r, g, b = generator.generate(moved, part.conditioning).mean((2, 3)).unbind(1)
    loss = (kl - (r - (g + b) / 2) / 0.01).mean()
    gradients = torch.autograd.grad(loss, list(f.parameters()), allow_unused=True)
    norm = torch.stack([gradient.norm() for gradient in gradients if gradient is not None]).norm()
    assert step["kl"] == pytest.approx(kl.mean().item(), rel=1e-4)
    assert step["loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert step["grad_norm"] == pytest.approx(norm.item(), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_distillation_comes_closer_and_then_follows_the_reward(generator, redness, prompts, tmp_path, kind):
    """From a LoRA's file or from a head's; while it lasts nothing is drawn and no reward is asked."""
    model = LoraHypernetwork(generator, rank=4, alpha=8) if kind == "lora" else HeadHypernetwork.new(generator, 32, 1)
    (randomized if kind == "lora" else randomized_head)(model).save(tmp_path / "a.safetensors")
    changes = dict(
        distill=str(tmp_path / "a.safetensors"), distill_steps=14, max_steps=15, lr=5e-3, latent_type="multi"
    )
    made = trainer(generator, redness, prompts[:2], **changes)
    *steps, last = metrics(made)
    errors = [step["distill_error"] for step in steps]
    assert errors[0] == pytest.approx(1, abs=1e-3)
    assert errors[-1] < 0.8
    assert "reward" not in steps[0]
    assert {"reward", "kl"} <= set(last)
    assert "distill_error" not in last


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_computed_again_changes_nothing(generator, redness, prompts, kind):
    """Numbers, weights and draws with f's activations kept, and with them made again in the backward pass."""
    runs = [
        as_if_trained(trainer(generator, redness, prompts, hypernetwork=kind, iterations=3, gradient_checkpointing=how))
        for how in (False, "hypernetwork")
    ]
    kept, again = map(metrics, runs)
    for a, b in zip(kept, again, strict=True):
        assert a == pytest.approx(b, rel=1e-4, abs=1e-6)
    for a, b in zip(*(run.parameters for run in runs), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_diagnostics_are_of_the_noise_that_pictures_start_from(generator, redness, prompts, monkeypatch):
    """After all of its readings, at the norm of the noise that was drawn."""
    measured, place = [], "hypernoise_core.training.trainer."
    monkeypatch.setattr(place + "noise_statistics", lambda moved: measured.append(moved) or {})
    monkeypatch.setattr(place + "local_lipschitz", lambda f, x, seed: local_lipschitz(f, x, 1, seed))
    made = as_if_trained(trainer(generator, redness, prompts, batch_size=1, iterations=2))
    told = made.diagnose()
    assert told["lipschitz"] > 0
    assert told["kl_second_order"] != 0
    x0 = generator.noise(1, seed=derive_seed(0, DIAGNOSTICS, 0))
    assert measured[0].norm().item() == pytest.approx(x0.norm().item(), rel=1e-5)
    assert not torch.allclose(measured[0], x0, atol=1e-2)


def test_coarse_and_spread_are_transposes_and_coarse_noise_is_unit_noise():
    x = torch.randn(64, 16, 8, 12, generator=torch.Generator().manual_seed(0))
    for k in (1, 2, 4):
        y = torch.randn(64, 16, 8 // k, 12 // k, generator=torch.Generator().manual_seed(k))
        assert (coarse(x, k) * y).sum() == pytest.approx((x * spread(y, k)).sum().item(), abs=0.05)
        assert torch.allclose(coarse(spread(y, k), k), y, atol=1e-6)
        assert coarse(x, k).std() == pytest.approx(1, abs=0.02)
        assert spread(y, k).square().sum() == pytest.approx(y.square().sum().item(), rel=1e-5)  # KL is kept too
    with pytest.raises(ValueError, match=r"coarsen is 3, and latents of 12x8 cells"):
        coarse(x, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_coarse_hypernetwork_is_trained_and_saved_as_one(generator, redness, prompts, tmp_path, kind):
    made = as_if_trained(trainer(generator, redness, prompts, hypernetwork=kind, coarsen=2, iterations=2))
    assert len(metrics(made)) == 2
    made.save(tmp_path / "a.safetensors")
    again = load_hypernetwork(generator, tmp_path / "a.safetensors")
    assert again.coarsen == 2
    x0, conditioning = generator.noise(2, seed=1), generator.encode(prompts[:2])
    with torch.no_grad():
        delta = again(x0, conditioning)
        assert torch.equal(delta, made.adapter(x0, conditioning))
        assert torch.equal(delta, spread(again.residual(coarse(x0, 2), conditioning), 2))
    assert delta.shape == x0.shape
    assert delta.std() > 0
    again.save(tmp_path / "b.safetensors")
    assert load_hypernetwork(generator, tmp_path / "b.safetensors").coarsen == 2
    with pytest.raises(ValueError, match="coarsen is 2, and latents of 9x8 cells"):
        again(torch.randn(1, 16, 8, 9), conditioning.rows([0]))


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(hypernetwork="tree"), "hypernetwork is 'tree'"),
        (dict(coarsen=3), "coarsen is 3, and pictures are 64x64"),
        (dict(coarsen=2, height=72, width=64), "coarsen is 2, and pictures are 64x72"),
        (dict(distill="nowhere.safetensors", distill_steps=1), "distill: .*nowhere.safetensors"),
        (dict(distill="a.safetensors", distill_steps=2), "distill_steps is 2 of max_steps 2"),
        (dict(head_reads="prediction", warm_start_pictures=8), "warm_start_pictures is set"),
        (dict(hypernetwork="lora", coarsen=2, warm_start_pictures=8), "warm_start_pictures is set"),
        (dict(train_type="finetune", iterations=3), "iterations"),
        (dict(train_type="finetune", coarsen=2), "coarsen"),
        (dict(distill="a.safetensors"), "distill_steps"),
        (dict(distill_steps=1), "distill_steps"),
        (dict(head_width=50), "head_width is 50"),
        (dict(iterations=0), "iterations is 0"),
    ],
)
def test_settings_that_contradict_one_another_are_named(generator, redness, prompts, wrong, words):
    with pytest.raises(ValueError, match=words):
        trainer(generator, redness, prompts, **wrong)
