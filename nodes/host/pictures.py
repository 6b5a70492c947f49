"""IMAGE batches as what is drawn on a page with labels."""

from PIL import Image
from torch import Tensor

GAP = 4
"""Pixels between pictures and around labels."""
LEGIBLE = 256
"""Pictures narrower than this are enlarged a whole number of times, so that their labels fit."""


def legible(images: Tensor) -> Tensor:
    """IMAGE [B, H, W, C], enlarged where labels would not fit."""
    times = max(1, LEGIBLE // images.shape[2])
    return images.repeat_interleave(times, 1).repeat_interleave(times, 2)


def to_pil(image: Tensor) -> Image.Image:
    """One picture [H, W, C] in [0, 1]."""
    return Image.fromarray((image[..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy())
