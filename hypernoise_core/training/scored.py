"""Scores that somebody has given already: of noises by prompt and seed, which are read again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from ..generators.base import Generator
from ..settings import SettingError
from .config import TrainingConfig
from .encoded import EncodedPrompts


@dataclass(frozen=True)
class ScoredNoise:
    """What an image got: a person's thumb, a detector's verdict, anything where more is better."""

    prompt: str
    seed: int
    """Of `Generator.noise`, which is what ComfyUI's samplers draw for it."""
    score: float
    index: int = 0
    """Place in the batch that was drawn with that seed."""


class ScoredNoises:
    """The rows of a training run, at its size.

    Raises:
        ValueError: there are more than the replay holds.
    """

    def __init__(self, rows: Sequence[ScoredNoise], generator: Generator, config: TrainingConfig):
        if len(rows) > config.replay:
            raise SettingError("{scores} has {} rows, {replay} is {}: raise it", len(rows), config.replay)
        self._generator, self._config = generator, config
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed)).tolist()
        self.rows = [rows[i] for i in order]
        self._texts = sorted({row.prompt for row in rows})
        self._conditioning = EncodedPrompts(generator.encode, self._texts, generator.device)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def sha256(self) -> str:
        lines = sorted(json.dumps(asdict(row), sort_keys=True) for row in self.rows)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def part(self, rows: Sequence[ScoredNoise]):
        """(noise [B, C, h, w], conditioning, scores [B]) of some of them."""
        number = {text: i for i, text in enumerate(self._texts)}
        conditioning = self._conditioning.rows([number[row.prompt] for row in rows])
        scores = torch.tensor([row.score for row in rows], device=self._generator.device)
        return torch.cat([self._noise(row) for row in rows]), conditioning, scores

    def _noise(self, row: ScoredNoise) -> Tensor:
        drawn = self._generator.noise(row.index + 1, self._config.height, self._config.width, row.seed)
        return drawn[row.index :]
