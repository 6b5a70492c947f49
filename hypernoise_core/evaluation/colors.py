"""The colour of a thing in an image, by CLIP on its crop, as in GenEval."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from ..rewards.clip import CLIP_L, ClipBackbone
from .clip import load_clip_backbone
from .geneval import COLORS, Detection

TEMPLATES = ("a photo of a {color} {name}", "a photo of a {color}-colored {name}", "a photo of a {color} object")
BACKGROUND = "#999"
"""The colour painted over the pixels that do not belong to the thing."""


class ColorClassifier:
    """Names colours by the nearest of CLIP's mean text features over `TEMPLATES`."""

    def __init__(self, backbone: ClipBackbone):
        self._backbone = backbone
        self._directions = lru_cache(maxsize=256)(self._text_directions)

    @torch.no_grad()
    def __call__(self, image: Image.Image, things: Sequence[Detection], name: str) -> list[str]:
        """One of `COLORS` for each of the things, all of class `name`."""
        named = []
        for thing in things:
            crop = _crop(image, thing)
            pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None].float() / 255
            features = self._backbone.image_features(pixels.to(self._backbone.model.device))
            named.append(COLORS[int((features @ self._directions(name).T).argmax())])
        return named

    def _text_directions(self, name: str) -> Tensor:
        """Unit vectors [colours, D]."""
        prompts = [template.format(color=color, name=name) for color in COLORS for template in TEMPLATES]
        features = self._backbone.text_features(prompts, "report").view(len(COLORS), len(TEMPLATES), -1)
        return F.normalize(features.mean(1), dim=-1)


def load_color_classifier(source: str = CLIP_L, device: str = "cpu") -> ColorClassifier:
    """
    Raises:
        ValueError: there is no CLIP at that hub id or folder.
    """
    return ColorClassifier(load_clip_backbone(source, "clip").to(device))


def _crop(image: Image.Image, thing: Detection) -> Image.Image:
    image = image.convert("RGB")
    if thing.mask is not None:
        blank = Image.new("RGB", image.size, BACKGROUND)
        image = Image.composite(image, blank, Image.fromarray(thing.mask))
    left, top, right, bottom = (round(edge) for edge in thing.box)
    return image.crop((left, top, max(right, left + 1), max(bottom, top + 1)))
