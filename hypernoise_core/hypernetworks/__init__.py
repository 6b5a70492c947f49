"""Noise hypernetworks: the kinds there are, one file each, and one loader for all of them.

A kind is imported when it is asked for: ComfyUI runs them without diffusers and peft.
"""

from __future__ import annotations

import warnings
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from .adapter_file import read_kind
from .base import Adapter, NoiseHypernetwork

if TYPE_CHECKING:
    from ..generators.base import Generator

HYPERNETWORKS = {"lora": ("lora", "LoraHypernetwork"), "head": ("head", "HeadHypernetwork")}
"""What `--hypernetwork` takes, and where each kind lives: module and class."""

_IN_FILES = {"noise": HYPERNETWORKS["lora"], "head": HYPERNETWORKS["head"], "finetune": ("lora", "FineTunedDenoiser")}
"""Kind in a file's header to module and class."""

__all__ = [
    "HYPERNETWORKS",
    "Adapter",
    "NoiseHypernetwork",
    "adapter_class",
    "load_adapter",
    "load_hypernetwork",
]


def adapter_class(kind: str) -> type[Adapter]:
    """The class of a kind: a name of `HYPERNETWORKS`, or `finetune`."""
    module, name = HYPERNETWORKS.get(kind) or _IN_FILES[kind]
    return getattr(import_module(f".{module}", __name__), name)


def load_adapter(generator: Generator, path: str | Path) -> Adapter:
    """Whatever was trained for `generator`: a noise hypernetwork of any kind, or a fine-tuned LoRA.

    Args:
        path: a HyperNoise file, a PEFT folder, or the hub id of one.

    Raises:
        ValueError: nothing there, damaged, or another model's.
    """
    return _loaded(read_kind(path), generator, path)


def load_hypernetwork(generator: Generator, path: str | Path) -> NoiseHypernetwork:
    """A noise hypernetwork of any kind for `generator`, as `load_adapter`.

    Raises:
        ValueError: as there, or it is a LoRA that was fine-tuned into the generator.
    """
    if (kind := read_kind(path)) == "finetune":
        raise ValueError(
            f"{path} is a LoRA that was fine-tuned into its generator for comparison, and moves no noise: give a noise "
            "hypernetwork"
        )
    found = _loaded(kind, generator, path)
    assert isinstance(found, NoiseHypernetwork)
    return found


def _loaded(kind: str, generator: Generator, path: str | Path) -> Adapter:
    """Warns where the generator has another LoRA in its weights than the one that the file was trained on, or reads
    another length of text."""
    found = adapter_class(kind).load(generator, path)
    length = found.training.get("text_length", "")
    if generator.text_length and length not in ("", str(generator.text_length)):
        warnings.warn(
            f"{path} was trained with texts of {length[:20]} tokens, and {generator.name} reads them as "
            f"{generator.text_length} now: it makes other pictures of a noise; set "
            f"text_length to {length[:20]}",
            stacklevel=3,
        )
    trained_on = found.training.get("generator_lora", "")
    if generator.lora is not None and _content(trained_on) != _content(generator.lora):
        warnings.warn(
            f"{path} was trained with {_told(trained_on)}, and is used with "
            f"{_told(generator.lora)} now: the generator makes other pictures of a noise",
            stacklevel=3,
        )
    return found


def _content(lora: str) -> str:
    """Scale and hash of a generator's LoRA, whatever its file is called."""
    return lora.rpartition("=")[2]


def _told(lora: str) -> str:
    return f"the generator LoRA {lora}" if lora else "no generator LoRA"
