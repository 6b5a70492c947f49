"""What peft's LoRA configuration says of scales and ranks, brought to one scale for the whole adapter."""

from __future__ import annotations

import json
import math
import re
from typing import TypeGuard

from torch import Tensor

from .comfy_keys import A, B

UNSUPPORTED = ("use_dora", "lora_bias", "modules_to_save", "trainable_token_indices", "megatron_config", "use_qalora")
"""Fields that must be empty: with them an adapter is more than A and B."""


def apply_config(weights: dict[str, Tensor], text: str) -> tuple[int, float, str]:
    """(rank, alpha, base model) of complete pairs of A and B with this configuration (JSON, as `adapter_config.json`).

    peft lets the scale differ by layer (`alpha_pattern`, rsLoRA); ours is alpha / rank everywhere, so B of such layers
    is replaced in `weights` by its multiple.

    Raises:
        ValueError: not a LoRA's configuration, one with unsupported parts, or ranks that differ from the weights'.
    """
    config = _parsed(text)
    for name in UNSUPPORTED:
        if config.get(name):
            raise ValueError(f"has {name} in its configuration, which is not supported: train a plain LoRA")
    if config.get("bias") not in (None, "none"):
        raise ValueError(
            f"has bias {config['bias']!r} in its configuration, which is not supported: train a plain LoRA"
        )
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1 or not _positive(alpha):
        raise ValueError(f"has r {rank!r} and lora_alpha {alpha!r} in its configuration; numbers above 0 were expected")
    rslora = bool(config.get("use_rslora"))
    scale = alpha / (math.sqrt(rank) if rslora else rank)
    ranks, alphas = _pattern(config, "rank_pattern"), _pattern(config, "alpha_pattern")
    found = set()
    for key in [key for key in weights if key.endswith(f".{A}")]:
        layer = key.removesuffix(f".{A}")
        its_rank, its_alpha = _match(ranks, layer, rank), _match(alphas, layer, alpha)
        if len(weights[key]) != its_rank:
            raise ValueError(f"is damaged: {layer} has rank {len(weights[key])}, its configuration says {its_rank}")
        found.add(int(its_rank))
        factor = its_alpha / (math.sqrt(its_rank) if rslora else its_rank) / scale
        if factor != 1:
            weights[f"{layer}.{B}"] = weights[f"{layer}.{B}"].float() * factor
    rank = rank if rank in found else max(found)
    return rank, scale * rank, str(config.get("base_model_name_or_path") or "")


def _parsed(text: str) -> dict:
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"has a configuration that is no JSON ({type(error).__name__})") from error
    if not isinstance(config, dict):
        raise ValueError("has a configuration that is no JSON object")
    if config.get("peft_type", "LORA") != "LORA":
        raise ValueError(f"is a {config['peft_type']!r} adapter; only LORA is supported")
    return config


def _positive(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _pattern(config: dict, name: str) -> dict[str, float]:
    """Layer names, or their ends, to numbers. peft takes the keys as regular expressions; only names are read here,
    since an expression of a stranger can be made to run for ever."""
    pattern = config.get(name) or {}
    if not isinstance(pattern, dict) or not all(map(_positive, pattern.values())):
        raise ValueError(f"has a {name} in its configuration that does not map layers to numbers above 0")
    names = {re.sub(r"\\(.)", r"\1", key): value for key, value in pattern.items()}
    if odd := [key for key in names if not re.fullmatch(r"\^?[\w.]+", key)]:
        raise ValueError(f"has {odd[0]!r} in the {name} of its configuration; only layer names are supported")
    return names


def _match(pattern: dict[str, float], layer: str, default: float) -> float:
    for key, value in pattern.items():
        if layer == key.removeprefix("^") or (not key.startswith("^") and layer.endswith(f".{key}")):
            return value
    return default
