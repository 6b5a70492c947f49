"""Read tensors from untrusted files: `.safetensors`, or what `torch.save` wrote, through torch's restricted
unpickler."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .files import stand_in

MODEL_FILES = (".safetensors", ".gguf", ".bin", ".pt", ".pth", ".ckpt", ".json", ".model", ".txt")
"""Endings of weights, configurations and vocabularies."""


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Named tensors on the CPU, and the header's metadata if the format has any. No code in the file is run.

    Args:
        path: `.safetensors`, or any other ending (.bin, .pt, .pth) for torch's format, where tensors may be under
            `state_dict`.

    Raises:
        ValueError: the file is incomplete, of another kind, or holds anything but plain tensors.
    """
    if path.suffix != ".safetensors":
        return _read_pickle(path), {}
    with _opened(path) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in the header of a `.safetensors` file.

    Raises:
        ValueError: not a whole file of its kind.
    """
    with _opened(path) as file:
        return file.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError, AttributeError) as error:  # AttributeError: a dtype that this torch lacks
        _refuse_stand_in(path, error)
        raise ValueError(
            f"{path} is not a complete safetensors file ({reason(error)}): get or make it again"
        ) from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken archive fails in a dozen ways
        _refuse_stand_in(path, error)
        raise ValueError(
            f"{path} is not a complete file with only tensors ({reason(error)}). No code in it was run. Download it "
            "again, or ask its author for a .safetensors file"
        ) from error
    if isinstance(tensors, dict):
        tensors = tensors.get("state_dict", tensors)
    if not isinstance(tensors, dict) or not all(isinstance(name, str) for name in tensors):
        raise ValueError(f"{path} holds a {type(tensors).__name__} instead of named tensors")
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise ValueError(f"{path} holds something that is not a plain tensor: {name}")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{path} claims more values than it holds: {name} {tuple(tensor.shape)}")
    return dict(tensors)


def refuse_stand_ins(place: Path) -> None:
    """Check that a model's file, or each in a folder, is not a pointer of git-lfs or a web page. Of each, the first
    bytes are read.

    Raises:
        ValueError: one is.
    """
    for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
        if path.suffix in MODEL_FILES and path.is_file():
            _refuse_stand_in(path)


def _refuse_stand_in(path: Path, error: BaseException | None = None) -> None:
    if told := stand_in(path):
        raise ValueError(f"{path} holds no data, it is {told}") from error


def reason(error: BaseException) -> str:
    """A short form of an error: the beginning of its message, or its type if the message is empty."""
    words = str(error).strip()
    return words.splitlines()[0][:200] if words else type(error).__name__
