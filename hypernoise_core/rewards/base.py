"""The protocol of a reward: a score of images under prompts."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from ..batch import TensorBatch


class Reward(ABC):
    """Subclass this for a reward of your own, and name it as `module:Class` (`load_reward`, `--rewards`, the nodes).

    If the prompt does not matter, implement only `score`.
    """

    name: str
    """Short name, for metrics."""

    differentiable: bool = True
    """Whether its scores can be differentiated in the images. One that cannot, such as a detector or a model that
    answers in words, can teach by a critic, rank images, and be measured."""

    per_picture: bool = True
    """Whether an image's score depends only on that image and its prompt, not on the rest of the batch."""

    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        """Features of each prompt, without gradients. Callers cache them, so `score` never sees text."""
        return TensorBatch({"none": torch.zeros(len(prompts))})

    @abstractmethod
    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        """Scores [B], float32, higher is better, of `images` [B, 3, H, W] in [0, 1]; differentiable in them where
        `differentiable` says so. One that is not finite means that the reward could not judge that image."""

    def explain(self, images: Tensor, text: TensorBatch) -> list[dict[str, float]]:
        """For each of `images` [B, 3, H, W] in [0, 1], what its score is made of, by name: one that asks questions
        tells each answer. Empty for a score that is one number."""
        return [{} for _ in images]

    def to(self, device: torch.device | str) -> "Reward":
        """Move the weights, if there are any."""
        return self

    def checkpoint_gradients(self, enabled: bool = True) -> None:  # noqa: B027, most have none
        """Recompute activations in the backward pass instead of keeping them, if the reward has enough of them."""


class BackboneReward(Reward):
    """A reward that is a small head on an encoder's image features. A `RewardEnsemble` scores all rewards with the same
    `backbone` (the same object) in one pass of it."""

    backbone: "Backbone"

    @abstractmethod
    def score_features(self, features: Tensor, text: TensorBatch) -> Tensor:
        """Scores [B], float32, from `backbone.image_features`."""

    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        return self.score_features(self.backbone.image_features(images), text)

    def checkpoint_gradients(self, enabled: bool = True) -> None:
        self.backbone.checkpoint_gradients(enabled)


class Backbone(ABC):
    """A frozen encoder that several rewards may share."""

    @abstractmethod
    def image_features(self, images: Tensor) -> Tensor:
        """Features [B, …], float32, of pictures [B, 3, H, W] in [0, 1]."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Backbone":
        """Move the weights."""

    @abstractmethod
    def checkpoint_gradients(self, enabled: bool = True) -> None:
        """Recompute the vision tower's activations in the backward pass."""
