"""Which layers of a denoiser carry a LoRA, and the LoRA's shapes and settings. Needs no peft."""

import re
from typing import cast

from torch import nn

TARGETS = (nn.Linear, nn.Conv2d)
"""Every layer of these kinds carries a LoRA, as in the reference implementation."""


def target_names(denoiser: nn.Module) -> list[str]:
    """The layers of a denoiser that a LoRA adapts."""
    return [name for name, module in denoiser.named_modules() if is_target(module)]


def is_target(module: nn.Module) -> bool:
    """A Linear or a Conv2d. ComfyUI's quantized linears are not `nn.Linear`, but they have its width attributes."""
    return isinstance(module, TARGETS) or (
        type(module).__name__ == "Linear" and hasattr(module, "in_features") and not hasattr(module, "base_layer")
    )


def weight_shape(layer: nn.Module) -> tuple[int, ...]:
    """[out, in, …] of a target, whatever format its weight is stored in."""
    if isinstance(layer, nn.Conv2d):
        return tuple(layer.weight.shape)
    linear = cast(nn.Linear, layer)  # or ComfyUI's own
    return linear.out_features, linear.in_features


def lora_shapes(layer: nn.Module, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of A and B on a layer. For a convolution they are dense, even if the convolution is depthwise."""
    if isinstance(layer, nn.Conv2d):
        return (rank, layer.in_channels, *layer.kernel_size), (layer.out_channels, rank, 1, 1)
    linear = cast(nn.Linear, layer)  # or ComfyUI's own
    return (rank, linear.in_features), (linear.out_features, rank)


def lora_settings(ranks: dict[str, int], scale: float, rank: int) -> dict:
    """peft's settings for a LoRA with these ranks by layer, whose update is `scale` times B A everywhere. `rank` is the
    rank of most layers."""
    others = {f"^{re.escape(name)}": r for name, r in ranks.items() if r != rank}  # ^: this very layer
    return {
        "r": rank,
        "lora_alpha": scale * rank,
        "rank_pattern": others,
        "alpha_pattern": {name: scale * r for name, r in others.items()},
    }
