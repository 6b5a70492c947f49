"""Read sets of prompts, mix them with weights, and find what they share."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

COLUMNS = ("prompt", "caption", "text", "Prompt", "TEXT")
"""Column names that are tried for a table's prompts, in this order."""


@dataclass(frozen=True)
class PromptSet:
    """Prompts from one source. `weight` says how often one of them is drawn, compared with the other sets of a mix."""

    name: str
    prompts: tuple[str, ...]
    weight: float = 1.0

    def __post_init__(self):
        if not self.prompts:
            raise ValueError(f"prompt set {self.name} has no prompts: give a file that has some")
        if not self.weight > 0:
            raise ValueError(f"the weight of prompt set {self.name} is {self.weight}; it must be above 0")


@dataclass(frozen=True)
class PromptMix:
    """One or more sets that are trained on together."""

    sets: tuple[PromptSet, ...]

    @staticmethod
    def of(prompts: Sequence[str]) -> PromptMix:
        """A mix of one set."""
        return PromptMix((PromptSet("prompts", tuple(prompts)),))

    @property
    def texts(self) -> list[str]:
        """All prompts, set after set."""
        return [text for one in self.sets for text in one.prompts]

    @property
    def sizes(self) -> list[int]:
        return [len(one.prompts) for one in self.sets]

    @property
    def weights(self) -> list[float]:
        return [one.weight for one in self.sets]

    @property
    def sha256(self) -> str:
        """A hash of the prompts, their order and their weights."""
        content = json.dumps([[one.weight, one.prompts] for one in self.sets])
        return hashlib.sha256(content.encode()).hexdigest()

    def without(self, texts: Iterable[str]) -> PromptMix:
        """A mix without these prompts (compared as `normalized`) and without duplicates, in a set or across sets."""
        seen, sets = {normalized(text) for text in texts}, []
        for one in self.sets:
            kept = []
            for text in one.prompts:
                if (key := normalized(text)) not in seen:
                    seen.add(key)
                    kept.append(text)
            sets.append(PromptSet(one.name, tuple(kept), one.weight))
        return PromptMix(tuple(sets))

    def duplicates(self) -> list[str]:
        """Prompts that occur earlier, in their own set or in an earlier one."""
        seen: set[str] = set()
        again = []
        for text in self.texts:
            if normalized(text) in seen:
                again.append(text)
            seen.add(normalized(text))
        return again

    def overlap(self, others: Iterable[str]) -> list[str]:
        """Prompts that also occur in `others`."""
        keys = {normalized(text) for text in others}
        return [text for text in self.texts if normalized(text) in keys]


def normalized(prompt: str) -> str:
    """The same text for prompts that differ only in case, spacing or a final full stop."""
    return " ".join(prompt.casefold().split()).rstrip(" .")


def read_prompts(path: str | Path, column: str | None = None) -> list[str]:
    """The prompts in a file, in its order, without empty ones: `.txt` (one per line), `.json` (a list, or an object
    whose values are prompts), `.jsonl`, `.csv`, `.tsv` or `.parquet` (a column).

    Args:
        column: name of the column or of the object's key. If not given, `COLUMNS` are tried.

    Raises:
        ValueError: no such file, not what its suffix says, no such column, or no prompts in it.
    """
    path = Path(path)
    try:
        prompts = _READERS.get(path.suffix.lower(), _read_lines)(path, column)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ValueError(
            f"prompts file {path} cannot be read ({error}): give text with one prompt per line, JSON, JSONL, "
            "CSV or Parquet"
        ) from error
    prompts = [text for prompt in prompts if (text := str(prompt).strip())]
    if not prompts:
        raise ValueError(f"prompts file {path} is empty: write one prompt per line")
    return prompts


def _read_lines(path: Path, column: str | None) -> list[str]:
    return path.read_text("utf-8").splitlines()


def _read_json(path: Path, column: str | None) -> list[str]:
    content = json.loads(path.read_text("utf-8"))
    return _texts(path, list(content.values()) if isinstance(content, dict) else content, column)


def _read_jsonl(path: Path, column: str | None) -> list[str]:
    return _texts(path, [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()], column)


def _read_csv(path: Path, column: str | None) -> list[str]:
    with open(path, encoding="utf-8", newline="") as file:
        return _texts(path, list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ",")), column)


def _read_parquet(path: Path, column: str | None) -> list[str]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError(f"reading {path} needs pyarrow: pip install 'comfyui-hypernoise[data]'") from error
    try:
        name = find_column(path, parquet.read_schema(path).names, column)
        return parquet.read_table(path, columns=[name])[name].to_pylist()
    except ArrowException as error:
        raise ValueError(f"prompts file {path} cannot be read ({error}): is it a complete Parquet file?") from error


_READERS = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
}


def _texts(path: Path, rows: object, column: str | None) -> list[str]:
    """The prompts in a list of texts or of objects."""
    if not isinstance(rows, list) or not all(isinstance(row, (str, dict)) for row in rows):
        raise ValueError(f"prompts file {path} holds neither texts nor objects with a prompt")
    return [row if isinstance(row, str) else (row[find_column(path, row, column)] or "") for row in rows]


def find_column(origin: str | Path, names: Iterable[str], column: str | None) -> str:
    """The column with the prompts.

    Raises:
        ValueError: there is none of that name.
    """
    names = list(names)
    for name in [column] if column else COLUMNS:
        if name in names:
            return name
    wanted = f"no column {column!r}" if column else "no column with prompts"
    raise ValueError(f"{origin} has {wanted}: name one of {', '.join(map(str, names)) or 'none at all'}")
