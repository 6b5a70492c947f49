"""Released weights: find them, and check that they are the right ones."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from ..settings import Message
from ..tensor_file import refuse_stand_ins

Weights = dict[str, Tensor]
Model = TypeVar("Model", bound=PreTrainedModel)


def find_file(name: str, weights: str | Path | None, hub: str, file: str) -> Path:
    """The path of a reward's weights file.

    Args:
        weights: the file itself, a folder that holds it (directly, or in a folder with the repository's name), a
            Hugging Face id, or None for `hub`.

    Raises:
        ValueError: it is not there, or only stands for weights; the message says what to download and where to put it.
    """
    where = Path(weights) if weights else None
    if where and where.is_file():
        return _whole(where)
    download = f"download {file} from {_address(hub)}"
    if where and where.is_dir():
        for candidate in (where / file, where / Path(hub).name / file):
            if candidate.is_file():
                return _whole(candidate)
        raise ValueError(Message("reward {!r} is not in {weights}, {}: {} into it", name, where, download))
    if weights and not _is_hub_id(str(weights)):
        raise ValueError(
            Message("reward {!r}: there is no {}: {} and pass its folder with {weights}", name, weights, download)
        )
    try:
        return Path(hf_hub_download(str(weights or hub), file))
    except HUB_ERRORS as error:
        told = "reward {!r} cannot be fetched from {}: {} and pass its folder with {weights}"
        raise ValueError(Message(told, name, weights or hub, download)) from error


def find_folder(name: str, weights: str | Path | None, hub: str) -> str:
    """The folder saved by transformers, or the Hugging Face id, of a reward's model. `weights` is as in `find_file`.

    Raises:
        ValueError: it is not there, or only stands for weights.
    """
    where = Path(weights) if weights else None
    download = f"download all of {_address(hub)} into a folder {Path(hub).name}"
    if where and where.is_dir():
        for candidate in (where, where / Path(hub).name):
            if (candidate / "config.json").is_file():
                return str(_whole(candidate))
        raise ValueError(Message("reward {!r} is not in {weights}, {}: {} in there", name, where, download))
    if weights and not _is_hub_id(str(weights)):
        told = "reward {!r}: there is no folder {}: {}, and pass the folder that holds this one with {weights}"
        raise ValueError(Message(told, name, weights, download))
    return str(weights or hub)


def _whole(place: Path) -> Path:
    refuse_stand_ins(place)
    return place


HUB_ERRORS = (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError)


def load_model(
    model_class: type[Model],
    config: PretrainedConfig,
    weights: Weights,
    dtype: torch.dtype,
    path: Path,
    how: Mapping[str, Any] | None = None,
    **options,
) -> Model:
    """A frozen transformers model with exactly these weights. `how` they are loaded is as in `quantized.loading`.

    Raises:
        ValueError: keys or shapes are not the model's; the message names `path`.
    """
    with torch.device("meta"):
        expected = model_class(config, **options).state_dict()
    check_keys(weights, expected, path)
    model = model_class.from_pretrained(None, config=config, state_dict=weights, dtype=dtype, **options, **(how or {}))
    return model.eval().requires_grad_(False)


def check_keys(weights: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights whose names or shapes differ from `expected`. The message names `path` and an example."""
    missing, extra = sorted(expected.keys() - weights.keys()), sorted(weights.keys() - expected.keys())
    wrong = [key for key in expected.keys() & weights.keys() if expected[key].shape != weights[key].shape]
    for keys, what in ((missing, "lacks"), (extra, "has unknown"), (wrong, "has other shapes for")):
        if keys:
            raise ValueError(
                f"{path} is not the file that is expected here: it {what} {len(keys)} of the model's tensors, such as "
                f"{min(keys)}"
            )


def _address(hub: str) -> str:
    return f"huggingface.co/{hub}"


def _is_hub_id(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text) is not None
