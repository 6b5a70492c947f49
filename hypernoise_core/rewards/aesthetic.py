"""LAION's aesthetic score, about 1 to 10. It ignores the prompt."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..batch import TensorBatch
from ..tensor_file import read_tensors
from .base import BackboneReward
from .checkpoints import find_file
from .clip import CLIP_L, ClipBackbone, load_clip
from .heads import load_head

HUB, FILE = "trl-lib/ddpo-aesthetic-predictor", "aesthetic-model.pth"
ORIGINAL_FILE = "sac+logos+ava1-l14-linearMSE.pth"
"""The same weights as published by their author (github.com/christophschuhmann/improved-aesthetic-predictor)."""


class Aesthetic(BackboneReward):
    """A chain of linear layers on the unit image features of CLIP ViT-L/14."""

    name = "aesthetic"

    def __init__(self, backbone: ClipBackbone, head: nn.Sequential):
        self.backbone, self.head = backbone, head

    def score_features(self, features: Tensor, text: TensorBatch) -> Tensor:
        return self.head(features).squeeze(-1)

    def to(self, device: torch.device | str) -> "Aesthetic":
        self.backbone.to(device)
        self.head.to(device)
        return self


def find_aesthetic(weights: str | Path | None) -> Path:
    """The head's file, under either of its names. `weights` is as in `checkpoints.find_file`.

    Raises:
        ValueError: it is not there.
    """
    original = weights and Path(weights) / ORIGINAL_FILE
    return original if original and original.is_file() else find_file("aesthetic", weights, HUB, FILE)


def load_aesthetic(weights: str | Path | None, dtype: torch.dtype) -> Aesthetic:
    """`weights` is a folder with the head's file and the folder of CLIP ViT-L/14, or None to download.

    Raises:
        ValueError: either of them is missing or of another kind.
    """
    folder, path = Path(weights) if weights else None, find_aesthetic(weights)
    around = path.parent if folder and folder.is_file() else weights
    backbone = load_clip("aesthetic", around if folder and folder.exists() else None, CLIP_L, dtype)
    width = backbone.model.config.projection_dim
    return Aesthetic(backbone, load_head(read_tensors(path)[0], "layers.", width, path))
