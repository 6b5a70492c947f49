"""Noise hypernetworks from files of any kind, as HYPERNOISE."""

from __future__ import annotations

from pathlib import Path

from hypernoise_core.hypernetworks.adapter_file import read_kind

from .adapter import HyperNoise
from .head import HyperNoiseHead
from .lora import HyperNoiseLora

KINDS: dict[str, type[HyperNoise]] = {"noise": HyperNoiseLora, "head": HyperNoiseHead}
"""Kind in a file's header to what it is here."""


def load_hypernoise(name: str, path: str | Path) -> HyperNoise:
    """A noise hypernetwork of any kind, from a file or a PEFT folder.

    Raises:
        ValueError: it is damaged, or no noise hypernetwork.
    """
    kind = read_kind(path)
    if kind == "finetune":
        raise ValueError(
            f"file: {name} is a LoRA that was fine-tuned into its generator for comparison, not a noise hypernetwork: "
            "choose one trained as such"
        )
    return KINDS[kind](name, path)
