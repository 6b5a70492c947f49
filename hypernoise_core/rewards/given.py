"""The reward of a run that learns from scores that were given beforehand: it judges nothing itself."""

import torch
from torch import Tensor

from ..batch import TensorBatch
from .base import Reward


class GivenScores(Reward):
    name = "scores"
    differentiable = False

    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        """Not a number for every image: nobody is there to judge it."""
        return torch.full((len(images),), float("nan"), device=images.device)
