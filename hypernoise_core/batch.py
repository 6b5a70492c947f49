"""Named tensors that share their first dimension: what a generator or a reward encodes a list of prompts into."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorBatch:
    """Tensors by name, each [B, …]. A text encoder makes a batch, callers cache it and pick rows, and only its maker
    looks inside."""

    tensors: dict[str, Tensor]

    def __post_init__(self):
        lengths = {name: len(tensor) for name, tensor in self.tensors.items()}
        assert len(set(lengths.values())) == 1, f"tensors of one batch differ in length: {lengths}"

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def rows(self, index: slice | Sequence[int] | Tensor) -> TensorBatch:
        """The given rows, in the given order. An index may repeat."""
        index = index if isinstance(index, slice) else torch.as_tensor(index)
        return TensorBatch({name: tensor[index] for name, tensor in self.tensors.items()})

    def repeat(self, times: int) -> TensorBatch:
        """Repeat each row `times` times: a a b b for two."""
        return TensorBatch({name: tensor.repeat_interleave(times, 0) for name, tensor in self.tensors.items()})

    def to(self, device: torch.device | str) -> TensorBatch:
        return TensorBatch({name: tensor.to(device) for name, tensor in self.tensors.items()})

    @staticmethod
    def cat(batches: Sequence[TensorBatch]) -> TensorBatch:
        """Concatenate batches. If second dimensions differ (texts of different lengths), shorter ones are padded with
        zeros, which mean padding in a mask."""
        return TensorBatch({name: torch.cat(_padded([b[name] for b in batches])) for name in batches[0].tensors})


def _padded(tensors: Sequence[Tensor]) -> list[Tensor]:
    if tensors[0].dim() < 2:
        return list(tensors)
    longest = max(tensor.shape[1] for tensor in tensors)
    return [
        torch.cat([t, t.new_zeros(len(t), longest - t.shape[1], *t.shape[2:])], 1) if t.shape[1] < longest else t
        for t in tensors
    ]
