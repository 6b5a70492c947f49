"""`load_generator`: from a folder or hub id to a frozen generator. One file per family beside this one."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from ..embedded import GENERATOR_FOLDER
from .base import Generator
from .sana_sprint import SanaSprint

FAMILIES = {family.pipeline_class.__name__: family for family in (SanaSprint,)}
"""diffusers pipeline class name to the family that runs it."""

SHORT_NAMES = {
    "embedded": str(GENERATOR_FOLDER),
    "sana": "Efficient-Large-Model/Sana_Sprint_0.6B_1024px_diffusers",
}
"""The names that the reference implementation's `--model` takes, and the generator that this repository ships."""

__all__ = ["FAMILIES", "SHORT_NAMES", "Generator", "load_generator"]


def load_generator(model: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Generator:
    """Load a few-step model and freeze it.

    Args:
        model: a folder saved by diffusers, a hub id, or one of `SHORT_NAMES`.
        device: where it runs, such as `cuda`.
        dtype: of its weights; noise, residuals and pictures are float32 all the same.

    Raises:
        ValueError: nothing is found there, or no family here runs its pipeline class.
    """
    source = SHORT_NAMES.get(model, model)
    try:
        class_name = DiffusionPipeline.load_config(source)["_class_name"]
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, KeyError) as error:
        raise ValueError(
            f"no generator at {model!r}: give a folder saved by diffusers (with model_index.json), a hub id that this "
            f"machine can reach, or one of {', '.join(SHORT_NAMES)}"
        ) from error
    if class_name not in FAMILIES:
        raise ValueError(f"{model!r} is a {class_name}; the families known here are {', '.join(FAMILIES)}")
    family = FAMILIES[class_name]
    pipeline = family.pipeline_class.from_pretrained(source, dtype=dtype).to(device)
    return family(pipeline, name=model if model in SHORT_NAMES else Path(model).name if Path(model).is_dir() else model)
