"""Prompts to train on: typed ones, and files in ComfyUI's input folder."""

from pathlib import Path

import folder_paths

from hypernoise_core.prompt_sets import read_prompts

NO_FILE = "none"
PROMPT_FILES = (".txt", ".json", ".jsonl", ".csv", ".tsv", ".parquet")


def prompt_files() -> list[str]:
    """Files with prompts in ComfyUI's input folder."""
    root = Path(folder_paths.get_input_directory())
    found = sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.suffix.lower() in PROMPT_FILES)
    return [NO_FILE, *found]


def collect_prompts(text: str, file: str) -> list[str]:
    """The lines of `text` that are not empty, then the prompts of a file in the input folder.

    Raises:
        ValueError: no such file, a file that cannot be read, or no prompts at all.
    """
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if file != NO_FILE:
        if file not in prompt_files():
            raise ValueError(f"prompts_file: there is no {file} in ComfyUI's input folder: put it there")
        prompts += read_prompts(Path(folder_paths.get_input_directory()) / file)
    if not prompts:
        raise ValueError("prompts: write at least one prompt, one per line, or choose a prompts_file")
    return prompts
