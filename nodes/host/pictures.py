"""Prepare IMAGE batches for drawing on a page with labels."""

from PIL import Image
from torch import Tensor

GAP = 4
"""Pixels between images and around labels."""
LEGIBLE = 256
"""Images narrower than this are enlarged by a whole factor, so that their labels fit."""


def legible(images: Tensor) -> Tensor:
    """IMAGE [B, H, W, C], enlarged if labels would not fit."""
    times = max(1, LEGIBLE // images.shape[2])
    return images.repeat_interleave(times, 1).repeat_interleave(times, 2)


def to_pil(image: Tensor) -> Image.Image:
    """One image [H, W, C] in [0, 1]."""
    return Image.fromarray((image[..., :3].clamp(0, 1) * 255).round().byte().cpu().numpy())
