"""Test-time search over starting noise, for any generator and reward: the search that a noise hypernetwork learns.

Every search takes a `start`. Pass `f.modulate`, or `partial(f.modulate, strength=1.5)`, to start from a noise
hypernetwork's noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
from torch import Tensor

from .batch import TensorBatch
from .noise import BetweenSteps, added_noise, another, with_norm_of
from .rewards import Reward, RewardEnsemble
from .settings import SettingError
from .white_noise import REACH, NoiseLimits, white_direction, white_step

if TYPE_CHECKING:  # nodes that rank pictures need no diffusers
    from .generators.base import Generator

Search = Literal["reno", "reno-white", "zero-order", "random"]
"""`reno` follows the reward's gradient. `reno-white` brings each gradient, and the noise after each step,
onto white noise near the start.
`zero-order` tries noises around the best so far, and `random` new ones: both need no gradient, of reward or model."""

GENTLE = NoiseLimits()
"""Where a search stops unless you say otherwise."""

NEAR, NEAREST, WIDER, NARROWER = 0.5, 0.02, 1.2, 0.85
"""Of `zero_order_path`: the share of new noise in a try at first and at least, and what changes it after a try that
was better, and after one that was not."""

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
    white: bool = False,
    limits: NoiseLimits | None = None,
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
        white: bring the reward's gradient onto white noise before it is followed (`white_noise.whiten`), and the noise
            after it, at the norm of the start and at most `white_noise.REACH` away, instead of regularizing that.
        limits: a noise outside of them is never the best, and the search ends once all of the batch are. A reward
            ensemble's held-out rewards count too: none may fall below what the first image got.

    Raises:
        ValueError: `iterations` is below 0, or the reward has no gradient.
    """
    _check_iterations(iterations)
    check_gradient(reward)
    with torch.no_grad():
        noise = _started(start, x0, conditioning).detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([noise], lr=lr, momentum=0.9, nesterov=True)
    begun, dim = noise.detach().clone(), math.prod(noise.shape[1:])
    guard = _Guard(reward, text, limits)
    best: Found | None = None
    for iteration in range(iterations + 1):
        last = iteration == iterations
        with torch.set_grad_enabled(not last):
            between = added_noise(between_steps, x0, noise)
            images = generator.generate(noise, conditioning, steps, seed, between=between)
            scores = reward.score(images, text)
        best = _better(best, _found(noise, images, scores, iteration), guard(noise, images))
        yield best
        if last or guard.ended:
            return
        with torch.enable_grad():
            norm = noise.flatten(1).norm(dim=1)
            unlikely = 0.0 if white else regularization * (0.5 * norm**2 - (dim - 1) * norm.log())
            (gradient,) = torch.autograd.grad((unlikely - scores).sum(), noise)
        norms = _norms(gradient)
        if white:
            gradient = white_direction(gradient)
        noise.grad = gradient * (grad_clip / norms.clamp_min(1e-12)).clamp_max(1.0)
        optimizer.step()
        if white:
            with torch.no_grad():
                noise.copy_(white_step(noise, begun, REACH))


def zero_order_path(
    generator: Generator,
    reward: Reward,
    x0: Tensor,
    conditioning: TensorBatch,
    text: TensorBatch,
    iterations: int = 50,
    steps: int = 1,
    start: Start | None = None,
    seed: int | Sequence[int] = 0,
    between_steps: BetweenSteps = "fresh",
) -> Iterator[Found]:
    """Search around the best noise so far, without gradients: yields the best after 0, 1, ... `iterations`.

    Each try is √(1 − a²)·best + a·(new noise), which is unit Gaussian noise if the best is; where the best is a moved
    noise, its norm is kept. a adapts to each picture: it grows after a try that was better and falls after one that was
    not. It costs one generation per iteration, and one more. Arguments are those of `reno_path`.

    Raises:
        ValueError: `iterations` is below 0.
    """
    _check_iterations(iterations)
    best: Found | None = None
    near = torch.full((len(x0), *[1] * (x0.dim() - 1)), NEAR, device=x0.device)
    for iteration in range(iterations + 1):
        with torch.no_grad():
            if best is None:
                noise = begun = _started(start, x0, conditioning)
            else:
                noise = (1 - near**2).sqrt() * best.x0 + near * another(x0, iteration)
                noise = with_norm_of(noise, begun)
            between = added_noise(between_steps, x0, noise)
            images = generator.generate(noise, conditioning, steps, seed, between=between)
            tried = _found(noise, images, reward.score(images, text), iteration)
            best = _better(best, tried)
            won = (best.index == iteration).view_as(near)
            near = (near * torch.where(won, WIDER, NARROWER)).clamp(NEAREST, NEAR) if iteration else near
        yield best


def random_path(
    generator: Generator,
    reward: Reward,
    x0: Tensor,
    conditioning: TensorBatch,
    text: TensorBatch,
    iterations: int = 50,
    **settings,
) -> Iterator[Found]:
    """Best-of-N of `x0` and `iterations` other noises that follow from it, each moved by `start`. Takes the other
    arguments of `best_of_path`.

    Raises:
        ValueError: `iterations` is below 0.
    """
    _check_iterations(iterations)
    noises = torch.stack([x0, *(another(x0, i) for i in range(1, iterations + 1))])
    yield from best_of_path(generator, reward, noises, conditioning, text, **settings)


