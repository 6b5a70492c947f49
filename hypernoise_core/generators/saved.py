"""What diffusers saved, before it is loaded: whose family it is, and whether its weights are there and are weights."""

import json
from pathlib import Path

from ..tensor_file import refuse_stand_ins

INDEX = "model_index.json"
"""The file that makes a folder a pipeline."""

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of files whose reader may run code that is in them."""


def check_saved(folder: Path, without: tuple[str, ...] = ()) -> None:
    """Check the weights of a folder that diffusers saved, without reading them. A few milliseconds.

    Args:
        folder: with a `model_index.json`.
        without: components that come from elsewhere.

    Raises:
        ValueError: a component's weights are missing, are pickles, or only stand for weights (pointers of git-lfs).
    """
    components = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    for name, made_by in components.items():
        if isinstance(made_by, list) and made_by[0] and name not in without and (folder / name).is_dir():
            refuse_stand_ins(folder / name)
            check_component(folder / name)


def check_component(folder: Path) -> None:
    """Check the weights of one component, or of a model that transformers saved.

    Raises:
        ValueError: they are missing, or pickles.
    """
    if not (folder / "config.json").is_file():  # a tokenizer or a scheduler
        return
    there = {file.name for file in folder.iterdir()}
    if not any(name.endswith(".safetensors") for name in there):
        pickled = sorted(name for name in there if name.endswith(PICKLES))
        if pickled:
            raise ValueError(
                f"{folder / pickled[0]} is a pickle, which may run code as it is read, and there are no safetensors "
                "beside it: get the model's safetensors files, or save it again with safe_serialization=True"
            )
        raise ValueError(f"{folder} holds no weights: get its .safetensors files")
    for index in folder.glob("*.safetensors.index.json"):
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if missing := sorted(shards - there):
            raise ValueError(f"{folder} lacks {missing[0]}, which {index.name} lists: get the missing files")
