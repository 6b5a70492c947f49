"""White Gaussian noise, by its statistics: how far a noise is from it, and gradients that lead along it.

A search that follows a reward's gradient leaves the noise that a generator was trained on: the gradient is smooth, so
that neighbours become alike, and a few large values grow. Hwang and Sung (2026, arXiv 2602.08646) bring it onto what
white Gaussian noise looks like in the frequency domain before they follow it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from .noise import with_norm_of

REACH, CRITIC_REACH = 0.2, 0.14
"""How far from where it began a search along white noise goes, in norms of that: at most 0.02 nats for each value by a
reward, and 0.01 by a critic, which is sooner wrong. Further away every statistic that `whiten` knows is still that of
noise, and yet the score rises there while the picture gets worse."""

BLOCK = 8
"""Pairs of frequencies whose magnitudes are brought to those of noise together."""

MEAN, DEVIATION = math.sqrt(math.pi) / 2, math.sqrt(1 - math.pi / 4)
"""Of the magnitude of a frequency of unit white Gaussian noise (Rayleigh's, with mean square 1)."""
VALUE_MEAN, VALUE_DEVIATION = math.sqrt(2 / math.pi), math.sqrt(1 - 2 / math.pi)
"""Of the magnitude of one of its values."""


def whiten(x: Tensor) -> Tensor:
    """`x` [B, C, h, w] with frequencies and values as strong as those of unit white Gaussian noise; its norm is that of
    noise, √(C·h·w).

    In each channel, frequencies of nearly equal length form blocks. In a block, mean and mean square of the magnitudes
    become those of noise, which is the projection onto these two norms; phases stay. Then the same is done to the
    values of each picture, whose signs stay, since frequencies say nothing of a few values that stand out.
    """
    frequencies = torch.fft.fft2(x.float(), norm="ortho")
    blocks = _blocks(*x.shape[-2:]).to(x.device)
    strong = _projected(frequencies.abs().flatten(-2), blocks, MEAN, DEVIATION).view_as(frequencies.real)
    phases = frequencies / frequencies.abs().clamp_min(1e-30)
    values = torch.fft.ifft2(strong * phases, norm="ortho").real.flatten(1)
    whole = torch.zeros(values.shape[1], dtype=torch.long, device=x.device)
    sizes = _projected(values.abs(), whole, VALUE_MEAN, VALUE_DEVIATION)
    return (sizes * values.sign()).view_as(x).to(x.dtype)


def white_step(x: Tensor, begun: Tensor, reach: float) -> Tensor:
    """`x` [B, C, h, w] after a step of a search that began at `begun`, brought onto white noise, at most `reach` norms
    away; its norm is `begun`'s."""
    step = with_norm_of(whiten(x), begun) - begun
    far = step.flatten(1).norm(dim=1) / (reach * begun.flatten(1).norm(dim=1)).clamp_min(1e-12)
    return with_norm_of(begun + step / far.clamp_min(1.0).view(-1, *[1] * (x.dim() - 1)), begun)


def white_direction(gradient: Tensor) -> Tensor:
    """A gradient [B, C, h, w] brought onto white noise, at its own norm."""
    return with_norm_of(whiten(gradient), gradient)


def _projected(magnitudes: Tensor, blocks: Tensor, mean: float, deviation: float) -> Tensor:
    """Magnitudes [..., N] with this mean and deviation in each block [N] of them. One that would be
    negative is none, and the others are brought there again."""
    index = blocks.expand_as(magnitudes)
    for _ in range(3):
        middle = _block_mean(magnitudes, index)
        apart = magnitudes - middle
        spread = _block_mean(apart.square(), index).sqrt()
        magnitudes = (mean + deviation * apart / spread.clamp_min(1e-12)).clamp_min(0.0)
    return magnitudes


def _block_mean(values: Tensor, index: Tensor) -> Tensor:
    """The mean over its block, in each place."""
    sums = torch.zeros_like(values)  # no more blocks than values
    sums.scatter_reduce_(-1, index, values, "mean", include_self=False)
    return sums.gather(-1, index)


@cache
def _blocks(height: int, width: int) -> Tensor:
    """The block [height · width] of each frequency, by its length. A frequency and its mirror image, whose magnitudes
    are equal in a real tensor, are in one block."""
    rows, columns = (torch.fft.fftfreq(n, 1 / n).round().long() for n in (height, width))
    length = (rows[:, None] / height).square() + (columns[None] / width).square()
    place = torch.arange(height * width).view(height, width)
    mirror = place[(-rows)[:, None] % height, (-columns)[None] % width]
    first = torch.minimum(place, mirror).flatten()
    pairs = first.unique()
    ranks = torch.empty(height * width, dtype=torch.long)
    ranks[pairs[length.flatten()[pairs].argsort(stable=True)]] = torch.arange(len(pairs))
    return (ranks[first] // BLOCK).clamp_max(max(0, len(pairs) // BLOCK - 1))


def kurtosis(x: Tensor) -> Tensor:
    """[B]: 3 for Gaussian noise [B, C, h, w], more where a few values stand out."""
    apart = x.float().flatten(1)
    apart = apart - apart.mean(1, keepdim=True)
    return apart.pow(4).mean(1) / apart.square().mean(1).square().clamp_min(1e-30)


def neighbours(x: Tensor) -> Tensor:
    """[B]: how alike neighbours in [B, C, h, w] are, as a correlation: 0 for white noise, 1 for a flat surface."""
    z = x.float()
    products = [(z[..., 1:] * z[..., :-1]).flatten(1), (z[..., 1:, :] * z[..., :-1, :]).flatten(1)]
    return torch.cat(products, 1).mean(1) / z.square().flatten(1).mean(1).clamp_min(1e-30)


@dataclass(frozen=True)
class NoiseLimits:
    """How far a search may take a noise from where it began, by statistics that no reward looks at."""

    kurtosis: float = 0.25
    """Most that it may rise."""
    neighbours: float = 0.03
    """Most that neighbours' correlation may rise or fall."""

    def inside(self, x: Tensor, start: Tensor) -> Tensor:
        """[B], whether `x` [B, C, h, w] is still within the limits."""
        far = (neighbours(x) - neighbours(start)).abs()
        return (kurtosis(x) - kurtosis(start) <= self.kurtosis) & (far <= self.neighbours)
