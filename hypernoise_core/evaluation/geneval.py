"""GenEval's rules (Ghosh et al. 2023, arXiv 2310.11513): what a detector must find for an image to be right.

Rules and thresholds are those of evaluation/evaluate_images.py in github.com/djghosh13/geneval.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

COLORS = ("red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white")
RELATIONS = ("left of", "right of", "above", "below")
TAGS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

PRESENCE_THRESHOLD = 0.3
"""A thing counts as present if the detector's confidence is higher."""
COUNTING_THRESHOLD = 0.9
"""The same for prompts with the tag `counting`."""
MAX_OBJECTS = 16
"""Number of things per class that are considered, most confident first."""
POSITION_THRESHOLD = 0.1
"""An offset counts only beyond this share of the two boxes' sizes."""


@dataclass(frozen=True)
class Detection:
    """One thing: GenEval's name of its class, confidence in [0, 1], box in pixels from the upper left corner, and its
    mask, bool [H, W], if the detector gives one."""

    label: str
    score: float
    box: tuple[float, float, float, float]
    mask: np.ndarray | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether an image shows its prompt, and what is wrong with it, one line each."""

    correct: bool
    reason: str


Colors = Callable[[Sequence[Detection], str], list[str]]
"""(things, the name of their class) -> one of `COLORS` for each."""


def check_metadata(row: object) -> None:
    """
    Raises:
        ValueError: not a line of `evaluation_metadata.jsonl`; the message says what is wrong with it.
    """
    if not isinstance(row, dict) or not all(isinstance(row.get(key), str) for key in ("tag", "prompt")):
        raise ValueError("it has no tag and prompt")
    if not isinstance(row.get("include"), list) or not row["include"]:
        raise ValueError("it has no list of things to include")
    for index, want in enumerate([*row["include"], *row.get("exclude", [])]):
        if not isinstance(want, dict) or not isinstance(want.get("class"), str):
            raise ValueError(f"thing {index} has no class")
        if not isinstance(want.get("count"), int) or want["count"] < 1:
            raise ValueError(f"the count of thing {index} ({want['class']}) is not a number above 0")
        if "color" in want and want["color"] not in COLORS:
            raise ValueError(f"{want['color']!r} is not a colour that is judged: {', '.join(COLORS)}")
        if "position" in want:
            _check_position(want["position"], index)


def _check_position(position: object, index: int) -> None:
    relation, target = position if isinstance(position, list) and len(position) == 2 else (None, None)
    if relation not in RELATIONS or not isinstance(target, int) or not 0 <= target < index:
        raise ValueError(
            f"the position of thing {index} is {position}: give one of {', '.join(RELATIONS)} and the number of a "
            "thing before it"
        )


def classes(rows: Iterable[Mapping]) -> set[str]:
    """All classes that a detector must know to judge these lines of metadata."""
    return {want["class"] for row in rows for want in (*row["include"], *row.get("exclude", []))}


def confident(detections: Iterable[Detection], tag: str) -> dict[str, list[Detection]]:
    """The things that count as present, by class, most confident first."""
    threshold = COUNTING_THRESHOLD if tag == "counting" else PRESENCE_THRESHOLD
    seen: dict[str, list[Detection]] = {}
    for detection in sorted(detections, key=lambda d: -d.score):
        own = seen.setdefault(detection.label, [])
        if detection.score > threshold and len(own) < MAX_OBJECTS:
            own.append(detection)
    return {label: own for label, own in seen.items() if own}


def relations(a: Detection, b: Detection) -> set[str]:
    """Where `a` is, seen from `b`: none, one or two of `RELATIONS`."""
    corners = np.array([a.box, b.box], float).reshape(2, 2, 2)
    (center_a, center_b), (size_a, size_b) = corners.mean(1), np.abs(corners[:, 1] - corners[:, 0])
    offset = center_a - center_b
    beyond = np.sign(offset) * np.maximum(np.abs(offset) - POSITION_THRESHOLD * (size_a + size_b), 0)
    if np.all(np.abs(beyond) < 1e-3):
        return set()
    x, y = beyond / np.linalg.norm(offset)
    found = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {name for name, true in found.items() if true}


def judge(row: Mapping, seen: Mapping[str, Sequence[Detection]], colors: Colors) -> Verdict:
    """Whether the things found match a line of metadata.

    Of every class, only as many things as the prompt asks for are considered, most confident first: colours and
    positions are checked on them. There may be more of them, unless `exclude` gives a number from which it is wrong.

    Args:
        seen: from `confident`.
        colors: called only if the line names a colour.
    """
    wrong: list[str] = []
    matched: list[Sequence[Detection] | None] = []
    for want in row["include"]:
        name, count = want["class"], want["count"]
        found = list(seen.get(name, ()))[:count]
        fault = None
        if len(found) < count:
            fault = f"expected {name}>={count}, found {len(found)}"
        elif "color" in want:
            fault = _color_fault(want, colors(found, name))
        if fault is None and "position" in want:
            fault = _position_fault(want, found, matched)
        if fault:
            wrong.append(fault)
        matched.append(None if fault else found)
    for unwanted in row.get("exclude", []):
        there = len(seen.get(unwanted["class"], ()))
        if there >= unwanted["count"]:
            wrong.append(f"expected {unwanted['class']}<{unwanted['count']}, found {there}")
    return Verdict(not wrong, "\n".join(wrong))


def _color_fault(want: Mapping, colors: Sequence[str]) -> str | None:
    right = list(colors).count(want["color"])
    if right >= want["count"]:
        return None
    return f"expected {want['color']} {want['class']}>={want['count']}, found {right}; they are {', '.join(colors)}"


def _position_fault(want: Mapping, found: Sequence[Detection], matched: Sequence) -> str | None:
    relation, target = want["position"]
    if matched[target] is None:
        return f"no target for {want['class']} to be {relation}"
    for thing in found:
        for other in matched[target]:
            if relation not in (true := relations(thing, other)):
                return f"expected {want['class']} {relation} target, found {' and '.join(sorted(true)) or 'neither'}"
    return None
