"""The last readings whose pictures were scored: what a critic learns from, again and again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..reading import Reading

STORED = torch.bfloat16
"""A reading's dtype here. What a network reads is rounded by less than the base model's own bfloat16 does."""


class Replay:
    """Noises, their readings and their scores, in CPU memory; the oldest make room for the newest.

    Args:
        most: readings.
        most_bytes: of them in all.
    """

    def __init__(self, most: int, most_bytes: float = math.inf):
        self._most, self._most_bytes = most, most_bytes
        self._kept: dict[str, Tensor] = {}
        self.added = 0
        """Readings that were ever added."""

    def __len__(self) -> int:
        return min(self.added, self.room)

    @property
    def room(self) -> int:
        """Readings that it can hold; 0 before the first, whose size decides."""
        return len(self._kept["score"]) if self._kept else 0

    @property
    def nbytes(self) -> int:
        """Of the CPU memory that it takes."""
        return sum(t.nbytes for t in self._kept.values())

    @property
    def scores(self) -> Tensor:
        """Of the readings that it holds, [len(self)]."""
        return self._kept["score"][: len(self)] if self._kept else torch.zeros(0)

    def add(self, x: Tensor, reading: Reading, scores: Tensor) -> None:
        """Noises [B, C, h, w] with their readings and scores [B]."""
        rows = {"noise": x, "prediction": reading.prediction, "score": scores}
        if reading.features is not None:
            rows["features"] = reading.features
        if not self._kept:
            self._allocate(rows)
        at = (torch.arange(len(x)) + self.added) % self.room
        for name, kept in self._kept.items():
            kept[at] = rows[name].detach().to("cpu", kept.dtype)
        self.added += len(x)

    def draw(self, count: int, random: torch.Generator, device: torch.device) -> tuple[Tensor, Reading, Tensor]:
        """`count` of them, any of which may come twice."""
        at = torch.randint(len(self), (count,), generator=random)
        rows = {name: kept[at].to(device) for name, kept in self._kept.items()}
        return rows["noise"], Reading(rows["prediction"], rows.get("features")), rows["score"]

    def state(self) -> dict[str, Tensor]:
        """Everything in it, for a checkpoint."""
        return {name: kept[: len(self)] for name, kept in self._kept.items()} | {"added": torch.tensor(self.added)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take over what `state` returned. What is more than it has room for is left out, the oldest first."""
        rows = {name: tensor for name, tensor in state.items() if name != "added"}
        self.added = int(state["added"])
        if not rows:
            return
        self._allocate(rows)
        held = len(rows["score"])
        order = (torch.arange(held) + (self.added if self.added > held else 0)) % held  # oldest first
        order = order[-self.room :]
        at = (torch.arange(self.added - len(order), self.added)) % self.room
        for name, kept in self._kept.items():
            kept[at] = rows[name][order]

    def _allocate(self, rows: dict[str, Tensor]) -> None:
        dtypes = {name: torch.float32 if name == "score" else STORED for name in rows}
        each = sum(tensor[0].numel() * dtypes[name].itemsize for name, tensor in rows.items())
        room = int(min(self._most, self._most_bytes // each))
        self._kept = {name: torch.zeros(max(1, room), *t.shape[1:], dtype=dtypes[name]) for name, t in rows.items()}
