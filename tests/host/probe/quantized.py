"""Toy models whose weights are quantized: ComfyUI's own formats, and layers that work as GGUF's do."""

import json

import comfy.ops
import comfy.supported_models
import torch
from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor
from torch import nn

from .families import Family, model_of, patcher_of

PACKED = "packed"
"""As GGUF: bytes in a tensor class of the layer's own, which the layer unpacks in every call."""
UNKNOWN = "unknown"
"""The same, but nobody except the layer can unpack it."""


def quantized_model_of(family: Family, how: str):
    plain = model_of(family).model.diffusion_model
    config = getattr(comfy.supported_models, family.config)(dict(family.settings))
    config.unet_config |= family.settings
    weights = plain.state_dict()
    if how in (PACKED, UNKNOWN):
        config.custom_operations = PackedOps if how == PACKED else UnknownOps
        patcher = patcher_of(config, weights)
        for layer in patcher.model.diffusion_model.modules():
            if isinstance(layer, nn.Linear):
                layer.weight = nn.Parameter(Packed.of(layer.weight), requires_grad=False)
        return patcher
    config.quant_config = {"mixed_ops": True}
    for name, layer in plain.named_modules():
        if isinstance(layer, nn.Linear) and min(layer.weight.shape) >= 64 and "mod" not in name:
            packed = QuantizedTensor.from_float(layer.weight, QUANT_ALGOS[how]["comfy_tensor_layout"])
            weights |= packed.state_dict(f"{name}.weight")
            weights[f"{name}.comfy_quant"] = torch.tensor(list(json.dumps({"format": how}).encode()), dtype=torch.uint8)
    return patcher_of(config, weights)


class Packed(torch.Tensor):
    """Eight bits a number and a scale a row, behind the shape of what they stand for."""

    def __new__(cls, data, *, tensor_type, tensor_shape):
        return data.as_subclass(cls)

    def __init__(self, data, *, tensor_type, tensor_shape):
        self.tensor_type, self.tensor_shape = tensor_type, tensor_shape

    @classmethod
    def of(cls, weight):
        scale = weight.abs().amax(1, keepdim=True) / 127
        data = torch.cat([(weight / scale).round().to(torch.int8).view(torch.uint8), scale.view(torch.uint8)], 1)
        return cls(data, tensor_type=8, tensor_shape=weight.shape)

    def unpacked(self, dtype):
        data = torch.Tensor.as_subclass(self, torch.Tensor)
        scale = data[:, -4:].contiguous().view(torch.float32)
        return (data[:, :-4].contiguous().view(torch.int8) * scale).to(dtype)

    def clone(self, *_, **__):
        return self

    def detach(self):
        return self

    def to(self, *args, **kwargs):
        return Packed(super().to(*args, **kwargs), tensor_type=self.tensor_type, tensor_shape=self.tensor_shape)

    @property
    def shape(self):
        return self.tensor_shape


class PackedOps(comfy.ops.manual_cast):
    class Linear(comfy.ops.manual_cast.Linear):
        def cast_bias_weight(self, like):
            bias = None if self.bias is None else self.bias.to(like.dtype)
            return (self.weight.unpacked(like.dtype) if isinstance(self.weight, Packed) else self.weight), bias

        def forward_comfy_cast_weights(self, x):
            return nn.functional.linear(x, *self.cast_bias_weight(x))


class UnknownOps(comfy.ops.manual_cast):
    class Linear(comfy.ops.manual_cast.Linear):
        def forward_comfy_cast_weights(self, x):
            weight = self.weight.unpacked(x.dtype) if isinstance(self.weight, Packed) else self.weight
            return nn.functional.linear(x, weight, self.bias)
