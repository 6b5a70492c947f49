"""Test-time search over starting noise, for any generator and reward: what a noise hypernetwork amortises."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .batch import TensorBatch
from .rewards import Reward

if TYPE_CHECKING:  # nodes that rank pictures need no diffusers
    from .generators.base import Generator


@dataclass(frozen=True)
class Found:
    """The best of a search: noise [B, C, h, w], pictures [B, 3, H, W], their scores [B], all without gradients."""

    x0: Tensor
    images: Tensor
    scores: Tensor


@torch.no_grad()
def best_of_n(
    generator: Generator, reward: Reward, x0: Tensor, conditioning: TensorBatch, text: TensorBatch, steps: int = 1
) -> Found:
    """Generate from each of `n` noises per prompt and keep the best.

    Args:
        x0: [n, B, C, h, w], modulated or not.
        conditioning, text: of the B prompts.
    """
    best: Found | None = None
    for candidate in x0:
        images = generator.generate(candidate, conditioning, steps)
        scores = reward.score(images, text)
        best = Found(candidate, images, scores) if best is None else _better(best, Found(candidate, images, scores))
    assert best is not None, "best_of_n needs at least one noise"
    return best


def ranking(scores: Tensor) -> Tensor:
    """Indices [N] from the best of `scores` [N] to the worst; equals stay in order, what is not finite comes last."""
    return torch.where(scores.isfinite(), scores, -torch.inf).argsort(descending=True, stable=True)


def reno(
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
) -> Found:
    """Reward-based noise optimization (Eyring et al. 2024, arXiv 2406.04312): gradient ascent on each noise, best kept.

    Nesterov SGD (momentum 0.9) on −r plus `regularization` times the negative log-likelihood of the noise's norm under
    the χ distribution; gradients are clipped to `grad_clip` per sample. Defaults are the paper's. Counts one
    generation and one backward pass an iteration; the first picture is the unoptimized one.
    """
    noise = x0.detach().clone().requires_grad_()
    optimizer = torch.optim.SGD([noise], lr=lr, momentum=0.9, nesterov=True)
    dim = math.prod(noise.shape[1:])
    best: Found | None = None
    for iteration in range(iterations + 1):
        with torch.enable_grad():
            images = generator.generate(noise, conditioning, steps)
            scores = reward.score(images, text)
            norm = noise.flatten(1).norm(dim=1)
            loss = regularization * (0.5 * norm**2 - (dim - 1) * norm.log()) - scores
        found = Found(noise.detach().clone(), images.detach(), scores.detach())
        best = found if best is None else _better(best, found)
        if iteration == iterations:
            break
        (gradient,) = torch.autograd.grad(loss.sum(), noise)
        norms = gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        noise.grad = gradient * (grad_clip / norms.clamp_min(1e-12)).clamp_max(1.0)
        optimizer.step()
    return best


def _better(a: Found, b: Found) -> Found:
    """Row by row, the one with the higher score; a score that is not finite never wins."""
    take = (b.scores > a.scores) | ~a.scores.isfinite()
    rows = take.view(-1, 1, 1, 1)
    return Found(
        torch.where(rows, b.x0, a.x0), torch.where(rows, b.images, a.images), torch.where(take, b.scores, a.scores)
    )
