"""Prepare images for a reward: from ComfyUI's format, and for a vision tower."""

import torch
from torch import Tensor
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def preprocess(images: Tensor, size: int) -> Tensor:
    """Images [B, 3, H, W] in [0, 1] as CLIP and BLIP take them: [B, 3, size, size], float32, normalised.

    The short side is resized to `size` (bicubic, antialiased), the centre is cropped, and CLIP's mean and standard
    deviation are applied. This equals torchvision's Resize, CenterCrop and Normalize on float tensors, bit for bit.
    """
    images = images.float()
    height, width = images.shape[-2:]
    if min(height, width) != size:
        height, width = (int(side * size / min(height, width)) for side in (height, width))
        images = F.interpolate(images, (height, width), mode="bicubic", antialias=True, align_corners=False)
    top, left = round((height - size) / 2), round((width - size) / 2)
    images = images[..., top : top + size, left : left + size]
    mean, std = (images.new_tensor(v).view(3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
    return (images - mean) / std


def from_channels_last(images: Tensor) -> Tensor:
    """Images [B, H, W, 3 or more], float in [0, 1] or uint8, as [B, 3, H, W] float32 in [0, 1]. Alpha is dropped.

    Raises:
        ValueError: another shape or dtype, or values outside an image's range.
    """
    if images.dim() != 4 or images.shape[-1] < 3 or not len(images):
        raise ValueError(f"images of shape {list(images.shape)} cannot be scored: give [B, H, W, 3]")
    pictures = images[..., :3].movedim(-1, 1)
    if images.dtype == torch.uint8:
        return pictures.float() / 255
    if not images.dtype.is_floating_point:
        raise ValueError(f"images of dtype {images.dtype} cannot be scored: give float in [0, 1] or uint8")
    return checked(pictures.float())


def checked(images: Tensor, tolerance: float = 1e-3) -> Tensor:
    """Return the images [B, 3, H, W] unchanged if every value is finite and in [0, 1].

    Raises:
        ValueError: otherwise; the message names the first wrong image and its range.
    """
    low, high = images.detach().flatten(1).aminmax(dim=1)
    good = (low >= -tolerance) & (high <= 1 + tolerance)  # false for NaN, which aminmax passes on
    if good.all():
        return images
    worst = int((~good).int().argmax())
    if not images[worst].isfinite().all():
        raise ValueError(f"image {worst} has values that are not finite: it cannot be scored")
    raise ValueError(
        f"image {worst} has values from {low[worst]:.4g} to {high[worst]:.4g}; rewards take [0, 1]: "
        "divide by 255, or undo a [-1, 1] normalisation"
    )
