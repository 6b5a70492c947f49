"""What a frozen denoiser makes of a noise: what a head reads instead of carrying a LoRA in the denoiser."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Reading:
    """One denoiser call on unit noise."""

    prediction: Tensor
    """The clean latents that the denoiser predicts, in unit space: [B, C, h, w], float32."""
    features: Tensor | None = None
    """What enters the denoiser's last layer, as a grid over the picture: [B, F, h / p, w / p] for a denoiser that sees
    p x p latent cells as one token. None where the family cannot give one."""

    def to(self, device: torch.device | str) -> Reading:
        return Reading(self.prediction.to(device), None if self.features is None else self.features.to(device))

    def detach(self) -> Reading:
        return Reading(self.prediction.detach(), None if self.features is None else self.features.detach())


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what enters `layer` inside the block, call by call."""
    received: list[Tensor] = []
    handle = layer.register_forward_pre_hook(lambda _, args: received.append(args[0]))
    try:
        yield received
    finally:
        handle.remove()


def tokens_as_grid(tokens: Tensor, height: int, width: int) -> Tensor | None:
    """Picture tokens, row by row, as a grid.

    Args:
        tokens: [B, N, F], or a grid [B, F, h', w'] already.
        height, width: of the latents, in cells; one token covers p x p of them.

    Returns:
        [B, F, height / p, width / p], or None where N tokens do not cover the latents.
    """
    if tokens.dim() == 4:
        return tokens
    if tokens.dim() != 3 or not tokens.shape[1]:
        return None
    patch = math.isqrt(height * width // tokens.shape[1])
    if not patch or height % patch or width % patch or height * width != tokens.shape[1] * patch**2:
        return None
    return tokens.transpose(1, 2).unflatten(2, (height // patch, width // patch))
