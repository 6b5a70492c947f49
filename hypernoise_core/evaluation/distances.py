"""How far the images of one prompt are from one another, by three measures: pixels, DINOv2, LPIPS."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoImageProcessor, Dinov2Model

from ..settings import SettingError
from .loading import load_part, load_whole
from .thumbnails import pixel_diversity

DINOV2 = "facebook/dinov2-base"

Diversity = Callable[[Tensor], float]
"""(images [N, 3, H, W] in [0, 1] of one prompt, N at least 2) -> their mean distance. 0 if the seed changes nothing."""


class DinoDiversity:
    """Mean of 1 - cosine between DINOv2's class tokens: content more than style (Oquab et al. 2023)."""

    def __init__(self, model: Dinov2Model, processor):
        self._model, self._processor = model, processor

    @torch.no_grad()
    def __call__(self, images: Tensor) -> float:
        arrays = [(picture * 255).round().byte().permute(1, 2, 0).cpu().numpy() for picture in images]
        pixels = self._processor(images=arrays, return_tensors="pt").pixel_values.to(self._model.device)
        features = F.normalize(self._model(pixel_values=pixels).last_hidden_state[:, 0].float(), dim=-1)
        rows, columns = np.triu_indices(len(images), 1)
        return (1 - (features @ features.T)[rows, columns]).mean().item()


class LpipsDiversity:
    """Mean LPIPS (AlexNet) between images (Zhang et al. 2018): how different they look to a network's early layers.

    Raises:
        ValueError: the package `lpips` is not installed.
    """

    def __init__(self, device: str = "cpu"):
        try:
            import lpips
        except ImportError as error:
            raise SettingError(
                "{diversity} lpips needs the package lpips: pip install lpips, or leave it out"
            ) from error
        self._distance, self._device = lpips.LPIPS(net="alex", verbose=False).eval().to(device), device

    @torch.no_grad()
    def __call__(self, images: Tensor) -> float:
        images = images.to(self._device)
        pairs = list(combinations(range(len(images)), 2))
        return sum(self._distance(images[i : i + 1], images[j : j + 1], normalize=True).item() for i, j in pairs) / len(
            pairs
        )


def load_diversity(name: str, dino: str = DINOV2, device: str = "cpu") -> Diversity:
    """The measure with that name: `pixels` (of 16x16 thumbnails), `dinov2` or `lpips`.

    Raises:
        ValueError: an unknown name, or what it needs is missing.
    """
    if name == "pixels":
        return pixel_diversity
    if name == "dinov2":
        processor = load_part(AutoImageProcessor, dino, "dino")
        return DinoDiversity(load_whole(Dinov2Model, dino, "dino").to(device), processor)
    if name == "lpips":
        return LpipsDiversity(device)
    raise SettingError("{diversity} {!r} is unknown: choose from {}", name, ", ".join(DIVERSITIES))


DIVERSITIES = ("pixels", "dinov2", "lpips")
