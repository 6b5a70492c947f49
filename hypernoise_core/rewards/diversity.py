"""Diversity over a batch, as an example of a reward of your own (`hypernoise_core.rewards.diversity:Diversity`)."""

from collections.abc import Sequence
from zlib import crc32

import torch
from torch import Tensor
from torch.nn import functional as F

from ..batch import TensorBatch
from .base import Reward


class Diversity(Reward):
    """How far an image is from the other images of its prompt in the batch: the mean root-mean-square difference of
    their 8x8 thumbnails, in [0, 1]. 0 for a single image. Train it with several images per prompt."""

    name = "diversity"
    per_picture = False

    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        return TensorBatch({"prompt": torch.tensor([crc32(prompt.encode()) for prompt in prompts])})

    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        thumbnails = F.adaptive_avg_pool2d(images.float(), 8).flatten(1)
        squares = (thumbnails[:, None] - thumbnails[None]).square().mean(-1)
        same = (text["prompt"][:, None] == text["prompt"][None]).fill_diagonal_(False)
        distances = torch.where(same, squares + 1e-8, 1.0).sqrt() * same  # the root's slope at 0 is infinite
        return distances.sum(1) / same.sum(1).clamp_min(1)
