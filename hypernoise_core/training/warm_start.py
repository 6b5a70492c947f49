"""The warm start of a LoRA: its last layer is fitted in closed form to the teacher's gradients, then shortened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from ..generators.base import Generator
from ..noise import added_noise
from ..objective import PerSampleClip, kl_l2
from ..rewards import RewardEnsemble
from . import processes
from .config import TrainingConfig
from .teachers import Lesson, Teacher

if TYPE_CHECKING:  # ComfyUI trains heads without peft
    from ..hypernetworks.warm_start import LastLayerRegression

STEP_LENGTHS = (0.0, 0.06, 0.12, 0.25, 0.5, 1.0)
"""What the line search tries; 0 leaves the hypernetwork at zero."""

SEARCH_BATCHES = 12
"""Batches that the line search compares lengths on."""


def add_batch(
    regression: LastLayerRegression, teacher: Teacher, parts: Iterable[Lesson], config: TrainingConfig
) -> None:
    """Add the gradients of a batch, in micro-batches, to what is fitted."""
    for part in parts:
        start = part.x0.detach().requires_grad_()
        value = teacher.judge(
            PerSampleClip(config.reward_grad_clip, white=config.white_gradient).attach(start), part
        ).value
        (ascent,) = torch.autograd.grad(value.sum() / config.temperature, start)
        if ascent.isfinite().all():  # the first training step will name the reward at fault
            regression.add(part.x0, part.conditioning, ascent)


def solve(
    regression: LastLayerRegression,
    generator: Generator,
    reward: RewardEnsemble,
    config: TrainingConfig,
    draw: Callable[[], Iterator[Lesson]],
) -> None:
    """Fit the last layer, and scale it by the best of `STEP_LENGTHS`. What was added is as before if it fails.

    Args:
        draw: a new batch, in micro-batches.
    """
    gram, cross = regression.gram.clone(), regression.cross.clone()
    try:
        processes.sum_([regression.gram, regression.cross])
        regression.solve_()
        losses = _losses(regression, generator, reward, config, draw)
        regression.scale_(STEP_LENGTHS[int(losses.argmin())])
    except BaseException:
        regression.gram, regression.cross = gram, cross
        raise


@torch.no_grad()
def _losses(
    regression: LastLayerRegression,
    generator: Generator,
    reward: RewardEnsemble,
    config: TrainingConfig,
    draw: Callable[[], Iterator[Lesson]],
) -> torch.Tensor:
    """The objective at each length: the fit is exact only where residuals are small."""
    losses = torch.zeros(len(STEP_LENGTHS), device=generator.device)
    for _ in range(SEARCH_BATCHES):
        for part in draw():
            delta = regression.hypernetwork(part.x0, part.conditioning)
            for i, length in enumerate(STEP_LENGTHS):
                start = part.x0 + length * delta
                between = added_noise(config.between_steps, part.x0, start)
                images = generator.generate(start, part.conditioning, config.steps, part.seeds, between=between)
                kl = kl_l2(length * delta, config.kl_reduction)
                losses[i] += (kl - reward.score(images, part.text) / config.temperature).sum()
    processes.sum_([losses])
    return losses
