"""A LoRA on a clone of a frozen denoiser that shares every one of its weights.

The generator's own modules are never touched: no toggling of adapters, no merging, no second copy in memory.
"""

import copy
import re

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Conv2d as LoraConv2d
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ..layers import TARGETS, lora_settings

ADAPTER = "hypernoise"


class _DenseConv2d(LoraConv2d):
    """LoRA on a grouped convolution with dense factors, A [r, C, k, k] and B [C, r, 1, 1].

    peft groups B like the base layer and so refuses SANA's depthwise convolutions; the authors' released checkpoint
    holds dense factors there.
    """

    def update_layer(self, *args, **kwargs):
        base, groups = self.get_base_layer(), self.get_base_layer().groups
        base.groups = 1
        try:
            super().update_layer(*args, **kwargs)
        finally:
            base.groups = groups

    def __init__(self, base_layer: nn.Conv2d, *args, **kwargs):
        groups, base_layer.groups = base_layer.groups, 1
        try:
            super().__init__(base_layer, *args, **kwargs)
        finally:
            base_layer.groups = groups


def shared_clone(module: nn.Module) -> nn.Module:
    """A clone with modules of its own over the very same parameters and buffers (milliseconds, no memory)."""
    shared: list[object] = [*module.parameters(), *module.buffers()]
    for part in module.modules():
        shared += [value for value in vars(part).values() if isinstance(value, Tensor)]  # tables of positions
        if hasattr(part, "quant_state"):
            shared.append(part.quant_state)  # bitsandbytes' scales
    return copy.deepcopy(module, memo={id(tensor): tensor for tensor in shared})


def add_lora(denoiser: nn.Module, ranks: dict[str, int], scale: float, rank: int) -> None:
    """Inject a LoRA in place into the layers that `ranks` names: A Gaussian, B zero, both float32."""
    config = LoraConfig(
        **lora_settings(ranks, scale, rank),
        target_modules="|".join(map(re.escape, ranks)),  # a list would also match by the end of a name
        init_lora_weights="gaussian",
    )
    hosts: set[type[nn.Module]] = {
        type(denoiser.get_submodule(name)) for name in ranks
    }  # ComfyUI's quantized linears are no nn.Linear
    adapted = {kind: LoraLinear for kind in hosts if not issubclass(kind, TARGETS)}
    adapted[nn.Conv2d] = _DenseConv2d
    config._register_custom_module(adapted)
    inject_adapter_in_model(config, denoiser, adapter_name=ADAPTER)
    for module in denoiser.modules():
        if isinstance(module, LoraLayer):
            module.lora_A.float()
            module.lora_B.float()


def lora_parameters(denoiser: nn.Module) -> dict[str, nn.Parameter]:
    """The LoRA's parameters under peft's saved key names, such as `transformer_blocks.0.attn1.to_q.lora_A.weight`."""
    infix = f".{ADAPTER}."
    return {name.replace(infix, "."): p for name, p in denoiser.named_parameters() if ".lora_" in name}


def load_lora_(denoiser: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy weights into an injected LoRA; names and shapes have been checked."""
    with torch.no_grad():
        for name, parameter in lora_parameters(denoiser).items():
            parameter.copy_(weights[name])