def search_path(
    search: Search,
    generator: Generator,
    reward: Reward,
    x0: Tensor,
    conditioning: TensorBatch,
    text: TensorBatch,
    iterations: int = 50,
    *,
    lr: float = 5.0,
    limits: NoiseLimits | None = GENTLE,
    **settings,
) -> Iterator[Found]:
    """A search by name: yields the best so far after 0, 1, ... `iterations`, or until it overshoots.

    Args:
        lr: of `reno` and `reno-white`.
        limits: of `reno` and `reno-white`, as in `reno_path`; None for none. What the others try is drawn, and so is
            noise.
        settings: steps, start, seed, between_steps, as in `reno_path`.

    Raises:
        ValueError: no such search, `iterations` is below 0, or the search needs a gradient that the reward has not.
    """
    arguments = (generator, reward, x0, conditioning, text, iterations)
    check_search(search, reward)
    if search == "random":
        return random_path(*arguments, **settings)
    if search == "zero-order":
        return zero_order_path(*arguments, **settings)
    return reno_path(*arguments, lr=lr, white=search == "reno-white", limits=limits, **settings)


def check_search(search: Search, reward: Reward) -> None:
    """Check, before anything is computed, that there is such a search and that it can go by the reward.

    Raises:
        ValueError: there is none, or it needs a gradient that the reward has not.
    """
    if search not in get_args(Search):
        raise SettingError("{search} is {!r}: choose from {}", search, ", ".join(get_args(Search)))
    if search.startswith("reno"):
        check_gradient(reward)


def check_gradient(reward: Reward) -> None:
    """
    Raises:
        ValueError: it has none; the message says how to search without one.
    """
    if not reward.differentiable:
        rewards = reward.rewards.values() if isinstance(reward, RewardEnsemble) else [reward]
        raise SettingError(
            "{reward} {} has no gradient, which ReNO follows: search without one ({search} zero-order or random), "
            "rank images by it (Best-of-N), or train a head with {teacher} critic on it and {refine} by that",
            ", ".join(own.name for own in rewards if not own.differentiable),
        )


class _Guard:
    """Says which noises of a search may still be the best. One that has left the limits stays out."""

    def __init__(self, reward: Reward, text: TensorBatch, limits: NoiseLimits | None):
        self.limits, self._text = limits, text
        self._reward = reward if limits and isinstance(reward, RewardEnsemble) and reward.held_out else None
        self._begun: Tensor | None = None
        self._at_first: dict[str, Tensor] = {}
        self._inside = torch.tensor(True)

    @property
    def ended(self) -> bool:
        return not bool(self._inside.any())

    @torch.no_grad()
    def __call__(self, noise: Tensor, images: Tensor) -> Tensor:
        """[B], of the iterates `noise` and their `images`; the first call is the start's, which is inside."""
        first = self._begun is None
        if self._begun is None:
            self._begun, self._inside = noise.detach().clone(), torch.ones(len(noise), device=noise.device).bool()
        held_out = self._held_out(images)
        if first:
            self._at_first = held_out
        elif self.limits is not None:
            self._inside = self._inside & self.limits.inside(noise, self._begun)
            for name, scores in held_out.items():
                self._inside = self._inside & (scores >= self._at_first[name])
        return self._inside

    def _held_out(self, images: Tensor) -> dict[str, Tensor]:
        return self._reward.scores(images, self._text, self._reward.held_out) if self._reward else {}


def _check_iterations(iterations: int) -> None:
    if iterations < 0:
        raise SettingError("{iterations} is {}: give at least 0", iterations)


def _norms(x: Tensor) -> Tensor:
    """[B, 1, 1, 1]"""
    return x.detach().flatten(1).norm(dim=1).view(-1, 1, 1, 1)


def _started(start: Start | None, x0: Tensor, conditioning: TensorBatch) -> Tensor:
    return x0 if start is None else start(x0, conditioning)


def _found(x0: Tensor, images: Tensor, scores: Tensor, index: int) -> Found:
    scores = scores.detach()
    return Found(x0.detach().clone(), images.detach(), scores, torch.full_like(scores, index, dtype=torch.long))


def _better(a: Found | None, b: Found, inside: Tensor | None = None) -> Found:
    """Row by row, the one with the higher score. A score that is not finite never wins, nor does `b` where it is not
    `inside`, [B]."""
    if a is None:
        return b
    take = (b.scores > a.scores) | ~a.scores.isfinite()
    if inside is not None:
        take = take & inside
    rows = take.view(-1, 1, 1, 1)
    return Found(
        torch.where(rows, b.x0, a.x0),
        torch.where(rows, b.images, a.images),
        torch.where(take, b.scores, a.scores),
        torch.where(take, b.index, a.index),
    )
