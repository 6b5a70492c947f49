"""The network of a critic: what it expects the picture of a noise to score, from the reading that a head reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..reading import Reading
from .head_network import HeadShape, Trunk


class CriticNetwork(nn.Module):
    """V(x, reading): the reward that the picture of noise `x` will get. Float32 whatever the reading is.

    Several members learn the same from different weights. Where they agree, they have seen enough.

    Args:
        shape: what it reads, and the size of each member.
        members: how many there are.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, shape: HeadShape, members: int = 2):
        super().__init__()
        self.shape = shape
        self.members = nn.ModuleList(Member(shape) for _ in range(members))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def standardised(self, x: Tensor, reading: Reading) -> Tensor:
        """Each member's own answer [members, B], in standard deviations from the mean of the scores that it learnt."""
        reading = self.pooled(reading)
        return torch.stack([member(x, reading) for member in self.members])

    def pooled(self, reading: Reading) -> Reading:
        """The reading with one cell of features for each token, which is all that it looks at."""
        features, predicted = reading.features, reading.prediction.shape
        if features is None or not self.shape.features:
            return Reading(reading.prediction)
        cells = self.shape.patch * features.shape[-1] // predicted[-1]
        if cells <= 1 or features.shape[-1] == -(-predicted[-1] // self.shape.patch):
            return reading
        return Reading(reading.prediction, F.avg_pool2d(features, cells, ceil_mode=True, count_include_pad=False))

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """The expected reward [B], in the reward's units: the mean over the members."""
        return self.with_bound(x, reading)[0]

    def with_bound(self, x: Tensor, reading: Reading) -> tuple[Tensor, Tensor]:
        """(expected reward, the same less the members' disagreement, which is their standard deviation), [B] each: a
        noise that only one of them likes is none that they know."""
        own = self.standardised(x, reading)
        expected = self.mean + self.std * own.mean(0)
        return expected, expected - self.std * own.std(0, unbiased=False)


class Member(nn.Module):
    """A head's trunk, pooled over its tokens: their mean beside a mean that it weighs itself."""

    def __init__(self, shape: HeadShape):
        super().__init__()
        width = shape.width
        self.trunk, self.weigh = Trunk(shape), nn.Linear(width, 1)
        self.out = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Linear(width, 1))

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        """[B]"""
        tokens, _ = self.trunk(x, reading)
        weighed = (self.weigh(tokens).softmax(1) * tokens).sum(1)
        return self.out(torch.cat([tokens.mean(1), weighed], -1))[:, 0]
