"""The critic at inference: it says what a noise will score before its picture is drawn, chooses among noises by that,
and improves one by its gradient. No reward, no decoder and no later sampling step is run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..noise import another, with_norm_of
from ..reading import Reading
from ..settings import SettingError
from ..white_noise import CRITIC_REACH, white_direction, white_step
from .critic_network import CriticNetwork

Read = Callable[[Tensor, Any], Reading]
"""A denoiser call on unit noise [B, C, h, w] with its conditioning: `Generator.read`, or a host's own."""

LR, MOMENTUM, GRAD_CLIP = 5.0, 0.9, 0.1
"""Of `refine`, as of ReNO (Eyring et al. 2024, arXiv 2406.04312)."""


class Promising(NamedTuple):
    """Noise that a critic prefers to the noise that it was given."""

    noise: Tensor
    """[B, C, h, w]"""
    before: Tensor
    """The expected reward [B] of the noise that was given."""
    after: Tensor
    """That of `noise`, [B]."""


class Critic:
    """V on a model.

    Args:
        network: as it was trained.
        read: makes a denoiser call, differentiable in its noise for `refine`.
    """

    def __init__(self, network: CriticNetwork, read: Read):
        self.network, self._read = network, read

    @torch.no_grad()
    def score(self, x: Tensor, conditioning: Any) -> Tensor:
        """The reward [B] that the pictures of unit noise `x` [B, C, h, w] are expected to get, in the units of the
        reward that it was trained on. One denoiser call."""
        return self.network(x, self._read(x, conditioning))

    @torch.no_grad()
    def choose(self, x0: Tensor, conditioning: Any, count: int) -> Promising:
        """The most promising of `count` noises for each picture: `x0` [B, C, h, w] and others that follow from it. A
        denoiser call each.

        Raises:
            ValueError: `count` is below 1.
        """
        if count < 1:
            raise SettingError("{candidates} is {}: give at least 1", count)
        best, value = x0, self.score(x0, conditioning)
        before = value
        for index in range(1, count):
            other = another(x0, index)
            own = self.score(other, conditioning)
            better = own > value
            best = torch.where(_rows(better, x0), other, best)
            value = torch.where(better, own, value)
        return Promising(best, before, value)

    def refine(self, x: Tensor, conditioning: Any, iterations: int, lr: float = LR, white: bool = False) -> Promising:
        """`x` [B, C, h, w] after gradient ascent on the critic's lower bound, at the norm that it had: the best by that
        bound of all iterates, `x` itself among them.

        ReNO's ascent (Nesterov, gradients clipped for each picture) without decoder and reward. It costs a denoiser
        call with a backward pass for each iteration, and one call more.

        Args:
            white: bring each gradient onto white noise before it is followed, and `x` after it, at most
                `white_noise.CRITIC_REACH` away: it leads up more slowly and not away from noise.

        Raises:
            ValueError: `iterations` is below 0.
        """
        if iterations < 0:
            raise SettingError("{refine} is {}: give at least 0", iterations)
        at, velocity = x.detach().float(), torch.zeros_like(x)
        best, most = at, torch.full((len(x),), -torch.inf, device=x.device)
        before = after = most
        for iteration in range(iterations + 1):
            with torch.enable_grad():
                leaf = at.requires_grad_()
                expected, bound = self.network.with_bound(leaf, self._read(leaf, conditioning))
                (ascent,) = torch.autograd.grad(bound.sum(), leaf) if iteration < iterations else (leaf,)
            with torch.no_grad():
                expected, bound, at = expected.detach(), bound.detach(), at.detach()
                before = before if iteration else expected
                better = bound > most
                best = torch.where(_rows(better, x), at, best)
                most, after = torch.where(better, bound, most), torch.where(better, expected, after)
                ascent = white_direction(ascent) if white else ascent
                ascent = ascent * (GRAD_CLIP / _norms(ascent).clamp_min(1e-12)).clamp_max(1.0)
                velocity = MOMENTUM * velocity + ascent
                at = at + lr * (ascent + MOMENTUM * velocity)
                at = white_step(at, x, CRITIC_REACH) if white else with_norm_of(at, x)
        return Promising(best, before, after)


def _norms(x: Tensor) -> Tensor:
    return _rows(x.flatten(1).norm(dim=1), x)


def _rows(values: Tensor, x: Tensor) -> Tensor:
    """[B] for use beside x [B, …]."""
    return values.view(-1, *[1] * (x.dim() - 1))
