"""Generate images in a benchmark's layout. Complete images are kept, the others are made. Each stores its seed."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from hypernoise_core.files import replacing

from ..pictures import to_images
from .benchmark import Benchmark, Item, PictureFile, cells, grid

KEY = "hypernoise"
"""The PNG text key under which an image file stores its prompt and seeds."""

MISSING, BROKEN, OTHER = "missing", "broken or truncated", "of another prompt or seed"

Make = Callable[[Item, tuple[int, ...]], Tensor]
"""(prompt, seeds) -> images [N, 3, H, W] in [0, 1]."""


@dataclass
class Found:
    """The result of inspecting a folder: images that are right, and the number of wrong files by kind."""

    whole: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    todo: list[tuple[Item, list[PictureFile]]] = field(default_factory=list)

    def note(self, what: str, path: str) -> None:
        self.wrong[what] += 1
        self.examples.setdefault(what, path)

    def __str__(self) -> str:
        parts = [f"{self.whole} files complete"]
        for what, count in self.wrong.items():
            example = "" if what == MISSING else f" (such as {self.examples[what]})"
            parts.append(f"{count} {what}{example}")
        return ", ".join(parts)


def label(item: Item, file: PictureFile) -> str:
    """The text that an image file stores about itself."""
    return json.dumps({"prompt": item.prompt, "seeds": list(file.seeds)})


def fault(path: Path, expected: str) -> str | None:
    """What is wrong with an image file, or None."""
    if not path.is_file():
        return MISSING
    try:
        with Image.open(path) as image:
            image.load()
            return None if image.info.get(KEY) == expected else OTHER
    except (OSError, SyntaxError, ValueError):  # Pillow's for truncated and for other files
        return BROKEN


def inspect(benchmark: Benchmark, folder: Path, items: Iterable[Item]) -> Found:
    """Inspect every file of these prompts. Nothing is changed."""
    found = Found()
    for item in items:
        todo = []
        for file in benchmark.files(item):
            if wrong := fault(folder / file.path, label(item, file)):
                found.note(wrong, file.path)
                todo.append(file)
            else:
                found.whole += 1
        lacking = [path for path, text in benchmark.companions(item).items() if not _says(folder / path, text)]
        if overview := benchmark.overview(item):
            lacking += [overview] if _unreadable(folder / overview) else []
        if not todo:  # else they are written anyway
            for path in lacking:
                found.note(f"{Path(path).name} missing or wrong", path)
        if todo or lacking:
            found.todo.append((item, todo))
    return found


def strangers(benchmark: Benchmark, folder: Path) -> list[Path]:
    """Files among the images that do not belong there. Some official scorers fail on them."""
    own = {file.path for item in benchmark.every for file in benchmark.files(item)}
    places = {(folder / path).parent for path in own}
    return sorted(
        path
        for place in places
        if place.is_dir()
        for path in place.iterdir()
        if path.is_file() and path.relative_to(folder).as_posix() not in own and not path.name.startswith(".")
    )


def sweep(folder: Path) -> None:
    """Remove what a kill in the middle of a write has left (`replacing`'s temporary names)."""
    for path in folder.rglob(".*"):
        if path.is_file() and re.fullmatch(r"\..+-[a-z0-9_]{8}\.(png|jsonl)", path.name):
            path.unlink()


def make(benchmark: Benchmark, folder: Path, item: Item, files: list[PictureFile], make: Make) -> int:
    """Make what `inspect` found wrong with a prompt, and all files beside it. Returns the number of images."""
    for path, text in benchmark.companions(item).items():
        with replacing(folder / path) as temporary:
            temporary.write_text(text, "utf-8")
    made = 0
    for file in files:
        images = to_images(make(item, file.seeds))
        _save(folder / file.path, grid(images, file.columns), label(item, file))
        made += len(images)
    if overview := benchmark.overview(item):
        _save(folder / overview, grid(read(benchmark, folder, item), 2), "")
    return made


def read(benchmark: Benchmark, folder: Path, item: Item) -> list[Image.Image]:
    """The images of a prompt, in the order of their seeds, RGB."""
    images = []
    for file in benchmark.files(item):
        with Image.open(folder / file.path) as image:
            images += cells(image.convert("RGB"), len(file.seeds), file.columns)
    return images


def as_tensor(images: list[Image.Image]) -> Tensor:
    """Images of one size as [N, 3, H, W] in [0, 1]."""
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images]).float() / 255


def _save(path: Path, image: Image.Image, text: str) -> None:
    info = PngImagePlugin.PngInfo()
    if text:
        info.add_itxt(KEY, text)
    with replacing(path) as temporary:
        image.save(temporary, "PNG", pnginfo=info)


def _says(path: Path, text: str) -> bool:
    try:
        return path.read_text("utf-8") == text
    except (OSError, UnicodeDecodeError):
        return False


def _unreadable(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError):
        return True
    return False
