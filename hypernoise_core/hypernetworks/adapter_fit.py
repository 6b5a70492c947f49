"""Whether an adapter fits a denoiser, under diffusers' layer names or ComfyUI's. Needs no peft."""

from __future__ import annotations

from torch import Tensor, nn

from ..layers import is_target, lora_shapes
from .adapter_file import AdapterInfo, denoiser_fingerprint, layer_ranks
from .comfy_keys import A, B, key_map


def fit_adapter(denoiser: nn.Module, weights: dict[str, Tensor], info: AdapterInfo) -> tuple[dict[str, Tensor], str]:
    """An adapter's weights, and its last layer if that is known, under the names that the denoiser's layers have.

    Raises:
        ValueError: it does not fit; the words say where (see `misfit`).
    """
    if info.denoiser_sha256 not in ("", denoiser_fingerprint(denoiser)):
        raise ValueError("its layers have other names or shapes")
    layers = {name: module for name, module in denoiser.named_modules() if is_target(module)}
    keys = key_map(layers)
    if layer_ranks(weights).keys() <= keys.layers.keys():  # ComfyUI's names, as its own nodes save them
        weights = keys.to_diffusers(weights)
    if info.layers is None and len(layer_ranks(weights)) < sum(map(len, keys.layers.values())):
        raise ValueError(f"it is damaged, with weights for {len(layer_ranks(weights))} layers only")
    last_layer = info.last_layer
    if keys.comfy:
        weights = keys.to_comfy(weights)
        last_layer = keys.comfy_name(last_layer) if last_layer else ""
    if last_layer and f"{last_layer}.{A}" not in weights:
        raise ValueError(f"it has no weights for {last_layer!r}, which it says is the last layer")
    for name, rank in layer_ranks(weights).items():
        expected = lora_shapes(layers[name], rank) if name in layers else None
        found = tuple(tuple(weights[f"{name}.{half}"].shape) for half in (A, B))
        if found != expected:
            raise ValueError(f"{name} has A {found[0]} and B {found[1]}, expected {expected or 'no such layer'}")
    return weights, last_layer


def misfit(adapter: str, info: AdapterInfo, model: str, reason: Exception) -> str:
    """The sentence for a user whose adapter does not fit a model."""
    made_for = f"was made for {info.generator[:100]} ({info.family or 'family unknown'}) and " if info.generator else ""
    return f"{adapter} {made_for}does not fit {model}, load it with its own model: {reason}"
