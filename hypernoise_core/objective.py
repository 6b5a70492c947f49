"""The training objective in nats: L(φ) = KL(noise) - r / α (paper, equation 11, with its temperature)."""

from typing import Literal

import torch
from torch import Tensor

from .white_noise import white_direction

KLReduction = Literal["sum", "mean"]


def kl_l2(delta: Tensor, reduction: KLReduction = "sum") -> Tensor:
    """½‖Δ‖² of each residual [B, C, h, w], as [B] in float32. To second order in the map's Lipschitz constant this is
    the KL of the moved noise (paper, equation 10).

    `sum` is the paper's, in nats. `mean` divides by C·h·w, as the reference implementation does, so its recipes
    reproduce. With `mean`, the same weight means a different strength for every model and resolution.
    """
    squares = delta.float().square().flatten(1)
    return 0.5 * (squares.sum(1) if reduction == "sum" else squares.mean(1))


class PerSampleClip:
    """Clips the gradient that reaches a batch in the backward pass, sample by sample.

    Reward gradients at the modulated noise x0 + f_φ(x0, c) differ by orders of magnitude between samples, and a few
    would dominate the step. If most samples are clipped, `max_norm` sets the effective temperature: watch
    `clipped_fraction`.

    Args:
        white: bring each sample's gradient [C, h, w] onto white noise first, at its own norm (`white_noise.whiten`).
    """

    def __init__(self, max_norm: float | None, share: float = 1.0, white: bool = False):
        self.max_norm, self.white = max_norm, white
        self.share = share
        """The weight of one sample's loss in the loss that is differentiated, such as 1 / batch size for a mean. Norms
        are those of the sample's own loss."""
        self.gradient = torch.empty(0)
        """Gradient of the loss, [B, …], before clipping. Like the norms, it is set by a backward pass."""
        self.norms = torch.empty(0)
        """Norm of the gradient of each sample's own loss, [B], before clipping."""

    def attach(self, x: Tensor) -> Tensor:
        """Return `x` [B, …] unchanged. Gradients through the returned tensor are clipped and measured."""
        x = x * 1.0  # a new node: gradients that reach the input by other paths are not clipped
        if x.requires_grad:
            x.register_hook(self._clip)
        return x

    def _clip(self, gradient: Tensor) -> Tensor:
        norms = gradient.float().flatten(1).norm(dim=1) / self.share
        self.gradient, self.norms = gradient.detach(), norms.detach()
        if self.white:
            gradient = white_direction(gradient.float()).to(gradient.dtype)
        if self.max_norm is None:
            return gradient
        scale = (self.max_norm / norms.clamp_min(1e-12)).clamp_max(1.0)
        return gradient * scale.view(-1, *[1] * (gradient.dim() - 1)).to(gradient.dtype)

    @property
    def clipped_fraction(self) -> Tensor:
        """Share of the samples that were clipped, a tensor: to look at it would wait for the device."""
        if self.max_norm is None:
            return self.norms.new_zeros(())
        return (self.norms > self.max_norm).float().mean()
