"""Pictures by any adapter, or by none: what commands, benchmarks and searches share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..batch import TensorBatch
from ..noise import BetweenSteps, added_noise
from ..reading import Reading
from ..settings import SettingError
from .base import Adapter, NoiseHypernetwork
from .critic import Critic

if TYPE_CHECKING:
    from ..generators.base import Generator
    from ..training.config import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class Modulation:
    """How noise is moved on its way to a picture, and what the sampler adds between its steps."""

    strength: float = 1.0
    """Of a noise hypernetwork."""
    iterations: int = 1
    """Readings: how often it moves the noise, each time from where it is. A denoiser call each."""
    between_steps: BetweenSteps = "fresh"
    free_reading: bool = False
    """The first of two or more steps is the one reading, at no call of its own; the moved noise is kept from there."""
    candidates: int = 1
    """Noises for each picture, of which the critic chooses the one that is moved. A denoiser call each, beyond one."""
    refine: int = 0
    """Steps of gradient ascent on the critic, after the noise was moved. A denoiser call and its backward pass each."""
    refine_white: bool = False
    """Bring each of these gradients, and the noise after each step, onto white noise."""

    @property
    def asks_critic(self) -> bool:
        return self.candidates > 1 or self.refine > 0

    @classmethod
    def trained_for(cls, config: TrainingConfig) -> Modulation:
        """How a training run's hypernetwork is meant to be used: with all of its readings."""
        return cls(iterations=config.iterations, between_steps=config.between_steps)

    def check(self, generator: Generator, adapter: Adapter | None, steps: int) -> None:
        """
        Raises:
            ValueError: these cannot be used together; nothing has been drawn.
        """
        generator.check_steps(steps)
        if self.candidates < 1:
            raise SettingError("{candidates} is {}: give at least 1", self.candidates)
        if self.refine < 0:
            raise SettingError("{refine} is {}: give at least 0", self.refine)
        if self.asks_critic and isinstance(adapter, NoiseHypernetwork):
            critic_of(adapter)
        if not self.free_reading:
            generator.check_between_steps(self.between_steps)
            return
        if steps < 2:
            raise SettingError("{free_reading} is set and {steps} is {}: it is free only where a step follows", steps)
        if self.iterations != 1 or self.between_steps != "fresh":
            raise SettingError("{free_reading} is one reading that is kept: leave {iterations} and {between_steps} out")
        if self.asks_critic:
            raise SettingError("{free_reading} makes no call before the sampler: leave {candidates} and {refine} out")
        if isinstance(adapter, NoiseHypernetwork):
            adapter.following(generator.noise(1), self.strength)


def draw(
    generator: Generator,
    adapter: Adapter | None,
    x0: Tensor,
    conditioning: TensorBatch,
    steps: int = 1,
    seed: int | Sequence[int] = 0,
    how: Modulation = Modulation(),
) -> tuple[Tensor, Tensor]:
    """(unit noise [B, C, h, w] that the pictures come from, pictures [B, 3, H, W] in [0, 1]).

    Args:
        adapter: of any kind; the generator alone where there is none. With a free reading the base keeps its noise too.
    """
    if how.free_reading:
        return _draw_following(generator, adapter, x0, conditioning, steps, seed, how.strength)
    start = x0
    if isinstance(adapter, NoiseHypernetwork):
        if how.candidates > 1:
            x0 = critic_of(adapter).choose(x0, conditioning, how.candidates).noise
        start = adapter.modulate(x0, conditioning, how.strength, how.iterations)
        if how.refine:
            start = critic_of(adapter).refine(start, conditioning, how.refine, white=how.refine_white).noise
    between = added_noise(how.between_steps, x0, start)
    return start, generator.generate(start, conditioning, steps, seed, _denoiser(adapter), between)


def draw_in_parts(
    generator: Generator,
    adapter: Adapter | None,
    x0: Tensor,
    conditioning: TensorBatch,
    steps: int,
    seeds: Sequence[int],
    how: Modulation,
) -> tuple[Tensor, Tensor]:
    """As `draw`, with one seed of each picture, as many pictures at a time as `Generator.parts` has it."""
    drawn = [
        draw(generator, adapter, x0[part], conditioning.rows(part), steps, seeds[part], how)
        for part in generator.parts(x0)
    ]
    start, images = zip(*drawn, strict=True)
    return torch.cat(start), torch.cat(images)


def critic_of(adapter: NoiseHypernetwork) -> Critic:
    """
    Raises:
        ValueError: it has none.
    """
    if adapter.critic is None:
        raise SettingError(
            "this hypernetwork was saved without a critic, which {candidates} and {refine} ask: leave them out, or "
            "train a head with {teacher} critic"
        )
    return adapter.critic


def _draw_following(
    generator: Generator,
    adapter: Adapter | None,
    x0: Tensor,
    conditioning: TensorBatch,
    steps: int,
    seed: int | Sequence[int],
    strength: float,
) -> tuple[Tensor, Tensor]:
    between, moved = x0 if generator.adds_noise else None, x0
    if not isinstance(adapter, NoiseHypernetwork):
        return x0, generator.generate(x0, conditioning, steps, seed, _denoiser(adapter), between)
    follow = adapter.following(x0, strength)

    def first(reading: Reading) -> Tensor:
        nonlocal moved
        delta = follow(reading)
        moved = x0 + delta
        return delta

    images = generator.generate(x0, conditioning, steps, seed, between=between, first=first)
    return moved, images


def _denoiser(adapter: Adapter | None):
    """A fine-tuned one, in the generator's place."""
    return None if adapter is None or isinstance(adapter, NoiseHypernetwork) else adapter.network
