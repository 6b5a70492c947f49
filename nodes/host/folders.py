"""The pack's folders: `models/hypernoise` and `models/hypernoise_rewards`."""

import os
from pathlib import Path

import folder_paths

from hypernoise_core.embedded import HEAD_FILE, HYPERNOISE_FILE
from hypernoise_core.hypernetworks.adapter_file import PEFT_WEIGHTS

ADAPTERS = "hypernoise"
REWARDS = "hypernoise_rewards"
EMBEDDED = "embedded"
"""The name of what ships with the pack, here as in `load_generator` and `load_reward`."""

SHIPPED = {EMBEDDED: HYPERNOISE_FILE, f"{EMBEDDED} head": HEAD_FILE}
"""Noise hypernetworks for the embedded generator."""


def register() -> None:
    """Create the folders and register them with ComfyUI. `extra_model_paths.yaml` can add others."""
    for name, extensions in ((ADAPTERS, {".safetensors", ".bin"}), (REWARDS, set())):
        folder = os.path.join(folder_paths.models_dir, name)
        os.makedirs(folder, exist_ok=True)
        folder_paths.add_model_folder_path(name, folder)
        folder_paths.folder_names_and_paths[name][1].update(extensions)


def adapter_names() -> list[str]:
    """What Load HyperNoise LoRA offers: the shipped ones, files, and PEFT folders by their folder's name."""
    names = {}
    for file in map(Path, folder_paths.get_filename_list(ADAPTERS)):
        if file.name in PEFT_WEIGHTS:
            names[file.parent.as_posix()] = None
        elif file.suffix == ".safetensors":
            names[file.as_posix()] = None
    return [*SHIPPED, *names]


def told(path: Path) -> str:
    """How messages name an adapter file: its place in `models/hypernoise`, subfolder and all."""
    root = folder_paths.get_folder_paths(ADAPTERS)[0]
    return f"models/{ADAPTERS}/{path.relative_to(root).as_posix()}"


def fingerprint(path: Path) -> list[tuple]:
    """What changes whenever a file, or any file in a folder, is written or replaced: also where its time is kept."""
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    states = [(file, file.stat()) for file in files]
    return [(str(file), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for file, s in states]


def adapter_path(name: str) -> Path | None:
    """The file or PEFT folder of one of `adapter_names`, or None if it is gone."""
    if name in SHIPPED:
        return SHIPPED[name]
    if name not in adapter_names():
        return None
    return next(
        (p for p in (Path(folder) / name for folder in folder_paths.get_folder_paths(ADAPTERS)) if p.exists()), None
    )
