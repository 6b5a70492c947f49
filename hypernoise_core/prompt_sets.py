"""Read sets of prompts, mix them with weights, and find what they share."""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .files import stand_in

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
    if told := stand_in(path):
        raise ValueError(f"prompts file {path} holds no prompts, it is {told}")
    try:
        rows = _READERS.get(path.suffix.lower(), _read_lines)(path, column)
    except OSError as error:
        raise ValueError(f"prompts file {path} cannot be read ({error.strerror}): give another one") from error
    except (json.JSONDecodeError, RecursionError, csv.Error) as error:
        raise ValueError(f"prompts file {path} cannot be read ({error}): is it what {path.suffix} says?") from error
    prompts = with_text(rows, f"prompts file {path}")
    if not prompts:
        raise ValueError(f"prompts file {path} is empty: write one prompt per line")
    return prompts


def with_text(rows: Iterable[object], origin: str) -> list[str]:
    """The rows that hold a prompt; a warning counts the others."""
    rows = list(rows)
    prompts = [text for row in rows if row is not None and (text := str(row).strip())]
    if prompts and len(prompts) < len(rows):
        warnings.warn(f"{origin}: {len(rows) - len(prompts)} of {len(rows)} rows have no prompt", stacklevel=2)
    return prompts


def _text(path: Path) -> str:
    """
    Raises:
        ValueError: it is not text in UTF-8.
    """
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        what = "text in UTF-16" if wide else f"no text in UTF-8 ({error.reason} at byte {error.start})"
        raise ValueError(f"prompts file {path} cannot be read, it is {what}: save it as UTF-8") from error
    if "\0" in text:
        raise ValueError(f"prompts file {path} cannot be read, it has zero bytes: save it as text in UTF-8")
    return text


def _read_lines(path: Path, column: str | None) -> list[str]:
    return [line for line in _text(path).splitlines() if line.strip()]


def _read_json(path: Path, column: str | None) -> list[str]:
    content = json.loads(_text(path))
    return _texts(path, list(content.values()) if isinstance(content, dict) else content, column)


def _read_jsonl(path: Path, column: str | None) -> list[str]:
    lines = [(number, line) for number, line in enumerate(_text(path).split("\n"), 1) if line.strip()]
    return _texts(path, [_json_row(path, number, line) for number, line in lines], column)


def _json_row(path: Path, number: int, line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(
            f"prompts file {path}: line {number} is no JSON ({error.msg} at column {error.colno}): write one text or "
            "object a line"
        ) from error


def _read_csv(path: Path, column: str | None) -> list[str]:
    rows = csv.DictReader(io.StringIO(_text(path), newline=""), delimiter="\t" if path.suffix == ".tsv" else ",")
    return _texts(path, list(rows), column)


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
