"""The interface of a published benchmark: its prompts, where their images go, and its judges."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

from PIL import Image

Scores = dict[str, list[float]]
"""Scores by name, one number per image. A single number for what is measured over all images of a prompt."""

Judge = Callable[["Item", list[Image.Image]], tuple[Scores, list]]
"""(a prompt, its RGB images) -> (scores, details per image)."""


@dataclass(frozen=True)
class Item:
    """A prompt of a benchmark. `index` is its position among all prompts, whichever are used."""

    key: str
    index: int
    category: str
    prompt: str
    data: dict = field(default_factory=dict, compare=False)
    """The benchmark's own data, such as GenEval's line of metadata."""


@dataclass(frozen=True)
class PictureFile:
    """An image file: one image, or several in a grid of `columns`, row by row, with their seeds."""

    path: str
    """Relative to the folder of a method."""
    seeds: tuple[int, ...]
    columns: int = 1


@dataclass(frozen=True)
class JudgeSpec:
    """How to make a judge. `load` is called late, so that only one judge is in memory; `check` is called early."""

    name: str
    identity: dict
    """Everything besides the image that its scores depend on. If it changes, images are scored again."""
    load: Callable[[], Judge]
    check: Callable[[], None] = lambda: None
    """Raises ValueError if `load` would fail."""
    judges: Callable[[Item], bool] = lambda item: True
    over_categories: bool = False
    """Whether the overall score is the mean over categories instead of over prompts."""


class Benchmark(ABC):
    """A published benchmark.

    Args:
        every: all prompts of the benchmark.
        items: the prompts to use.
        samples: images per prompt.
        seed: of the first image of the first prompt.
    """

    name: ClassVar[str]
    samples_default: ClassVar[int]
    """Images per prompt in the published protocol."""

    def __init__(self, every: Sequence[Item], items: Sequence[Item], samples: int, seed: int):
        self.every, self.items, self.samples, self.seed = list(every), list(items), samples, seed

    def seeds(self, item: Item) -> tuple[int, ...]:
        """One seed for every image of the benchmark. Prompts do not share noise; methods do."""
        first = self.seed + item.index * self.samples
        return tuple(range(first, first + self.samples))

    @abstractmethod
    def files(self, item: Item) -> list[PictureFile]:
        """The image files of a prompt, in the official layout."""

    def companions(self, item: Item) -> dict[str, str]:
        """Text files beside the images, by path."""
        return {}

    def overview(self, item: Item) -> str | None:
        """The path of a grid with all images of a prompt, if the layout has one in addition."""
        return None

    @abstractmethod
    def judges(self, args) -> list[JudgeSpec]:
        """The benchmark's own judges, with the models that the arguments name."""

    @cached_property
    def categories(self) -> list[str]:
        return list(dict.fromkeys(item.category for item in self.items))


def chosen(items: Sequence[Item], categories: Sequence[str], limit: int | None) -> list[Item]:
    """The items of these categories (all, if none are named), the first `limit` of each.

    Raises:
        ValueError: there is no such category.
    """
    known = list(dict.fromkeys(item.category for item in items))
    if unknown := [name for name in categories if name not in known]:
        raise ValueError(
            f"--categories names {unknown[0]!r}, which is no category here: choose from {', '.join(known)}"
        )
    taken: dict[str, int] = dict.fromkeys(known, 0)
    kept = []
    for item in items:
        if (not categories or item.category in categories) and (limit is None or taken[item.category] < limit):
            taken[item.category] += 1
            kept.append(item)
    return kept


def grid(images: Sequence[Image.Image], columns: int) -> Image.Image:
    """Images of one size side by side, row by row, without gaps."""
    width, height = images[0].size
    canvas = Image.new("RGB", (columns * width, -(-len(images) // columns) * height))
    for index, image in enumerate(images):
        canvas.paste(image, (index % columns * width, index // columns * height))
    return canvas


def cells(image: Image.Image, count: int, columns: int) -> list[Image.Image]:
    """The images of a grid."""
    width, height = image.width // columns, image.height // -(-count // columns)
    corners = [(i % columns * width, i // columns * height) for i in range(count)]
    return [image.crop((x, y, x + width, y + height)) for x, y in corners]


def only(folder: Path, pattern: str) -> list[Path]:
    """The files under a folder that match, at any depth, in order."""
    return sorted(path for path in folder.rglob(pattern) if path.is_file())
