"""Vision-language models that judge, from their configurations alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    PreTrainedModel,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLForConditionalGeneration,
)
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from ..batch import TensorBatch
from ..rewards import Reward
from ..rewards.hpsv3 import HPSv3
from ..settings import SettingError
from .models import TOKENS
from .text_encoders import SMALLER_VISION, qwen3_vl, qwen3_vl_4b_config

ASKED = 64
"""Tokens of the chat template and of the question around a prompt."""

HPSV3_SIDE = 16
"""Of the square of tokens that HPSv3 makes of every picture."""

COUNTED_KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Whose pictures' path through the model is known here."""


def qwen3_vl_2b() -> PreTrainedModel:
    return Qwen3VLForConditionalGeneration(qwen3_vl(2048, 6144, 28, 16, SMALLER_VISION | {"out_hidden_size": 2048}))


def qwen3_vl_4b() -> PreTrainedModel:
    return Qwen3VLForConditionalGeneration(qwen3_vl_4b_config())


def qwen3_vl_8b() -> PreTrainedModel:
    return Qwen3VLForConditionalGeneration(qwen3_vl(4096, 12288, 36, 32, {"out_hidden_size": 4096}, tied=False))


def qwen2_vl_7b() -> PreTrainedModel:
    """Of HPSv3."""
    text = {
        "vocab_size": 151657,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    }
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text))


class CountedJudge(Reward):
    """One picture after the other is shown to a model with random weights, which is asked about it.

    HPSv3 makes every picture as large, and reads the last state where the others write a word.
    """

    differentiable = False

    def __init__(self, name: str, model: PreTrainedModel):
        self.name, self.model = name, model.eval().requires_grad_(False)
        self.model.tie_weights()
        if name == HPSv3.name:
            self.model.lm_head = nn.Identity()

    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        return TensorBatch({"ids": torch.ones(len(prompts), TOKENS + ASKED, dtype=torch.long)})

    @torch.no_grad()
    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        vision = self.model.config.vision_config
        square = (images.shape[-2] * images.shape[-1]) ** 0.5 / (vision.patch_size * vision.spatial_merge_size)
        side = HPSV3_SIDE if self.name == HPSv3.name else max(1, round(square))
        seen = self._seen(len(images), side * vision.spatial_merge_size)
        inner = self.model.model.language_model
        embedded = torch.cat([seen.unflatten(0, (len(images), -1)), inner.embed_tokens(text["ids"])], 1)
        last = inner(inputs_embeds=embedded, use_cache=False).last_hidden_state[:, -1]
        return self.model.lm_head(last).float().log_softmax(-1)[:, 0]

    def _seen(self, count: int, grid: int) -> Tensor:
        """What the vision tower makes of `count` pictures of `grid` by `grid` patches."""
        tower, vision = self.model.model.visual, self.model.config.vision_config
        patch = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
        dtype = next(tower.parameters()).dtype
        return tower(
            torch.randn(count * grid**2, patch, dtype=dtype), None, **_places(vision, count, grid)
        ).pooler_output


def _places(vision: Any, count: int, grid: int) -> dict[str, Any]:
    """What a vision tower would read off its pictures' sizes, which have values."""
    with unset_fake_temporarily():
        sizes = torch.tensor([[1, grid, grid]] * count)
        merge = vision.spatial_merge_size
        places = {
            "cu_seqlens": np.arange(count + 1) * grid**2,
            "position_ids": get_vision_position_ids(sizes, merge),
        }
        if side := int(getattr(vision, "num_position_embeddings", 0) ** 0.5):
            indices, weights = get_vision_interpolation_indices_and_weights(sizes, side, "bilinear", True, merge)
            places |= {"interp_indices": indices, "interp_weights": weights}
        if window := getattr(vision, "window_size", None):
            index, ends = get_vision_window_index(sizes, merge, window, vision.patch_size)
            places |= {"window_index": index, "cu_window_seqlens": ends.numpy()}
    return places


JUDGES: dict[str, Callable[[], PreTrainedModel]] = {
    "Qwen3-VL-2B-Instruct": qwen3_vl_2b,
    "Qwen3-VL-4B-Instruct": qwen3_vl_4b,
    "Qwen3-VL-8B-Instruct": qwen3_vl_8b,
}
"""By the last part of the hub id."""


def judge_model(name: str) -> PreTrainedModel:
    """A model with random weights, by its hub id or folder.

    Raises:
        SettingError: its configuration is not known here and cannot be read, or is of another kind.
    """
    if make := JUDGES.get(Path(name).name):
        return make()
    try:
        config = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise SettingError("{judge} is {!r}, whose configuration cannot be read ({})", name, error) from error
    if config.model_type not in COUNTED_KINDS:
        kinds = ", ".join(COUNTED_KINDS)
        raise SettingError("{judge} is {!r}, a {}: only {} can be counted", name, config.model_type, kinds)
    return AutoModelForImageTextToText.from_config(config)


def quantized_bytes(model: PreTrainedModel, bits: float) -> int:
    """Of weights of which linears have `bits` a value. The layer that writes words, norms and tables stay as they
    are."""
    written = model.get_output_embeddings()
    linears = {id(m.weight) for m in model.modules() if isinstance(m, nn.Linear) and m is not written}
    return sum(round(p.numel() * bits / 8) if id(p) in linears else p.numel() * p.itemsize for p in model.parameters())
