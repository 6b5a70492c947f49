"""An exact detector for the embedded world: which things are in an image, and do they answer the prompt?

Nothing is trained on it. The hue decides a pixel's colour, connected components form things, and the overlap with the
drawn outline of each shape names them. It takes the place of the object detector in GenEval (Ghosh et al. 2023);
`Verdict.correct` follows GenEval's rules.
"""

import colorsys
import math
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .prompts import Prompt, relation_holds
from .scenes import COLORS, SHAPES, SIZE, Thing, coverage

DARKEST = 0.28
"""A pixel belongs to a thing if its darkest channel is below this. Paper is light in all three channels."""
CHROMA = 0.2
"""Smallest difference between the channels of a coloured pixel."""
MIN_AREA = 24
"""A coloured patch with fewer pixels is dirt, not a thing."""
MIN_IOU = 0.72
"""Smallest overlap with a drawn outline at which a patch counts as that shape."""

_HUES = np.array([colorsys.rgb_to_hsv(*rgb)[0] for rgb in COLORS.values()])
_NAMES = tuple(COLORS)


@dataclass(frozen=True)
class Detection:
    """What was found. `unknown` counts coloured patches that are no shape: smears, ghosts, merged things."""

    things: tuple[Thing, ...]
    unknown: int


@dataclass(frozen=True)
class Verdict:
    """`correct`: everything that the prompt asks for is there (GenEval's rules). `strict`: and nothing else is."""

    correct: bool
    strict: bool


def _hue(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(hue in [0, 1), mask of coloured pixels), both [64, 64]."""
    high, low = picture.max(-1), picture.min(-1)
    chroma = high - low
    safe = np.maximum(chroma, 1e-6)
    r, g, b = np.moveaxis(picture, -1, 0)
    hue = np.where(high == r, (g - b) / safe, np.where(high == g, 2 + (b - r) / safe, 4 + (r - g) / safe))
    return (hue / 6) % 1.0, (low < DARKEST) & (chroma > CHROMA)


def _name_patch(labels: np.ndarray, label: int, box: tuple[slice, slice], color: str) -> Thing | None:
    """The thing whose pixels have this label, all of them in `box`."""
    rows, columns = box
    x, y = (columns.start + columns.stop) / 2, (rows.start + rows.stop) / 2
    radius = max(rows.stop - rows.start, columns.stop - columns.start) / 2
    window = _within(y, radius), _within(x, radius)
    mask = labels[window] == label
    best_iou, best = MIN_IOU, None
    for shape in SHAPES:
        outline = coverage(shape, x, y, radius, window) > 0.5
        iou = (mask & outline).sum() / (mask | outline).sum()
        if iou > best_iou:
            best_iou, best = iou, Thing(shape, color, x, y, radius)
    return best


def _within(center: float, radius: float) -> slice:
    """Every pixel along a side that a thing can cover."""
    return slice(max(0, math.floor(center - radius)), min(SIZE, math.ceil(center + radius)))


def detect(picture: np.ndarray) -> Detection:
    """Find the things in an image, float [64, 64, 3] in [0, 1]."""
    if picture.shape != (SIZE, SIZE, 3):
        raise ValueError(f"the detector reads [{SIZE}, {SIZE}, 3] pictures in [0, 1], got {list(picture.shape)}")
    hue, colored = _hue(picture)
    distance = abs(hue[..., None] - _HUES)
    nearest = np.minimum(distance, 1 - distance).argmin(-1)
    things, unknown = [], 0
    for index, color in enumerate(_NAMES):
        mine = colored & (nearest == index)
        if np.count_nonzero(mine) < MIN_AREA:
            continue
        labels, _ = ndimage.label(mine)
        areas = np.bincount(labels.ravel())
        for label, box in enumerate(ndimage.find_objects(labels), start=1):
            if areas[label] < MIN_AREA:
                continue
            thing = _name_patch(labels, label, box, color)
            if thing:
                things.append(thing)
            else:
                unknown += 1
    return Detection(tuple(things), unknown)


def answers(detection: Detection, prompt: Prompt) -> Verdict:
    """Does an image with these detections show what the prompt says?"""
    found = [
        [thing for thing in detection.things if thing.shape == want.shape and want.color in (None, thing.color)]
        for want in prompt.wants
    ]
    counting = prompt.category == "counting"
    correct = len(found[0]) == prompt.wants[0].count if counting else all(found)
    if correct and prompt.relation:
        correct = any(relation_holds(prompt.relation, a, b) for a in found[0] for b in found[1])
    expected = sum(want.count for want in prompt.wants)
    return Verdict(correct, correct and len(detection.things) == expected and not detection.unknown)


def judge(picture: np.ndarray, prompt: Prompt) -> Verdict:
    """Does an image, float [64, 64, 3] in [0, 1], show what the prompt says?"""
    return answers(detect(picture), prompt)
