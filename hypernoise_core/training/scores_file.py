"""Files of scores that exist already: one JSON object a line, with prompt, seed and score."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..files import replacing
from ..settings import SettingError
from .scored import ScoredNoise

FIELDS = 'prompt, seed and score, such as {"prompt": "a red cat", "seed": 7, "score": 1}'


def read_scores(path: str | Path, width: int, height: int) -> list[ScoredNoise]:
    """The rows of a file for images of that size, in pixels.

    Raises:
        ValueError: there is no such file, or a line of it cannot be used; the message names the line.
    """
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}): give a .jsonl file") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: save it as UTF-8") from error
    rows = [_row(line, f"{path}:{number}", width, height) for number, line in enumerate(lines, 1) if line.strip()]
    if len({row.score for row in rows}) < 2:
        raise ValueError(f"{path} has {len(rows)} rows, and no two different scores: nothing can be learnt from them")
    return rows


def _row(line: str, where: str, width: int, height: int) -> ScoredNoise:
    try:
        found = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is no JSON ({error}): write one object a line, with {FIELDS}") from error
    if not isinstance(found, dict) or not {"prompt", "seed", "score"} <= found.keys():
        raise ValueError(f"{where} lacks a field: each line has {FIELDS}")
    prompt, seed, score, index = found["prompt"], found["seed"], found["score"], found.get("index", 0)
    if not isinstance(prompt, str):
        raise ValueError(f"{where}: the prompt is {prompt!r}: give text")
    if not all(isinstance(number, int) and 0 <= number < 2**64 for number in (seed, index)):
        raise ValueError(f"{where}: seed and index are {seed!r} and {index!r}: give whole numbers from 0 on")
    if not isinstance(score, int | float) or not math.isfinite(score):
        raise ValueError(f"{where}: the score is {score!r}: give a number")
    size = found.get("width", width), found.get("height", height)
    if size != (width, height):
        raise SettingError(
            "{scores}: {} is of an image of {}x{}, and this run's are {}x{}: set {width} and {height} to the size that "
            "was scored",
            where,
            *size,
            width,
            height,
        )
    return ScoredNoise(prompt, seed, float(score), index)


def add_scores(path: str | Path, rows: Sequence[ScoredNoise], width: int, height: int) -> int:
    """Append rows of images of that size; returns how many the file has now. It appears whole or not at all."""
    before = Path(path).read_text("utf-8").splitlines() if Path(path).is_file() else []
    lines = [json.dumps({**asdict(row), "width": width, "height": height}, ensure_ascii=False) for row in rows]
    with replacing(path) as temporary:
        temporary.write_text("\n".join([*before, *lines]) + "\n", "utf-8")
    return len(before) + len(lines)
