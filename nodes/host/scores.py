"""Files of scores in ComfyUI's output folder."""

from __future__ import annotations

import re
from pathlib import Path

import folder_paths

from .prompts import NO_FILE

FOLDER = "hypernoise_scores"


def scores_path(name: str) -> Path:
    """The file of that name; it need not exist."""
    return Path(folder_paths.get_output_directory()) / FOLDER / f"{name}.jsonl"


def scores_path_error(name: str) -> str | None:
    """Why a file cannot be called so, or None."""
    if re.fullmatch(r"[\w .-]{1,100}", name) and not name.startswith("."):
        return None
    return f"name: {name!r} is no file name: use letters, digits, spaces, - and _, such as my_scores"


def scores_files() -> list[str]:
    """What Train HyperNoise offers."""
    folder = Path(folder_paths.get_output_directory()) / FOLDER
    return [NO_FILE, *sorted(path.stem for path in folder.glob("*.jsonl"))]
