"""Named tensors that share their first dimension: what a generator or a reward makes of a list of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TensorBatch:
    """Tensors by name, each [B, …]. Text encoders make one, callers cache it and pick rows; nobody looks inside but
    its maker."""

    tensors: dict[str, Tensor]

    def __post_init__(self):
        lengths = {name: len(tensor) for name, tensor in self.tensors.items()}
        assert len(set(lengths.values())) == 1, f"tensors of one batch differ in length: {lengths}"

    def __len__(self) -> int:
        return len(next(iter(self.tensors.values())))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def rows(self, index: slice | Sequence[int] | Tensor) -> TensorBatch:
        """Those rows, in that order; an index may repeat."""
        index = index if isinstance(index, slice) else torch.as_tensor(index)
        return TensorBatch({name: tensor[index] for name, tensor in self.tensors.items()})

    def repeat(self, times: int) -> TensorBatch:
        """Each row `times` times in a row: a a b b for two."""
        return TensorBatch({name: tensor.repeat_interleave(times, 0) for name, tensor in self.tensors.items()})

    def to(self, device: torch.device | str) -> TensorBatch:
        return TensorBatch({name: tensor.to(device) for name, tensor in self.tensors.items()})

    @staticmethod
    def cat(batches: Sequence[TensorBatch]) -> TensorBatch:
        """One after the other. Where second dimensions differ (texts of other lengths), the shorter are padded with
        zeros, which in a mask means padding."""
        return TensorBatch({name: torch.cat(_padded([b[name] for b in batches])) for name in batches[0].tensors})


def _padded(tensors: Sequence[Tensor]) -> list[Tensor]:
    if tensors[0].dim() < 2:
        return list(tensors)
    longest = max(tensor.shape[1] for tensor in tensors)
    return [
        torch.cat([t, t.new_zeros(len(t), longest - t.shape[1], *t.shape[2:])], 1) if t.shape[1] < longest else t
        for t in tensors
    ]
