"""Rewards from their configurations alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import (
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
)

from ..batch import TensorBatch
from ..embedded import REWARD_FOLDER
from ..rewards import Reward, RewardEnsemble, imagereward
from ..rewards.aesthetic import Aesthetic
from ..rewards.clip import ClipBackbone, ClipReward
from ..rewards.diversity import Diversity
from ..rewards.given import GivenScores
from ..rewards.heads import new_head
from ..rewards.imagereward import ImageReward
from ..rewards.redness import Redness
from ..rewards.vision_language import MODEL
from .judges import CountedJudge, judge_model, qwen2_vl_7b
from .models import default_dtype

VIT_H = {
    "projection_dim": 1024,
    "text_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "projection_dim": 1024,
    },
    "vision_config": {
        "hidden_size": 1280,
        "intermediate_size": 5120,
        "num_hidden_layers": 32,
        "num_attention_heads": 16,
        "patch_size": 14,
        "projection_dim": 1024,
    },
}
"""OpenCLIP's ViT-H/14: HPSv2.1, PickScore and CLIP-H."""

VIT_L = {
    "projection_dim": 768,
    "text_config": {
        "hidden_size": 768,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "projection_dim": 768,
    },
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 14,
        "projection_dim": 768,
    },
}
"""OpenAI's CLIP ViT-L/14: the aesthetic score."""


def _clip(config: CLIPConfig, name: str) -> ClipReward:
    reward = ClipReward(ClipBackbone(CLIPModel(config), None), name)
    width = config.projection_dim

    def encode_text(prompts: Sequence[str]) -> TensorBatch:
        return TensorBatch({"features": torch.randn(len(prompts), width)})

    reward.encode_text = encode_text  # type: ignore[method-assign]
    return reward


def _imagereward() -> ImageReward:
    vision = BlipVisionConfig(
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=24,
        num_attention_heads=16,
        image_size=224,
        patch_size=16,
    )
    text = BlipTextConfig(vocab_size=30524, encoder_hidden_size=1024, num_attention_heads=12)
    head = new_head(text.hidden_size).float()
    models = BlipVisionModel(vision).eval(), BlipTextModel(text, add_pooling_layer=False).eval(), head
    for model in models:
        model.requires_grad_(False)
    reward = ImageReward(*models, None)
    shape = (1, imagereward.WINDOW)

    def encode_text(prompts: Sequence[str]) -> TensorBatch:
        ones = torch.ones(len(prompts), *shape, dtype=torch.long)
        return TensorBatch({"ids": ones, "mask": ones})

    reward.encode_text = encode_text  # type: ignore[method-assign]
    return reward


def _aesthetic() -> Aesthetic:
    config = CLIPConfig(**VIT_L)
    backbone = ClipBackbone(CLIPModel(config), None)
    return Aesthetic(backbone, new_head(config.projection_dim).float().requires_grad_(False))


def _embedded() -> ClipReward:
    return _clip(CLIPConfig.from_pretrained(REWARD_FOLDER), "embedded")


COUNTED: dict[str, Callable[[], Reward]] = {
    "hpsv2": lambda: _clip(CLIPConfig(**VIT_H), "hpsv2"),
    "pickscore": lambda: _clip(CLIPConfig(**VIT_H), "pickscore"),
    "clip": lambda: _clip(CLIPConfig(**VIT_H), "clip"),
    "imagereward": _imagereward,
    "aesthetic": _aesthetic,
    "embedded": _embedded,
    "redness": Redness,
    "diversity": Diversity,
    "given": GivenScores,
    "hpsv3": lambda: CountedJudge("hpsv3", qwen2_vl_7b()),
}
"""By name."""

ASKS_A_JUDGE = ("vqa", "vqa-questions")


def is_counted(name: str) -> bool:
    return name in COUNTED or name in ASKS_A_JUDGE


def build_rewards(
    names: Sequence[str],
    held_out: Sequence[str],
    dtype: torch.dtype,
    offload: bool,
    chunk: int | None,
    judge: str = MODEL,
) -> RewardEnsemble:
    """The ensemble of a run, with random weights; inside `without_data` it takes no memory. Those that are not
    `is_counted` are left out.

    Args:
        judge: the model that `vqa` and `vqa-questions` share.

    Raises:
        SettingError: nothing is known of `judge`.
    """
    models: dict[str, PreTrainedModel] = {}

    def make(name: str) -> Reward:
        if name not in ASKS_A_JUDGE:
            return COUNTED[name]()
        if not models:
            models[judge] = judge_model(judge)
        return CountedJudge(name, models[judge])

    with default_dtype(dtype):
        followed = [(make(name), 1.0) for name in names if is_counted(name)]
        measured = [make(name) for name in held_out if is_counted(name)]
    return RewardEnsemble(followed or [(Redness(), 1.0)], measured, None, offload, chunk)


def modules_of(reward: Reward) -> list[nn.Module]:
    """What of it has weights, within a backbone or a judge of its as well."""
    holders = [value for value in vars(reward).values() if hasattr(value, "__dict__")]
    values = [value for owner in (reward, *holders) for value in vars(owner).values()]
    return [value for value in values if isinstance(value, nn.Module)]


def tensors_of(reward: Reward) -> list[Tensor]:
    """Its weights."""
    return [t for module in modules_of(reward) for t in (*module.parameters(), *module.buffers())]


@contextmanager
def every_window_used() -> Iterator[None]:
    """Without data, nobody can tell which of a prompt's windows are empty."""

    def all_windows(text: TensorBatch) -> tuple[Tensor, Tensor, Tensor]:
        count, windows, _ = text["ids"].shape
        row = torch.arange(count, device=text["ids"].device).repeat_interleave(windows)
        return row, text["ids"].flatten(0, 1), text["mask"].flatten(0, 1)

    own, imagereward.used_windows = imagereward.used_windows, all_windows
    try:
        yield
    finally:
        imagereward.used_windows = own
