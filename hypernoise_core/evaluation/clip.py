"""CLIP as a judge: the backbone of a published CLIP, and the cosine of image and prompt."""

import torch
from torch import Tensor
from transformers import AutoTokenizer, CLIPModel

from ..rewards.clip import ClipBackbone
from .loading import load_part, load_whole

CLIP_B = "openai/clip-vit-base-patch32"
"""The CLIP of T2I-CompBench's CLIPScore."""


def load_clip_backbone(source: str, option: str) -> ClipBackbone:
    """
    Raises:
        ValueError: there is no CLIP at that hub id or folder.
    """
    tokenizer = load_part(AutoTokenizer, source, option)
    return ClipBackbone(load_whole(CLIPModel, source, option), tokenizer)


class ClipScore:
    """Cosine in [-1, 1] of images and a prompt, unscaled: T2I-CompBench's score for relations that are not spatial."""

    def __init__(self, backbone: ClipBackbone):
        self._backbone = backbone

    @torch.no_grad()
    def __call__(self, images: Tensor, prompt: str) -> list[float]:
        """One score for each of the images [B, 3, H, W] in [0, 1]."""
        features = self._backbone.image_features(images.to(self._backbone.model.device))
        return (features @ self._backbone.text_features([prompt], "report")[0]).tolist()


def load_clip_score(source: str = CLIP_B, device: str = "cpu") -> ClipScore:
    """
    Raises:
        ValueError: there is no CLIP at that hub id or folder.
    """
    return ClipScore(load_clip_backbone(source, "clip_score").to(device))
