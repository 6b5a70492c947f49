"""Redness: the paper's illustration of a reward that fine-tuning over-optimises (section 4.1)."""

from torch import Tensor

from ..batch import TensorBatch
from .base import Reward


class Redness(Reward):
    """Red minus the mean of green and blue, averaged over the picture: in [-1, 1], 1 for pure red."""

    name = "redness"

    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        r, g, b = images.float().mean((2, 3)).unbind(1)
        return r - (g + b) / 2
