"""The protocol of a teacher."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ...batch import TensorBatch


@dataclass(frozen=True)
class Lesson:
    """A micro-batch to learn from."""

    x0: Tensor
    """Unit noise as it was drawn, [B, C, h, w]."""
    conditioning: TensorBatch
    text: TensorBatch
    """The prompts as the reward encodes them."""
    seeds: Sequence[int]
    """Of the noise between denoiser calls, one of each picture."""
    before: Tensor
    """Readings that each noise has behind it when it is learnt from, [B], on the CPU."""
    remaining: Tensor
    """Readings that are still to come, this one included, [B], on the CPU."""


@dataclass(frozen=True)
class Judged:
    """What a teacher says of noises."""

    value: Tensor
    """What the hypernetwork climbs, [B], in the reward's units; differentiable in the noise."""
    reward: Tensor
    """What the reward says of the pictures, [B]."""
    scores: dict[str, Tensor]
    """Each reward's own, [B]."""
    images: Tensor
    """The pictures, [B, 3, H, W] in [0, 1], without gradients."""


class Teacher(ABC):
    """Trainer, KL, clip, iterates and kinds of hypernetworks do not know which one it is."""

    @abstractmethod
    def judge(self, start: Tensor, lesson: Lesson) -> Judged:
        """Of pictures that start from the moved noise `start` [B, C, h, w]."""
