"""Layouts of latents: cells packed into tokens, and what a frozen autoencoder's latents are scaled and moved by."""

from collections.abc import Sequence

import torch
from torch import Tensor


def pack(x: Tensor, patch: int = 2) -> Tensor:
    """Latents [B, C, h, w] as tokens of patch x patch cells, row by row: [B, h w / patch², patch² C]."""
    batch, channels, height, width = x.shape
    cells = x.view(batch, channels, height // patch, patch, width // patch, patch).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(batch, height * width // patch**2, patch**2 * channels)


def unpack(tokens: Tensor, shape: torch.Size, patch: int = 2) -> Tensor:
    """The inverse of `pack`, to `shape`."""
    batch, channels, height, width = shape
    cells = tokens.view(batch, height // patch, width // patch, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(shape)


def patchify(x: Tensor, patch: int = 2) -> Tensor:
    """The inverse of `unpatchify`."""
    return torch.nn.functional.pixel_unshuffle(x, patch)


def unpatchify(x: Tensor, patch: int = 2) -> Tensor:
    """Latents whose channels hold patch x patch cells each, [B, patch² C, h, w], as [B, C, patch h, patch w]."""
    return torch.nn.functional.pixel_shuffle(x, patch)


def positions(height: int, width: int, axes: int = 3) -> Tensor:
    """(0, row, column, 0 …) of each token of a picture, row by row: [height · width, axes]."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    others = [torch.zeros_like(rows)] * (axes - 3)
    return torch.stack([torch.zeros_like(rows), rows, columns, *others], -1).view(-1, axes)


def denormalize(x: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """Latents [B, C, h, w] of unit scale, with the mean and the deviation of each channel."""
    mean, std = (_by_channel(values, x) for values in (mean, std))
    return x * std + mean


def normalize(x: Tensor, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> Tensor:
    """The inverse of `denormalize`."""
    mean, std = (_by_channel(values, x) for values in (mean, std))
    return (x - mean) / std


def _by_channel(values: Sequence[float] | Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(values, device=x.device, dtype=x.dtype).view(1, -1, 1, 1)
