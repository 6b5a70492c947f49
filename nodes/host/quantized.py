"""Layers whose weights are quantized: gradients pass through them, and their weights are only ever read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import comfy.ops
import torch
from torch import Tensor, nn

from hypernoise_core.layers import is_target

FULL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def is_quantized(layer: nn.Module) -> bool:
    """Whether the weight is kept in a smaller format than it is used in: fp8, ComfyUI's quantized tensors, GGUF's."""
    weight = getattr(layer, "weight", None)
    return weight is not None and (
        weight.dtype not in FULL or _is_wrapped(weight) or getattr(weight, "tensor_type", None) is not None
    )


def _is_wrapped(weight: Tensor) -> bool:
    """ComfyUI's QuantizedTensor, which says that it is of the type that it stands for."""
    return hasattr(weight, "dequantize") and hasattr(weight, "_qdata")


def check_quantized(denoiser: nn.Module) -> None:
    """Check that the weights of all quantized kinds of layers of `denoiser` can be had for a backward pass.

    Raises:
        ValueError: those of one cannot; the words name it.
    """
    kinds = {}
    for name, layer in denoiser.named_modules():
        if is_target(layer) and (is_quantized(layer) or not isinstance(layer, (nn.Linear, nn.Conv2d))):
            kinds.setdefault((type(layer), getattr(layer, "quant_format", None)), (name, layer))
    for name, layer in kinds.values():
        try:
            weight = full_weight(layer, torch.zeros(1, device=_device(layer)))
            if type(weight) in (Tensor, nn.Parameter) and weight.dtype in FULL and weight.shape[:2] == _sides(layer):
                continue
            reason = f"it gives a {type(weight).__name__} {list(weight.shape)} of {weight.dtype}"
        except (RuntimeError, NotImplementedError, TypeError, AttributeError, KeyError) as error:
            reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"model: {name} is quantized in a way ({type(layer).__name__}) whose weights cannot be had for training "
            f"({reason}): train on the model's 16 bit file, what is trained works on both"
        )


def _sides(layer: nn.Module) -> tuple[int, int]:
    """Outputs, and inputs of a group."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels, layer.in_channels // layer.groups
    return layer.out_features, layer.in_features


def _device(layer: nn.Module) -> torch.device:
    return next(layer.parameters()).device


def full_weight(layer: nn.Module, like: Tensor) -> Tensor:
    """The weight as it is used on an input `like` that, with whatever patches ComfyUI applies on the fly."""
    own = getattr(layer, "cast_bias_weight", None)  # GGUF's layers bring one
    weight, _ = own(like) if own else comfy.ops.cast_bias_weight(layer, like)
    return weight.dequantize() if _is_wrapped(weight) else weight


@contextmanager
def gradients_through(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Inside the block, quantized linears among `layers` have a gradient to their input. Their forward is ComfyUI's
    own, and no full weight is kept for the backward pass."""
    before: dict[nn.Module, Callable | None] = {}
    try:
        for layer in layers:
            if hasattr(layer, "in_features") and is_target(layer) and is_quantized(layer):
                before[layer] = vars(layer).get("forward")
                layer.forward = partial(_through, layer, layer.forward)
        yield
    finally:
        for layer, forward in before.items():
            if forward is None:
                vars(layer).pop("forward", None)
            else:
                vars(layer)["forward"] = forward


def _through(layer: nn.Module, forward: Callable, x: Tensor, **kwargs) -> Tensor:
    if not torch.is_grad_enabled():
        return forward(x, **kwargs)
    if not x.requires_grad:
        with torch.no_grad():
            return _unshared(forward(x, **kwargs))
    return _Linear.apply(x, layer, partial(forward, **kwargs))


def _unshared(y: Tensor) -> Tensor:
    """Blocks may overwrite it, which autograd forbids for a view that was made without it."""
    return y.clone() if y._is_view() else y


class _Linear(torch.autograd.Function):
    """A linear of x alone."""

    @staticmethod
    def forward(ctx, x, layer, forward):
        ctx.layer, ctx.like = layer, (x.dtype, x.device)
        return _unshared(forward(x.detach()))

    @staticmethod
    def backward(ctx, slope):
        dtype, device = ctx.like
        weight = full_weight(ctx.layer, torch.zeros(1, dtype=dtype, device=device))
        back = slope.to(weight.dtype) @ weight
        smooth = getattr(ctx.layer, "pre_quant_scale", None)  # ComfyUI multiplies the input by it
        return (back if smooth is None else back * smooth.to(back)).to(dtype), None, None
