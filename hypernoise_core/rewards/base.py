"""The protocol of a reward: a differentiable judgement of pictures under prompts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..batch import TensorBatch


class Reward(ABC):
    """Subclass this for a reward of your own, and name it by `module:Class` (`load_reward`, `--rewards`, the nodes).

    `score` alone is enough where the prompt does not matter.
    """

    name: str
    """Short, for metrics."""

    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        """Features of each prompt, without gradients. Callers cache them, so that `score` never sees text."""
        return TensorBatch({"none": torch.zeros(len(prompts))})

    @abstractmethod
    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        """Scores [B], float32, higher is better; differentiable in `images` [B, 3, H, W] in [0, 1]."""

    def to(self, device: torch.device | str) -> "Reward":
        """Move what weights there are."""
        return self
