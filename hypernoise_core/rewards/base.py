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

    per_picture: bool = True
    """Whether a picture's score depends on that picture and its prompt alone, and not on the rest of the batch."""

    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        """Features of each prompt, without gradients. Callers cache them, so that `score` never sees text."""
        return TensorBatch({"none": torch.zeros(len(prompts))})

    @abstractmethod
    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        """Scores [B], float32, higher is better; differentiable in `images` [B, 3, H, W] in [0, 1]."""

    def to(self, device: torch.device | str) -> "Reward":
        """Move what weights there are."""
        return self

    def checkpoint_gradients(self, enabled: bool = True) -> None:  # noqa: B027, most have none
        """Recompute activations in the backward pass instead of keeping them, where there are any worth it."""


class BackboneReward(Reward):
    """A reward that is a small head on an encoder's picture features. Those that share `backbone` (the same object) are
    scored in one pass of it by a `RewardEnsemble`."""

    backbone: "Backbone"

    @abstractmethod
    def score_features(self, features: Tensor, text: TensorBatch) -> Tensor:
        """Scores [B], float32, from `backbone.image_features`."""

    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        return self.score_features(self.backbone.image_features(images), text)

    def checkpoint_gradients(self, enabled: bool = True) -> None:
        self.backbone.checkpoint_gradients(enabled)


class Backbone(ABC):
    """A frozen encoder that several rewards may stand on."""

    @abstractmethod
    def image_features(self, images: Tensor) -> Tensor:
        """Features [B, …], float32, of pictures [B, 3, H, W] in [0, 1]."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Backbone":
        """Move the weights."""

    @abstractmethod
    def checkpoint_gradients(self, enabled: bool = True) -> None:
        """Recompute the vision tower's activations in the backward pass."""
