"""The trainer: what moves, what never does, and what it does with numbers that are not finite."""

import copy

import pytest
import torch
from toy_world import ToyGenerator

from hypernoise_core import Reward, RewardEnsemble, Trainer, TrainingConfig
from hypernoise_core.hypernetworks.lora import LoraHypernetwork
from hypernoise_core.hypernetworks.lora_clone import lora_parameters
from hypernoise_core.noise import ACCUMULATED_BATCH, derive_seed
from hypernoise_core.training import Diagnosed, NonFiniteError, StepDone, StepSkipped

SMALL = dict(rank=4, alpha=8, batch_size=2, max_steps=2, warmup_steps=0, lr=1e-3, diagnostics_every=0)


def trainer(generator, reward, prompts, **changes):
    return Trainer(generator, reward, prompts, TrainingConfig(**{**SMALL, **changes}))


@pytest.mark.parametrize("train_type", ["noise", "finetune"])
def test_lora_b_moves_after_one_step_and_base_weights_never(generator, redness, prompts, train_type):
    before = {k: v.clone() for k, v in generator.denoiser.state_dict().items()}
    t = trainer(generator, redness, prompts, train_type=train_type, max_steps=1)
    start = {k: v.clone() for k, v in t.adapter.state_dict().items()}
    events = list(t.events())
    assert [type(e) for e in events] == [StepDone]
    moved = [k for k, v in t.adapter.state_dict().items() if ".lora_B." in k and not torch.equal(v, start[k])]
    if train_type == "noise":  # the last layer is all that reaches a zero residual
        assert moved == ["proj_out.lora_B.weight"]
    else:
        assert len(moved) == sum(".lora_B." in k for k in start)
    for name, value in generator.denoiser.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_the_step_equals_plain_torch(generator, redness, prompts):
    """One SGD step of L = ½‖Δ‖² - r / α, written out."""
    t = trainer(
        generator, redness, prompts, optimizer="sgd", momentum=0.0, temperature=0.01, grad_clip=1e9, max_steps=1
    )
    with torch.no_grad():
        for name, p in lora_parameters(t.adapter.network).items():
            if ".lora_B." in name:
                p.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
    random = torch.Generator().set_state(t.random.get_state())
    seed = derive_seed(int(torch.randint(2**62, (), generator=random)), ACCUMULATED_BATCH, 0)
    rows = torch.randperm(len(prompts), generator=random)[:2].tolist()
    f = LoraHypernetwork(generator, rank=4, alpha=8)
    with torch.no_grad():
        for a, b in zip(f.parameters(), t.adapter.parameters(), strict=True):
            a.copy_(b)
    x0, conditioning = generator.noise(2, seed=seed), generator.encode([prompts[i] for i in rows])
    delta = f(x0, conditioning)
    pictures = generator.generate(x0 + delta, conditioning)
    r, g, b = pictures.mean((2, 3)).unbind(1)
    loss = (0.5 * delta.square().sum((1, 2, 3)) - (r - (g + b) / 2) / 0.01).mean()
    loss.backward()
    expected = [p.detach() - 1e-3 * p.grad for p in f.parameters()]
    (event,) = t.events()
    assert event.metrics["loss"] == pytest.approx(loss.item(), rel=1e-4)
    for got, want in zip(t.adapter.parameters(), expected, strict=True):
        assert torch.allclose(got, want, atol=1e-6)


def test_accumulation_is_a_larger_batch(generator, redness, prompts):
    """Four pictures in one pass or in two: the same gradient, since the noise is one for all."""
    settings = dict(latent_type="one", optimizer="sgd", momentum=0.0, max_steps=1)
    whole = trainer(generator, redness, prompts, batch_size=4, **settings)
    parts = trainer(generator, redness, prompts, batch_size=2, accumulation_steps=2, **settings)
    (a,), (b,) = whole.events(), parts.events()
    assert a.metrics["grad_norm"] == pytest.approx(b.metrics["grad_norm"], rel=1e-3)
    for p, q in zip(whole.adapter.parameters(), parts.adapter.parameters(), strict=True):
        assert torch.allclose(p, q, atol=1e-6)


