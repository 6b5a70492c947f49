"""CLIP score: scaled cosine between picture and prompt, for any `CLIPModel` folder (the embedded reward is one)."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel

from ..batch import TensorBatch
from .base import Reward

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ClipReward(Reward):
    """exp(logit_scale) · cos(image, text) of a `CLIPModel`.

    Pictures are resized to the model's size on their short side (bicubic, antialiased), cropped in the middle and
    normalised by CLIP's mean and standard deviation.
    """

    def __init__(self, source: str | Path, name: str = "clip"):
        self.name = name
        try:
            self.model = CLIPModel.from_pretrained(source, dtype=torch.float32).eval().requires_grad_(False)
            self.tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ValueError(f"no CLIPModel at {source}: give a folder saved by transformers or a hub id") from error
        self.size = self.model.config.vision_config.image_size

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        length = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).to(self.model.device)
        return TensorBatch({"features": F.normalize(self.model.get_text_features(**tokens).pooler_output, dim=-1)})

    def image_features(self, images: Tensor) -> Tensor:
        """Unit image embeddings [B, D] of pictures [B, 3, H, W] in [0, 1]."""
        pixels = preprocess(images, self.size)
        return F.normalize(self.model.get_image_features(pixel_values=pixels).pooler_output.float(), dim=-1)

    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        cosine = (self.image_features(images) * text["features"].float()).sum(-1)
        return self.model.logit_scale.float().exp() * cosine

    def to(self, device: torch.device | str) -> "ClipReward":
        self.model.to(device)
        return self


def preprocess(images: Tensor, size: int) -> Tensor:
    """Pictures [B, 3, H, W] in [0, 1] as a CLIP takes them: [B, 3, size, size], normalised."""
    height, width = images.shape[-2:]
    if min(height, width) != size:
        shape = [round(side * size / min(height, width)) for side in (height, width)]
        images = F.interpolate(images, shape, mode="bicubic", antialias=True, align_corners=False)
        height, width = shape
    top, left = round((height - size) / 2), round((width - size) / 2)
    images = images[..., top : top + size, left : left + size]
    mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (images - mean) / std
