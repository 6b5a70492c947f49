"""A denoiser whose linear layers hold their weights in 8 or 4 bits, by diffusers' own backends."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..settings import SettingError

Quantize = Literal["int8", "fp8", "nf4"]
"""int8 and fp8: a byte a weight, a scale for each output, by torchao. nf4: about half a byte, by bitsandbytes."""

PACKAGES = {"int8": "torchao", "fp8": "torchao", "nf4": "bitsandbytes"}

BYTES = {"int8": 1.0, "fp8": 1.0, "nf4": (4 + 8 / 64 + 32 / (64 * 256)) / 8}
"""Of a weight. nf4 has a scale of 8 bits for 64 weights, and one of 32 bits for 256 of those."""


def check_quantize(kind: str, device: str) -> None:
    """
    Raises:
        SettingError: there is no such kind, its package is missing, or it needs a GPU.
    """
    if kind not in PACKAGES:
        raise SettingError("{quantize} is {!r}: choose from {}", kind, ", ".join(PACKAGES))
    if find_spec(PACKAGES[kind]) is None:
        raise SettingError("{quantize} {} needs {}: pip install 'comfyui-hypernoise[quantize]'", kind, PACKAGES[kind])
    if kind == "nf4" and torch.device(device).type == "cpu":
        raise SettingError("{quantize} is nf4, which diffusers loads onto a GPU alone: take int8, or {device} cuda")


def loading(kind: str, dtype: torch.dtype, device: str) -> dict[str, Any]:
    """What diffusers' loaders take for it."""
    from diffusers import BitsAndBytesConfig, TorchAoConfig

    if kind == "nf4":
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
        return {"quantization_config": config, "device_map": {"": device}}
    from torchao.quantization import Float8WeightOnlyConfig, Int8WeightOnlyConfig

    config = TorchAoConfig(Int8WeightOnlyConfig() if kind == "int8" else Float8WeightOnlyConfig())
    place = {} if torch.device(device).type == "cpu" else {"device_map": {"": device}}  # on "cpu" it packs nothing
    return {"quantization_config": config, **place}


def keep_packed(denoiser: nn.Module) -> None:
    """Let frozen layers with torchao's weights keep them as they are for the backward pass. torchao's own product keeps
    a copy in the activations' dtype there, and with that the whole model is as large as it was."""
    for module in denoiser.modules():
        if type(module) is nn.Linear and type(module.weight) is not nn.Parameter:
            module.__class__ = PackedLinear


class PackedLinear(nn.Linear):
    """A frozen Linear whose weight is unpacked for each product, forwards and backwards, and not kept in between."""

    def forward(self, x: Tensor) -> Tensor:
        y = _Product.apply(x, self, False)
        return y if self.bias is None else y + self.bias


class _Product(torch.autograd.Function):
    """x Wᵀ, or x W where `transposed`: each is the other's gradient, so that it can be differentiated again."""

    @staticmethod
    def forward(ctx, x: Tensor, layer: nn.Linear, transposed: bool) -> Tensor:
        ctx.layer, ctx.transposed = layer, transposed
        weight = layer.weight.dequantize().to(x.dtype)
        return F.linear(x, weight.T if transposed else weight)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return _Product.apply(gradient, ctx.layer, not ctx.transposed), None, None