def test_reward_rises_and_the_average_follows(generator, redness, prompts):
    t = trainer(
        generator, redness, prompts[:2], max_steps=12, temperature=0.01, latent_type="multi", ema_decay=0.9, lr=3e-3
    )
    rewards = [event.metrics["reward"] for event in t.events()]
    assert rewards[-1] > rewards[0] + 0.002
    current = copy.deepcopy(t.adapter.state_dict())
    with t.averaged() as adapter:
        averaged = copy.deepcopy(adapter.state_dict())
    assert any(not torch.equal(current[k], averaged[k]) for k in current)
    assert all(torch.equal(current[k], v) for k, v in t.adapter.state_dict().items())


def test_checkpointing_changes_nothing_but_memory(generator, redness, prompts):
    try:
        (a,) = trainer(generator, redness, prompts, max_steps=1).events()
        (b,) = trainer(generator, redness, prompts, max_steps=1, gradient_checkpointing=True).events()
    finally:
        generator.checkpoint_gradients(False)
    assert a.metrics == pytest.approx(b.metrics, rel=1e-4)


def test_a_run_repeats_with_its_seed(generator, redness, prompts):
    first, second, other = (
        [e.metrics["loss"] for e in trainer(generator, redness, prompts, seed=s).events()] for s in (1, 1, 2)
    )
    assert first == second != other


def test_diagnostics_come_every_k_steps(redness, prompts):
    events = list(trainer(ToyGenerator(), redness, prompts, max_steps=4, diagnostics_every=2).events())
    assert [type(e) for e in events] == [StepDone, StepDone, Diagnosed, StepDone, StepDone, Diagnosed]
    assert {"kl_second_order", "lipschitz", "noise_std"} <= set(events[2].metrics)


class Broken(Reward):
    """Not finite at chosen calls: in its score, or only in its gradient."""

    name = "broken"

    def __init__(self, when, gradient_only=False):
        self.when, self.gradient_only, self.calls = when, gradient_only, 0

    def score(self, images, text):
        self.calls += 1
        score = images.mean((1, 2, 3))
        if not self.when(self.calls):
            return score
        return (score - score.detach()).sqrt() if self.gradient_only else score / 0


def test_a_step_that_is_not_finite_is_skipped(generator, prompts):
    reward = RewardEnsemble([(Broken(lambda call: call in (1, 2)), 1.0)])
    t = trainer(generator, reward, prompts)
    start = copy.deepcopy(t.adapter.state_dict())
    events = t.events()
    event = next(events)
    assert isinstance(event, StepSkipped)
    assert "broken" in event.reason
    assert all(torch.equal(v, start[k]) for k, v in t.adapter.state_dict().items())
    assert [type(e) for e in events] == [StepDone, StepDone]


@pytest.mark.parametrize("gradient_only", [False, True])
def test_several_in_a_row_stop_and_name_the_reward(generator, redness, prompts, gradient_only):
    broken = Broken(lambda call: True, gradient_only)
    reward = RewardEnsemble([*((r, 1.0) for r in redness.rewards.values()), (broken, 1.0)])
    with pytest.raises(NonFiniteError, match="'broken'"):
        list(trainer(generator, reward, prompts, max_skipped=3).events())


@pytest.mark.parametrize(
    ("latent_type", "same_in_batch", "same_next_step"),
    [("inf", False, False), ("batch", True, False), ("multi", False, True), ("one", True, True)],
)
def test_latent_types(generator, redness, prompts, latent_type, same_in_batch, same_next_step):
    t = trainer(generator, redness, prompts, latent_type=latent_type)
    a = t._noise(11)
    t.step = 1
    b = t._noise(12)
    assert torch.equal(a[0], a[1]) == same_in_batch
    assert torch.equal(a, b) == same_next_step


@pytest.mark.parametrize("wrong", [dict(rank=0), dict(lr=-1.0), dict(ema_decay=1.0), dict(temperature=0.0)])
def test_settings_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        TrainingConfig(**wrong)
