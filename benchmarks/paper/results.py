"""Read results: rows as files, records by name, and the comparisons that tables, plots and targets share."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean

import torch
from safetensors.torch import load_file

from hypernoise_core.embedded import GENERATOR_FOLDER, REWARD_FOLDER
from hypernoise_core.hypernetworks.head_file import CRITIC
from train.config import RECIPES

from .measures import Record, paired
from .plan import SEEDS, Row
from .techniques import Spec
from .world import SHIPPED_FILES

FORMAT = 1
"""Raise it when what rows hold has another meaning."""


DRAWS = 2
"""Raise it when what is drawn beside starting noise (in training, between steps) is drawn otherwise."""


@dataclass(frozen=True)
class Places:
    """Folders: `results` has one JSON file per row, `work` has the trained weights."""

    results: Path

    @property
    def work(self) -> Path:
        return self.results / "work"

    def file(self, name: str) -> Path:
        return self.results / f"{name}.json"

    def weights(self, row: Row) -> Path:
        return self.work / f"{row.name}{'.pt' if row.kind == 'generator_changed' else '.safetensors'}"

    def read(self, name: str) -> dict | None:
        """A row's result, or None if there is none that can be read."""
        try:
            return json.loads(self.file(name).read_text("utf-8"))
        except (OSError, ValueError):
            return None


@cache
def fingerprint(path: Path) -> str:
    """Of a file, or of all files in a folder."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name} {file.stat().st_size} ".encode() + file.read_bytes())
    return digest.hexdigest()


@cache
def weights_fingerprint(path: Path, with_critic: bool) -> str:
    """Of the tensors in a file, those of a critic only where it is asked."""
    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        if with_critic or not name.startswith(CRITIC):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def keys(rows: Sequence[Row]) -> dict[str, str]:
    """What each row depends on, as one word: its settings, the rows that it needs, weights and recipes."""
    found: dict[str, str] = {}
    for row in rows:
        parts = [FORMAT, row.kind, row.settings, [found[name] for name in row.needs]]
        parts += [fingerprint(GENERATOR_FOLDER), fingerprint(REWARD_FOLDER)]
        if draws_more_than_starts(row):
            parts.append(DRAWS)
        if "recipe" in row.settings:
            parts.append(fingerprint(RECIPES / f"{row.settings['recipe']}.yaml"))
        specs = [Spec(**spec) for spec in _specs(row)]
        for name in sorted(SHIPPED_FILES.keys() & {spec.adapter for spec in specs}):
            asked = any(spec.adapter == name and spec.modulation.asks_critic for spec in specs)
            parts.append(weights_fingerprint(SHIPPED_FILES[name], asked))
        found[row.name] = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    return found


def draws_more_than_starts(row: Row) -> bool:
    """Whether a row trains something, or samples in several steps."""
    return row.leaves_weights or any(spec.get("steps", 1) > 1 for spec in _specs(row))


def _specs(row: Row) -> list[dict]:
    return [*row.settings.get("specs", {}).values(), *([row.settings["spec"]] if "spec" in row.settings else [])]


@dataclass(frozen=True)
class Difference:
    """Of detector scores, with its paired 95 % interval."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


@dataclass(frozen=True)
class Results:
    """Existing rows with the settings of the plan. Rows with other settings are ignored."""

    rows: Sequence[Row]
    found: dict[str, dict]
    errors: dict[str, str]

    @classmethod
    def read(cls, rows: Sequence[Row], places: Places, errors: dict[str, str]) -> "Results":
        known, found = keys(rows), {}
        for row in rows:
            result = places.read(row.name)
            if result is not None and result.get("key") == known[row.name]:
                found[row.name] = result
        return cls(rows, found, errors)

    @property
    def records(self) -> dict[str, Record]:
        return {name: record for row in self.found.values() for name, record in row.get("records", {}).items()}

    def named(self, name: str) -> list[Record]:
        """The records behind a name of the tables: `<what>-<steps>` of what has training seeds, with `x<iterations>`
        behind it or not, means all of them that were measured so."""
        names, records = [name], self.records
        if found := re.fullmatch(r"(hypernoise|head|critic|lora-critic)-(\d+(?:x\d+)?)", name):
            names = [f"{found[1]}-{seed}-{found[2]}" for seed in SEEDS]
        return [records[own] for own in names if own in records]

    def number(self, name: str, *path: str) -> float | None:
        """A number of a record, the mean over training seeds."""
        values = []
        for record in self.named(name):
            for key in path:
                record = record[key]
            values.append(record)
        return mean(values) if values and None not in values else None

    def difference(self, name: str, base: str) -> Difference | None:
        """Paired, on the cases that both have."""
        one, other = self.named(name), self.named(base)
        return Difference(*paired(one, other)) if one and other else None

    def gain(self, name: str, base: str) -> float | None:
        """The difference alone, on the cases that both have."""
        difference = self.difference(name, base)
        return difference and difference.mean

    def ratio(self, name: str) -> float | None:
        """Seconds a picture over the base's, measured side by side."""
        return self._timed(name).get("ratio")

    def seconds(self, name: str) -> float | None:
        return self._timed(name).get("seconds_per_image")

    def _timed(self, name: str) -> dict:
        rows = [row["timing"]["rows"] for row in self.found.values() if row["kind"] == "timed"]
        return next((own[timing_name(name)] for own in rows if timing_name(name) in own), {})


def timing_name(name: str) -> str:
    """All training seeds cost the same, so only one is timed. Adapters that cost as much as another one use its
    time."""
    if name == "shipped" or name.startswith(("rank-", "temperature-", "multi")):
        return "hypernoise-1"
    if found := re.fullmatch(r"(hypernoise|head)-\d+-(\d+(?:x\d+)?)", name):
        return f"{found[1]}-{found[2]}"
    if found := re.fullmatch(r"critic(?:-\d+)?-(\d+(?:x\d+)?)", name):  # costs what any head does
        return f"head-{found[1]}"
    if found := re.fullmatch(r"shipped-head-(\d+(?:x\d+)?)", name):
        return f"head-{found[1]}"
    if name.startswith("finetune"):
        return f"{name.rsplit('-', 1)[0]}-1" if name.endswith("-1") else ""
    return name
