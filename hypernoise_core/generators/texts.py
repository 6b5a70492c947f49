"""Encoded texts of different lengths as one batch."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from ..batch import TensorBatch


def padded(texts: list[Tensor]) -> TensorBatch:
    """Texts [L, …] each as `embeds` [B, longest, …] with zeros behind, and `mask` [B, longest], true at their tokens.

    `TensorBatch.cat` pads with zeros as well, so that batches of them join.
    """
    masks = [torch.ones(len(text), dtype=torch.bool, device=text.device) for text in texts]
    return TensorBatch({"embeds": pad_sequence(texts, batch_first=True), "mask": pad_sequence(masks, batch_first=True)})


def masked(embeds: Tensor, mask: Tensor) -> list[Tensor]:
    """The tokens of each text [L, …], from `embeds` [B, longest, …] with padding anywhere."""
    return [own[kept.bool()] for own, kept in zip(embeds, mask, strict=True)]
