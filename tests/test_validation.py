"""Held-out prompts and rewards: measured alike each time, and reasons to stop."""

from dataclasses import replace

import pytest
import torch
from conftest import randomized, randomized_head

from hypernoise_core import Reward, RewardEnsemble, Trainer, TrainingConfig
from hypernoise_core.evaluation.thumbnails import pixel_diversity
from hypernoise_core.rewards.redness import Redness
from hypernoise_core.training import EarlyStop, Validated
from hypernoise_core.training.validation import FIRST_SEED, SEEDS

SMALL = dict(rank=4, alpha=8, batch_size=4, max_steps=6, warmup_steps=0, lr=1e-3, diagnostics_every=0)


class Dark(Reward):
    """Never trained on; what redness likes costs it."""

    name = "dark"

    def score(self, images, text):
        return -images.mean((1, 2, 3))


def validations(trainer):
    return [event for event in trainer.events() if isinstance(event, (Validated, EarlyStop))]


def test_numbers_are_those_of_plain_pictures(generator, prompts):
    reward = RewardEnsemble([(Redness(), 2.0)], held_out=[Dark()])
    config = TrainingConfig(**{**SMALL, "max_steps": 1}, validate_every=1)
    trainer = Trainer(generator, reward, prompts[:4], config, validation_prompts=prompts[4:])
    (event,) = validations(trainer)
    texts = [text for text in prompts[4:] for _ in range(SEEDS)]
    x0 = torch.cat([generator.noise(1, seed=FIRST_SEED + i) for i in range(len(texts))])
    conditioning = generator.encode(texts)
    with torch.no_grad():
        after = trainer.adapter.generate(x0, conditioning)
        before = generator.generate(x0, conditioning)
    r, g, b = after.mean((2, 3)).unbind(1)
    assert event.metrics["validation/redness"] == pytest.approx((r - (g + b) / 2).mean().item(), abs=1e-5)
    assert event.metrics["validation/reward"] == pytest.approx(2 * event.metrics["validation/redness"], abs=1e-5)
    dark = [-pictures.mean((1, 2, 3)) for pictures in (before, after)]
    gain = (dark[1].mean() - dark[0].mean()) / dark[0].std()
    assert event.metrics["validation/score"] == pytest.approx(gain.item(), abs=1e-4)
    expected = sum(pixel_diversity(group) for group in after.split(SEEDS)) / (len(texts) // SEEDS)
    assert event.metrics["validation/diversity"] == pytest.approx(expected, abs=1e-5)
    assert event.best


@pytest.mark.parametrize("kind", ["head", "lora"])
def test_an_adapter_is_measured_with_the_readings_that_it_is_trained_for(generator, redness, prompts, kind):
    config = TrainingConfig(**SMALL, hypernetwork=kind, head_width=32, head_depth=1, iterations=3)
    config = replace(config, steps=2, between_steps="keep-moved")
    trainer = Trainer(generator, redness, prompts[:4], config, validation_prompts=prompts[4:])
    (randomized_head if kind == "head" else randomized)(trainer.adapter)
    metrics, _ = trainer.validation.measure(trainer.adapter)
    texts = [text for text in prompts[4:] for _ in range(SEEDS)]
    seeds = [FIRST_SEED + i for i in range(len(texts))]
    x0, conditioning = torch.cat([generator.noise(1, seed=s) for s in seeds]), generator.encode(texts)
    how = dict(steps=2, seed=seeds, between_steps="keep-moved")
    with torch.no_grad():
        redness_of = {i: score(trainer.adapter.generate(x0, conditioning, **how, iterations=i)) for i in (1, 3)}
        base = score(generator.generate(x0, conditioning, 2, seeds, between=x0))
    assert metrics["validation/redness"] == pytest.approx(redness_of[3], abs=1e-5)
    assert abs(redness_of[3] - redness_of[1]) > 1e-4
    assert trainer.validation.progress.base["validation/redness"] == pytest.approx(base, abs=1e-5)


def score(images):
    r, g, b = images.mean((2, 3)).unbind(1)
    return (r - (g + b) / 2).mean().item()


def test_diversity_is_the_distance_between_pictures():
    black, white = torch.zeros(1, 3, 32, 32), torch.ones(1, 3, 32, 32)
    assert pixel_diversity(torch.cat([black, black])) == 0
    assert pixel_diversity(torch.cat([black, black, white])) == pytest.approx(2 / 3)


def measured(trainer, monkeypatch, rows):
    """Lets validation find these (score, diversity) one after the other."""
    found = iter(rows)

    def measure(adapter, critic=None):
        score, spread = next(found)
        trainer.validation.progress.base = {"validation/diversity": 1.0}
        metrics = {"validation/score": score, "validation/diversity": spread}
        return metrics, score > trainer.validation.progress.best_score

    monkeypatch.setattr(trainer.validation, "measure", measure)
    return validations(trainer)


@pytest.mark.parametrize(
    ("settings", "rows", "step", "words"),
    [
        (dict(patience=2), [(0.1, 1), (0.3, 1), (0.2, 1), (0.25, 1), (9, 1)], 4, "0.3 of step 2 for 2 validations"),
        (dict(diversity_floor=0.8), [(0.1, 0.9), (0.2, 0.79), (9, 1)], 2, "below 0.8 of the base's 1"),
    ],
)
def test_a_run_stops_early_and_says_why(generator, redness, prompts, monkeypatch, settings, rows, step, words):
    config = TrainingConfig(**SMALL, validate_every=1, **settings)
    trainer = Trainer(generator, redness, prompts[:4], config, validation_prompts=prompts[4:])
    *before, last = measured(trainer, monkeypatch, rows)
    assert len(before) == step
    assert isinstance(last, EarlyStop)
    assert words in last.reason
    assert trainer.finished
    assert trainer.step == step


def test_validation_without_prompts_is_refused(generator, redness, prompts):
    with pytest.raises(ValueError, match="validate_every is set without prompts"):
        Trainer(generator, redness, prompts, TrainingConfig(**SMALL, validate_every=1))
    with pytest.raises(ValueError, match="validate_every is 0"):
        TrainingConfig(patience=1)
