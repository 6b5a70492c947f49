"""How far the images of one prompt are from one another in pixels. It needs no model, so training measures it too."""

from itertools import combinations

from torch import Tensor
from torch.nn import functional as F


def pixel_diversity(images: Tensor) -> float:
    """Mean root-mean-square difference between images [N, 3, H, W] of one prompt, averaged to 16x16 pixels. 0 if the
    seed changes nothing."""
    small = F.adaptive_avg_pool2d(images.float(), 16).flatten(1)
    pairs = list(combinations(range(len(images)), 2))
    return sum((small[i] - small[j]).square().mean().sqrt().item() for i, j in pairs) / len(pairs)
