"""The parts that the stages of `make embedded` share: a resumable loop with a checkpoint, a log and a schedule."""

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm


class Stage:
    """A loop of `total` steps over named objects with `state_dict`, saved every `save_every` seconds and at the end.

    Every random draw of a stage is seeded by its step, so a resumed stage gives the same result as an uninterrupted
    one.
    """

    def __init__(self, folder: Path, name: str, total: int, save_every: float = 60.0, **parts):
        self.folder, self.name, self.total, self.save_every, self.parts = folder, name, total, save_every, parts
        folder.mkdir(parents=True, exist_ok=True)
        self.step = 0
        self._sums: dict[str, float] = {}
        self._count = 0
        if self._file.exists():
            state = torch.load(self._file, weights_only=True)
            self.step = state.pop("step")
            for key, part in self.parts.items():
                part.load_state_dict(state[key])

    @property
    def _file(self) -> Path:
        return self.folder / "checkpoint.pt"

    def save(self) -> None:
        state = {key: part.state_dict() for key, part in self.parts.items()}
        temporary = self._file.with_suffix(".tmp")
        torch.save({"step": self.step, **state}, temporary)
        os.replace(temporary, self._file)

    def steps(self) -> Iterator[int]:
        saved = time.monotonic()
        bar = tqdm(total=self.total, initial=self.step, desc=self.name, mininterval=5)
        while self.step < self.total:
            yield self.step
            self.step += 1
            bar.update()
            if time.monotonic() - saved > self.save_every or self.step == self.total:
                self.save()
                saved = time.monotonic()
        bar.close()

    def cosine(self, peak: float, warmup: int, floor: float = 0.02) -> float:
        """Learning rate at this step: linear warm-up, then cosine decay to `floor * peak`."""
        if self.step < warmup:
            return peak * (self.step + 1) / warmup
        progress = (self.step - warmup) / max(1, self.total - warmup)
        return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * progress)))

    def log(self, every: int = 100, **values: float) -> None:
        """Collect values and write their means every `every` steps."""
        for key, value in values.items():
            self._sums[key] = self._sums.get(key, 0.0) + value
        self._count += 1
        if (self.step + 1) % every == 0:
            self.log_now(**{key: value / self._count for key, value in self._sums.items()})
            self._sums, self._count = {}, 0

    def log_now(self, **values: float) -> None:
        row = {"step": self.step + 1, "time": round(time.time()), **{k: round(v, 5) for k, v in values.items()}}
        with open(self.folder / "log.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
