"""A weighted sum of rewards that is itself a reward."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..batch import TensorBatch
from .base import Reward


class RewardEnsemble(Reward):
    """Σ wᵢ rᵢ. `scores` keeps the terms apart, unweighted, for metrics and for finding the one at fault.

    Args:
        rewards: (reward, weight) pairs; names must differ, and a weight may be negative.
        held_out: rewards that are measured and never followed.
    """

    name = "ensemble"

    def __init__(self, rewards: Sequence[tuple[Reward, float]], held_out: Sequence[Reward] = ()):
        names = [reward.name for reward, _ in rewards] + [reward.name for reward in held_out]
        if len(set(names)) < len(names):
            raise ValueError(f"rewards named twice: {', '.join(names)}")
        if not any(weight for _, weight in rewards):
            raise ValueError("the weights of the rewards sum to nothing: give at least one reward a weight")
        self.rewards = {reward.name: reward for reward, _ in rewards}
        self.weights = {reward.name: float(weight) for reward, weight in rewards}
        self.held_out = {reward.name: reward for reward in held_out}

    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        return TensorBatch(
            {
                f"{name}/{key}": tensor
                for name, reward in (self.rewards | self.held_out).items()
                for key, tensor in reward.encode_text(prompts).tensors.items()
            }
        )

    def scores(self, images: Tensor, text: TensorBatch, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Each reward's own scores [B], unweighted: those of `names`, or of all that are followed."""
        every = self.rewards | self.held_out
        chosen = self.rewards if names is None else names
        return {name: every[name].score(images, _part(text, name)).float() for name in chosen}

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum of `scores`, [B]."""
        return torch.stack([self.weights[name] * score for name, score in scores.items()]).sum(0)

    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        return self.combine(self.scores(images, text))

    def to(self, device: torch.device | str) -> "RewardEnsemble":
        for reward in (self.rewards | self.held_out).values():
            reward.to(device)
        return self


def _part(text: TensorBatch, name: str) -> TensorBatch:
    prefix = f"{name}/"
    return TensorBatch({k.removeprefix(prefix): t for k, t in text.tensors.items() if k.startswith(prefix)})
