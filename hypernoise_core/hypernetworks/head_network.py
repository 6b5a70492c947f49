"""The network of a head: a small transformer over the picture that a reading is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..reading import Reading

HEADS = 4
"""Attention heads of every layer."""

MLP_RATIO = 2
"""Width of a layer's hidden part, in widths of the layer."""

MAX_TOLD = 8
"""Readings to come that are told apart; more count as these."""

ROTARY_BASE = 20.0
"""Longest rotary wavelength over 2π, in tokens: layouts are a matter of some ten tokens."""


@dataclass(frozen=True, kw_only=True)
class HeadShape:
    """What a head reads, and how large it is."""

    channels: int
    """Of the latents, C."""
    features: int
    """Of what enters the denoiser's last layer, F; 0 for a head that reads noise and prediction alone."""
    width: int
    depth: int
    patch: int
    """Latent cells along each side of a token."""
    feature_cell: int
    """Latent cells along each side of a cell of the features; it divides `patch`. 1 where there are none."""

    def __post_init__(self):
        for name, value in vars(self).items():
            if value < (0 if name == "features" else 1):
                raise ValueError(f"no head has a {name} of {value}")
        if self.width % (4 * HEADS):
            raise ValueError(f"a head of width {self.width} cannot be built: give a multiple of {4 * HEADS}")
        if self.patch % self.feature_cell:
            raise ValueError(f"patches of {self.patch} cells do not hold features of {self.feature_cell} cells evenly")


class HeadNetwork(nn.Module):
    """h(x, reading): from noise and what the denoiser makes of it to a residual. Zero when made.

    Any size, aspect and batch: positions are rotary. Float32 whatever the reading is.
    """

    def __init__(self, shape: HeadShape):
        super().__init__()
        self.shape = shape
        self.trunk = Trunk(shape)
        self.told = nn.Embedding(MAX_TOLD, shape.width)
        self.out = nn.Linear(shape.width, shape.channels * shape.patch**2)
        for layer in (self.told, self.out):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, reading: Reading, remaining: int | Tensor = 1) -> Tensor:
        """The residual [B, C, h, w] for noise `x` of that shape.

        `remaining`: readings still to come, this one included; an int, or one for each row [B].
        """
        told = torch.as_tensor(remaining, device=x.device).clamp(1, MAX_TOLD).expand(len(x)) - 1
        tokens, (rows, columns) = self.trunk(x, reading, self.told(told)[:, None])
        patch = self.shape.patch
        cells = self.out(tokens).view(len(x), rows, columns, self.shape.channels, patch, patch)
        delta = cells.permute(0, 3, 1, 4, 2, 5).reshape(len(x), -1, rows * patch, columns * patch)
        return delta[..., : x.shape[-2], : x.shape[-1]]


class Trunk(nn.Module):
    """Tokens of noise, prediction and features, and the layers over them."""

    def __init__(self, shape: HeadShape):
        super().__init__()
        self.shape = shape
        self.noise = nn.Linear(shape.channels * shape.patch**2, shape.width)
        self.prediction = nn.Linear(shape.channels * shape.patch**2, shape.width)
        if shape.features:
            self.features = nn.Linear(shape.features * (shape.patch // shape.feature_cell) ** 2, shape.width)
        self.layers = nn.ModuleList(Layer(shape.width) for _ in range(shape.depth))
        self.norm = nn.LayerNorm(shape.width)

    def forward(self, x: Tensor, reading: Reading, extra: Tensor | None = None) -> tuple[Tensor, tuple[int, int]]:
        """([B, tokens, width], rows and columns of tokens); `extra` [B, 1 or tokens, width] is added at the start."""
        patch, shape = self.shape.patch, self.shape
        tokens = self.noise(patches(x.float(), patch)) + self.prediction(patches(reading.prediction.float(), patch))
        if shape.features:
            if reading.features is None or reading.features.shape[1] != shape.features:
                found = "none" if reading.features is None else f"{reading.features.shape[1]}"
                raise ValueError(f"this head reads {shape.features} features of each cell, and the model gives {found}")
            features = reading.features.float().movedim(1, -1)
            features = F.layer_norm(features, features.shape[-1:]).movedim(-1, 1)
            tokens = tokens + self.features(patches(features, patch // shape.feature_cell))
        if extra is not None:
            tokens = tokens + extra
        grid = (-(-x.shape[-2] // patch), -(-x.shape[-1] // patch))
        angles = rotary_angles(*grid, shape.width // HEADS, x.device)
        for layer in self.layers:
            tokens = layer(tokens, angles)
        return self.norm(tokens), grid


class Layer(nn.Module):
    """Attention and a hidden layer, each on a normalised copy of the tokens."""

    def __init__(self, width: int):
        super().__init__()
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.merge = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, MLP_RATIO * width), nn.GELU(), nn.Linear(MLP_RATIO * width, width))

    def forward(self, tokens: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
        batch, count, width = tokens.shape
        qkv = self.qkv(self.attention_norm(tokens)).view(batch, count, 3, HEADS, width // HEADS)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(rotated(q, angles), rotated(k, angles), v)
        tokens = tokens + self.merge(attended.transpose(1, 2).reshape(batch, count, width))
        return tokens + self.mlp(self.mlp_norm(tokens))


def patches(x: Tensor, patch: int) -> Tensor:
    """Cells [B, C, h, w] as tokens of patch x patch of them, [B, rows · columns, C · patch²]; sides that are no
    multiple are filled up with zeros."""
    if x.shape[-2] % patch or x.shape[-1] % patch:
        x = F.pad(x, (0, -x.shape[-1] % patch, 0, -x.shape[-2] % patch))
    return F.pixel_unshuffle(x, patch).flatten(2).transpose(1, 2)


def rotary_angles(rows: int, columns: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(cos, sin) [rows · columns, dim / 2] of 2-D rotary positions (Su et al. 2021, arXiv 2104.09864): half of the
    pairs turn with the row, half with the column."""
    frequencies = ROTARY_BASE ** -(torch.arange(dim // 4, device=device) / (dim // 4))
    by_row = torch.arange(rows, device=device)[:, None] * frequencies
    by_column = torch.arange(columns, device=device)[:, None] * frequencies
    shape = (rows, columns, dim // 4)
    angles = torch.cat([by_row[:, None].expand(shape), by_column[None].expand(shape)], -1).flatten(0, 1)
    return angles.cos(), angles.sin()


def rotated(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """x [B, heads, tokens, dim], pairs (i, i + dim / 2) turned by their token's angles."""
    (cos, sin), (a, b) = angles, x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)
