"""Test-time search over starting noise, for any generator and reward: the search that a noise hypernetwork learns.

Both searches take a `start`. Pass `f.modulate`, or `partial(f.modulate, strength=1.5)`, to start from a noise
hypernetwork's noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .batch import TensorBatch
from .noise import BetweenSteps, added_noise
from .rewards import Reward
from .settings import SettingError

if TYPE_CHECKING:  # nodes that rank pictures need no diffusers
    from .generators.base import Generator

Start = Callable[[Tensor, TensorBatch], Tensor]
"""(noise [B, C, h, w], conditioning) -> the noise of the same shape that a search starts from."""


@dataclass(frozen=True)
class Found:
    """The best of a search, without gradients: noise [B, C, h, w] that the generator started from, images [B, 3, H, W],
    their scores [B], and the index of the candidate or iteration, [B]."""

    x0: Tensor
    images: Tensor
    scores: Tensor
    index: Tensor


def best_of_n(
    generator: Generator,
    reward: Reward,
    x0: Tensor,
    conditioning: TensorBatch,
    text: TensorBatch,
    steps: int = 1,
    start: Start | None = None,
    seed: int | Sequence[int] = 0,
    between_steps: BetweenSteps = "fresh",
) -> Found:
    """Generate from each of `n` noises per prompt and keep the best. Returns the last value of `best_of_path`.

    Args:
        x0: [n, B, C, h, w].
        conditioning, text: of the B prompts.
        start: moves each noise before generation, for one more call per candidate. By default the noise stays as it is.
        seed: of the noise that some families add between steps, the same for every candidate; one, or one per prompt.
        between_steps: what they add instead. `keep-moved` is the noise that `start` has moved.

    Raises:
        ValueError: `x0` is empty.
    """
    *_, best = best_of_path(generator, reward, x0, conditioning, text, steps, start, seed, between_steps)
    return best


def best_of_path(
    generator: Generator,
    reward: Reward,
    x0: Tensor,
    conditioning: TensorBatch,
    text: TensorBatch,
    steps: int = 1,
    start: Start | None = None,
    seed: int | Sequence[int] = 0,
    between_steps: BetweenSteps = "fresh",
) -> Iterator[Found]:
    """Best-of-N, candidate by candidate: yields the best of the first 1, 2, ... n. Arguments and errors are those of
    `best_of_n`."""
    if not len(x0):
        raise ValueError("x0 is empty: best_of_n needs at least one noise")
    best: Found | None = None
    for index, noise in enumerate(x0):
        with torch.no_grad():
            moved = _started(start, noise, conditioning)
            between = added_noise(between_steps, noise, moved)
            images = generator.generate(moved, conditioning, steps, seed, between=between)
            best = _better(best, _found(moved, images, reward.score(images, text), index))
        yield best


def ranking(scores: Tensor) -> Tensor:
    """Indices [N] from the best of `scores` [N] to the worst. Ties keep their order; scores that are not finite come
    last."""
    return torch.where(scores.isfinite(), scores, -torch.inf).argsort(descending=True, stable=True)


def reno(
    generator: Generator,
    reward: Reward,
    x0: Tensor,
    conditioning: TensorBatch,
    text: TensorBatch,
    iterations: int = 50,
    **settings,
) -> Found:
    """Reward-based noise optimization (Eyring et al. 2024, arXiv 2406.04312): gradient ascent on each noise, keeping
    the best.

    Returns the last value of `reno_path` and takes the same `settings`.
    """
    *_, best = reno_path(generator, reward, x0, conditioning, text, iterations, **settings)
    return best


def reno_path(
    generator: Generator,
    reward: Reward,
    x0: Tensor,
    conditioning: TensorBatch,
    text: TensorBatch,
    iterations: int = 50,
    lr: float = 5.0,
    regularization: float = 0.01,
    grad_clip: float = 0.1,
    steps: int = 1,
    start: Start | None = None,
    seed: int | Sequence[int] = 0,
    between_steps: BetweenSteps = "fresh",
) -> Iterator[Found]:
    """ReNO, iteration by iteration: yields the best so far after 0, 1, ... `iterations`. You may stop at any time.

    Nesterov SGD (momentum 0.9) on −r plus `regularization` times the negative log-likelihood of the noise's norm under
    the χ distribution. Gradients are clipped to `grad_clip` per sample. Defaults are the paper's. It costs one
    generation and one backward pass per iteration, and one more generation. The first image is the unoptimized one.

    Args:
        start: where the ascent begins, such as a hypernetwork's `modulate`: one call without gradients. By default x0
            itself.
        seed: of the noise that some families add between steps, the same in every iteration; one, or one per prompt.
        between_steps: what they add instead. `keep` is x0; `keep-moved` is the noise that the ascent has reached.

    Raises:
        ValueError: `iterations` is below 0, or the reward has no gradient.
    """
    if iterations < 0:
        raise SettingError("{iterations} is {}: give at least 0", iterations)
    if not reward.differentiable:
        raise SettingError(
            "{reward} {!r} has no gradient, which ReNO follows: rank images by it (Best-of-N), or train a head with "
            "{teacher} critic on it and refine by that",
            reward.name,
        )
    with torch.no_grad():
        noise = _started(start, x0, conditioning).detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([noise], lr=lr, momentum=0.9, nesterov=True)
    dim = math.prod(noise.shape[1:])
    best: Found | None = None
    for iteration in range(iterations + 1):
        last = iteration == iterations
        with torch.set_grad_enabled(not last):
            between = added_noise(between_steps, x0, noise)
            images = generator.generate(noise, conditioning, steps, seed, between=between)
            scores = reward.score(images, text)
        best = _better(best, _found(noise, images, scores, iteration))
        yield best
        if last:
            return
        with torch.enable_grad():
            norm = noise.flatten(1).norm(dim=1)
            loss = (regularization * (0.5 * norm**2 - (dim - 1) * norm.log()) - scores).sum()
        (gradient,) = torch.autograd.grad(loss, noise)
        norms = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        noise.grad = gradient * (grad_clip / norms.clamp_min(1e-12)).clamp_max(1.0)
        optimizer.step()


def _started(start: Start | None, x0: Tensor, conditioning: TensorBatch) -> Tensor:
    return x0 if start is None else start(x0, conditioning)


def _found(x0: Tensor, images: Tensor, scores: Tensor, index: int) -> Found:
    scores = scores.detach()
    return Found(x0.detach().clone(), images.detach(), scores, torch.full_like(scores, index, dtype=torch.long))


def _better(a: Found | None, b: Found) -> Found:
    """Row by row, the one with the higher score. A score that is not finite never wins."""
    if a is None:
        return b
    take = (b.scores > a.scores) | ~a.scores.isfinite()
    rows = take.view(-1, 1, 1, 1)
    return Found(
        torch.where(rows, b.x0, a.x0),
        torch.where(rows, b.images, a.images),
        torch.where(take, b.scores, a.scores),
        torch.where(take, b.index, a.index),
    )
