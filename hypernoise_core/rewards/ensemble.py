"""A weighted sum of rewards that is itself a reward."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ..batch import TensorBatch
from ..known_gradient import with_gradient
from ..settings import SettingError
from .base import BackboneReward, Reward
from .checked import checked_score, placed
from .normalization import Normalization

PAPER_WEIGHTS = {"hpsv2": 5.0, "imagereward": 1.0, "clip": 0.01, "pickscore": 0.05}
"""The paper's weights for its four rewards, on their own scales. A reward without a weight gets this one, or 1 if it is
not listed."""


class RewardEnsemble(Reward):
    """Σ wᵢ rᵢ, where each rᵢ is normalised first if asked for.

    `score` takes the gradient of each encoder as soon as its scores are known. Only one encoder's activations are then
    in memory at a time, and encoders can be moved out of the way in between. Rewards on the same backbone share one
    pass of it.

    Args:
        rewards: (reward, weight) pairs. Names must differ; a weight may be negative.
        held_out: rewards that are measured and never trained on. If one falls while the others rise, training is
            exploiting the others.
        normalization: none by default.
        offload: keep weights on the CPU and move each encoder to the images' device only while it is used.
        chunk: images scored at a time; all by default. A smaller value needs less memory and gives the same result.
    """

    name = "ensemble"

    def __init__(
        self,
        rewards: Sequence[tuple[Reward, float]],
        held_out: Sequence[Reward] = (),
        normalization: Normalization | None = None,
        offload: bool = False,
        chunk: int | None = None,
    ):
        names = [reward.name for reward, _ in rewards]
        if len(set(names)) < len(names):
            raise ValueError(f"rewards named twice: {', '.join(names)}")
        for reward in held_out:
            if reward.name in names:
                raise SettingError(
                    "{held_out}: reward {!r} is named twice: you cannot hold out a reward that you train on",
                    reward.name,
                )
            names.append(reward.name)
        if not any(weight for _, weight in rewards):
            raise ValueError("no reward has a weight other than zero: name at least one")
        if chunk is not None and chunk < 1:
            raise SettingError("{chunk} is {}: give at least 1", chunk)
        self.rewards = {reward.name: reward for reward, _ in rewards}
        self.weights = {reward.name: float(weight) for reward, weight in rewards}
        self.held_out = {reward.name: reward for reward in held_out}
        self.normalization = normalization or Normalization()
        self.offload, self.chunk = offload, chunk
        self.device = torch.device("cpu")
        self.per_picture = all(reward.per_picture for reward in self.rewards.values())
        self.differentiable = all(reward.differentiable for reward in self.rewards.values())

    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        tensors: dict[str, Tensor] = {}
        for name, reward in self._all().items():
            with self._present(reward), placed(reward):
                tensors |= {f"{name}/{key}": tensor for key, tensor in reward.encode_text(prompts).tensors.items()}
        return TensorBatch(tensors).to(self.device)

    @torch.no_grad()
    def scores(self, images: Tensor, text: TensorBatch, names: Iterable[str] | None = None) -> dict[str, Tensor]:
        """Each reward's own scores [B], neither weighted nor normalised, without gradients: of `names`, or of all
        rewards that are trained on."""
        chosen = {name: self._all()[name] for name in (self.rewards if names is None else names)}
        apart, together = _split(chosen)
        scores, _ = self._judge_apart(apart, images, text, differentiate=False)
        for name, reward in together.items():
            with self._present(reward):
                scores[name] = checked_score(reward, images, _part(text, name))
        return {name: scores[name] for name in chosen}

    def judge(self, images: Tensor, text: TensorBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted sum [B], which can be differentiated once, and each reward's own scores, without gradients.

        Differentiable calls count as training: they update the running statistics for later calls.
        """
        differentiate = torch.is_grad_enabled() and images.requires_grad
        apart, together = _split(self.rewards)
        scores, gradient = self._judge_apart(apart, images, text, differentiate)
        total = torch.zeros(len(images), device=images.device)
        if apart:
            total = self.combine(scores)
        if gradient is not None:
            total = with_gradient(images, total, gradient)
        for name, reward in together.items():
            own = checked_score(reward, images, _part(text, name))
            total = total + self.combine({name: own})
            scores[name] = own.detach()
        if differentiate:
            for name, own in scores.items():
                self.normalization.observe(name, own)
        return total, {name: scores[name] for name in self.rewards}

    def combine(self, scores: Mapping[str, Tensor]) -> Tensor:
        """The weighted sum [B] of `scores`, after normalisation."""
        return torch.stack([self.weights[name] * self.normalization(name, own) for name, own in scores.items()]).sum(0)

    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        return self.judge(images, text)[0]

    @torch.no_grad()
    def explain(self, images: Tensor, text: TensorBatch) -> list[dict[str, float]]:
        """What each reward says of its score; those that are held out too."""
        told: list[dict[str, float]] = [{} for _ in images]
        for name, reward in self._all().items():
            with self._present(reward), placed(reward):
                for own, more in zip(told, reward.explain(images, _part(text, name)), strict=True):
                    own |= more
        return told

    def fault(self, images: Tensor, text: TensorBatch) -> str | None:
        """A sentence that names the reward whose scores or gradients are not finite, or None."""
        for name, reward in self.rewards.items():
            leaf = images.detach().clone().requires_grad_()
            with self._present(reward), torch.enable_grad():
                score = checked_score(reward, leaf, _part(text, name))
                if not score.isfinite().all():
                    return f"reward {name!r} returned values that are not finite"
                if not score.requires_grad:
                    continue
                (gradient,) = torch.autograd.grad(score.sum(), leaf, allow_unused=True)
            if gradient is not None and not gradient.isfinite().all():
                return f"the gradient of reward {name!r} is not finite"
        return None

    def to(self, device: torch.device | str) -> "RewardEnsemble":
        self.device = torch.device(device)
        for reward in self._all().values():
            reward.to("cpu" if self.offload else device)
        return self

    def checkpoint_gradients(self, enabled: bool = True) -> None:
        for reward in self.rewards.values():
            reward.checkpoint_gradients(enabled)

    def _judge_apart(
        self, rewards: dict[str, Reward], images: Tensor, text: TensorBatch, differentiate: bool
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        """Scores of the rewards that judge each image separately, and the gradient of their weighted sum with respect
        to the images, taken encoder by encoder. Both without a graph."""
        pictures = images.detach().float()
        gradient = torch.zeros_like(pictures) if differentiate else None
        scores = {name: torch.zeros(len(images), device=images.device) for name in rewards}
        for group in _by_backbone(rewards):
            with self._present(*group.values()), torch.set_grad_enabled(differentiate):
                for rows in self._chunks(images):
                    leaf = pictures[rows].requires_grad_(differentiate)
                    own = _group_scores(group, leaf, text.rows(rows))
                    for name, values in own.items():
                        scores[name][rows] = values.detach()
                    if gradient is not None:
                        gradient[rows] += _gradient(self.combine(own), leaf)
        return scores, gradient

    def _chunks(self, images: Tensor) -> list[slice]:
        size = self.chunk or len(images)
        return [slice(start, start + size) for start in range(0, len(images), size)]

    @contextmanager
    def _present(self, *rewards: Reward) -> Iterator[None]:
        """Keep their weights on the device inside the block, if they are offloaded."""
        if not self.offload:
            yield
            return
        for reward in rewards:
            reward.to(self.device)
        try:
            yield
        finally:
            for reward in rewards:
                reward.to("cpu")

    def _all(self) -> dict[str, Reward]:
        return self.rewards | self.held_out


def _gradient(values: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of their sum; zero where nothing depends on `leaf`."""
    if not values.requires_grad:
        return torch.zeros_like(leaf)
    return torch.autograd.grad(values.sum(), leaf, allow_unused=True, materialize_grads=True)[0]


def _split(rewards: Mapping[str, Reward]) -> tuple[dict[str, Reward], dict[str, Reward]]:
    """Rewards that judge each image separately, and rewards that judge it within its batch."""
    apart = {name: reward for name, reward in rewards.items() if reward.per_picture}
    return apart, {name: reward for name, reward in rewards.items() if name not in apart}


def _by_backbone(rewards: Mapping[str, Reward]) -> list[dict[str, Reward]]:
    """Rewards in groups that share an encoder."""
    groups: dict[int, dict[str, Reward]] = {}
    for name, reward in rewards.items():
        key = id(reward.backbone) if isinstance(reward, BackboneReward) else id(reward)
        groups.setdefault(key, {})[name] = reward
    return list(groups.values())


def _group_scores(group: Mapping[str, Reward], images: Tensor, text: TensorBatch) -> dict[str, Tensor]:
    """Unweighted scores of one group, from one pass of its encoder."""
    heads = {name: reward for name, reward in group.items() if isinstance(reward, BackboneReward)}
    if not heads:
        return {name: checked_score(reward, images, _part(text, name)) for name, reward in group.items()}
    features = next(iter(heads.values())).backbone.image_features(images)
    return {name: reward.score_features(features, _part(text, name)).float() for name, reward in heads.items()}


def _part(text: TensorBatch, name: str) -> TensorBatch:
    prefix = f"{name}/"
    return TensorBatch({k.removeprefix(prefix): t for k, t in text.tensors.items() if k.startswith(prefix)})
