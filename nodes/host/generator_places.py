"""Where Load HyperNoise Generator may take a model from, so that nobody else's workflow decides what is fetched or
run: the models folder, another folder that diffusers saved, the Hugging Face cache, and the hub if the user says so.
Needs diffusers."""

from __future__ import annotations

import re
from pathlib import Path

import folder_paths
from diffusers import DiffusionPipeline
from huggingface_hub import constants
from huggingface_hub.errors import HfHubHTTPError

from hypernoise_core.generators import SHORT_NAMES, check_generator
from hypernoise_core.generators.saved import INDEX

from .folders import EMBEDDED

UNREACHED = (OSError, ValueError, HfHubHTTPError)
"""What diffusers and the hub raise where something is not there."""


def place_of(model: str, download: bool) -> str | None:
    """The model on this machine, as `load_generator` takes it, with weights that may be read; None if it is on the hub
    and must be downloaded first.

    Raises:
        ValueError: there is no such model, it may not be loaded, or it would need a download.
    """
    if model == EMBEDDED:
        return model
    if folder := _folder(model):
        check_generator(str(folder))
        return str(folder)
    if (hub := _hub_id(model)) is None:
        raise ValueError(
            f"{model!r} is no folder with a {INDEX}, as diffusers saves one: give its name in models/diffusers, its "
            "full path, or a Hugging Face id such as Tongyi-MAI/Z-Image-Turbo"
        )
    if cached := _cached(hub):
        return cached
    if not download:
        raise ValueError(
            f"{model} is not on this machine. To fetch its weights (safetensors only, often many GB), configuration "
            f"and tokenizer from {constants.ENDPOINT}/{hub} into {constants.HF_HUB_CACHE}, turn on download"
        )
    return None


def fetch(model: str) -> str:
    """The folder of a model that was downloaded just now.

    Raises:
        ValueError: it cannot be reached, or has no safetensors of a family that is known here.
    """
    hub = SHORT_NAMES.get(model, model)
    try:
        folder = str(DiffusionPipeline.download(hub, use_safetensors=True))
    except UNREACHED as error:
        raise ValueError(f"{model} cannot be fetched from {constants.ENDPOINT}/{hub}: {error}") from error
    check_generator(folder)
    return folder


def _folder(model: str) -> Path | None:
    """A folder that diffusers saved, by its name in models/diffusers or its full path."""
    places = [Path(root) / model for root in folder_paths.get_folder_paths("diffusers")]
    places += [Path(model)] if Path(model).is_absolute() else []
    return next((place for place in places if (place / INDEX).is_file()), None)


def _hub_id(model: str) -> str | None:
    hub = SHORT_NAMES.get(model, model)
    return hub if re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", hub) else None


def _cached(hub: str) -> str | None:
    """The copy in the Hugging Face cache, if it is whole."""
    try:
        folder = str(DiffusionPipeline.download(hub, use_safetensors=True, local_files_only=True))
        check_generator(folder)
    except UNREACHED:
        return None
    return folder
