"""Streams of noise that never meet, and the noise that a sampler adds or keeps between its steps."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from .reading import Reading

BETWEEN_STEPS = "between steps"
"""What a sampler adds between its steps."""
ACCUMULATED_BATCH = "accumulated batch"
"""Starting noise of the batches of one optimizer step; the index counts them."""
PICTURE = "picture"
"""The seed of one picture of a batch; the index is its place."""
SHARED_NOISE = "shared noise"
"""The one starting noise of a training step, for all of its pictures; the index is the step."""
SCORED = "scored"
"""Which pictures of a batch are drawn and scored."""
REPLAY = "replay"
"""Which readings a critic learns from; the index counts its steps, or is the process."""
DIAGNOSTICS = "diagnostics"
"""Starting noise and prompts of a measurement during training; the index is the step."""

MOST_STEPS = 1000
"""Denoiser calls per image: no sampler has more levels of noise."""

BetweenSteps = Literal["fresh", "keep", "keep-moved"]
"""What a sampler adds between steps: `fresh` noise each time, as the pipelines do; `keep` the starting noise as it was
drawn; `keep-moved` the starting noise as the hypernetwork moved it."""

First = Callable[[Reading], Tensor]
"""From what the first of several steps makes of x0 to a residual [B, C, h, w] for the noise that is kept."""


def derive_seed(seed: int, use: str, index: int = 0) -> int:
    """The seed of a stream of its own for each (seed, use, index), equal on every machine: in [0, 2^63).

    `use` is one of this file's constants. Seeds are no streams: noises drawn from equal seeds are equal, whatever they
    are for. Hashed by SHA-256, since torch's CPU generator reads the low 32 bits of a seed only.
    """
    digest = hashlib.sha256(f"{int(seed)}/{use}/{int(index)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def streams(seed: int | Sequence[int], batch: int) -> torch.Generator | list[torch.Generator]:
    """The streams that a sampler's noise for `batch` pictures is drawn from, as diffusers' schedulers take them.

    Args:
        seed: one for the whole batch, as the pipelines take it; or one of each picture, so that no picture depends on
            which others are made with it.

    Raises:
        ValueError: there is not one seed for each picture.
    """
    if not isinstance(seed, Sequence):
        return torch.Generator("cpu").manual_seed(derive_seed(seed, BETWEEN_STEPS))
    if len(seed) != batch:
        raise ValueError(f"seed has {len(seed)} numbers for {batch} pictures: give one, or one for each picture")
    return [torch.Generator("cpu").manual_seed(derive_seed(own, BETWEEN_STEPS)) for own in seed]


def added_noise(between_steps: BetweenSteps, drawn: Tensor, moved: Tensor) -> Tensor | None:
    """What a generator takes as `between`: None for fresh noise, else the starting noise as it was `drawn` or as it was
    `moved`, [B, C, h, w] both."""
    return {"fresh": None, "keep": drawn, "keep-moved": moved}[between_steps]


def another(x0: Tensor, index: int) -> Tensor:
    """Unit noise of `x0`'s shape that follows from each row of it and `index` alone: the same on every machine, and
    for a row whatever batch it is in."""
    rows = []
    for row in x0.detach().cpu().float():
        digest = hashlib.sha256(row.contiguous().numpy().tobytes() + str(index).encode()).digest()
        random = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        rows.append(torch.randn(row.shape, generator=random))
    return torch.stack(rows).to(x0)


def with_norm_of(x: Tensor, reference: Tensor) -> Tensor:
    """`x` [B, …] scaled, row by row, to the norm of `reference`."""
    norms = [t.flatten(1).norm(dim=1) for t in (reference, x)]
    return x * (norms[0] / norms[1].clamp_min(1e-12)).view(-1, *[1] * (x.dim() - 1))


class KeptNoise:
    """The noise that one run of a sampler keeps. A family makes its denoiser calls through it, and asks it after each
    step.

    Args:
        read: makes a denoiser call on x0 into (what it returned, its reading).
        between: unit noise [B, C, h, w] that is added between steps; None where it is drawn, or none is added.
        first: moves the noise after the first call, which is its reading.
    """

    def __init__(
        self,
        read: Callable[[Callable[[], Tensor]], tuple[Tensor, Reading]],
        between: Tensor | None = None,
        first: First | None = None,
    ):
        self._read, self._first = read, first
        self._residual: Tensor | None = None
        self.between = between
        """What is added after the calls made so far, in place of a fresh draw; None for a fresh draw."""

    @property
    def changes(self) -> bool:
        """Whether anything is left to do that the plain sampler does not."""
        return self.between is not None or self._first is not None or self._residual is not None

    def call(self, function: Callable[..., Tensor], *args) -> Tensor:
        """What `function(*args)`, a denoiser call, returns. The first one is read where `first` wants it."""
        if self._first is None:
            return function(*args)
        prediction, reading = self._read(lambda: function(*args))
        residual, self._first = self._first(reading), None
        if self.between is None:
            self._residual = residual
        else:
            self.between = self.between + residual
        return prediction

    def moved(self, x: Tensor, amount: float | Tensor) -> Tensor:
        """`x` after a step of a sampler that adds no noise, where `amount` of its starting noise is left: the first
        time after the reading it is moved, and keeps that from then on."""
        if self._residual is None:
            return x
        residual, self._residual = self._residual, None
        return x + amount * residual
