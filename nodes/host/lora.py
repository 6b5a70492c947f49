"""The HyperNoise LoRA in ComfyUI: branches beside the denoiser's layers, for the length of one call."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import comfy.ops
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from hypernoise_core.hypernetworks.adapter_file import layer_ranks, read_adapter, write_adapter
from hypernoise_core.hypernetworks.adapter_fit import fit_adapter, misfit
from hypernoise_core.hypernetworks.comfy_keys import A, B
from hypernoise_core.hypernetworks.injection import LowRankBranch, injected

from .adapter import FittedHyperNoise, HyperNoise
from .call import FirstCall

LAST_LAYERS = ("out.2", "final_layer.linear", "proj_out")
"""Of UNets, FLUX and SANA, for adapters whose files do not say it."""


class HyperNoiseLora(HyperNoise):
    """Under diffusers' names, as in its file."""

    def __init__(self, name: str, path: str | Path):
        super().__init__(name)
        self.weights, self.info = read_adapter(path)
        self.training = self.info.training

    def save(self, path: str | Path) -> None:
        write_adapter(path, self.weights, self.info)

    def _fit(self, model: ModelPatcher) -> FittedLora:
        denoiser = model.model.diffusion_model
        try:
            weights, last_layer = fit_adapter(denoiser, self.weights, self.info)
            names = layer_ranks(weights)
            last_layer = last_layer or next((name for name in LAST_LAYERS if name in names), "")
            if last_layer not in names:
                raise ValueError("it has no weights for the model's last layer")
        except ValueError as error:
            this_model = type(model.model).__name__
            raise ValueError(misfit(f"hypernoise: {self.name}", self.info, this_model, error)) from error
        dtype = model.model.get_dtype_inference()
        scale = self.info.alpha / self.info.rank
        branches = {}
        for name in names:
            a, b = (weights[f"{name}.{half}"].to(dtype) for half in (A, B))
            branches[name] = LowRankBranch(denoiser.get_submodule(name), a, b, scale, comfy.ops.manual_cast)
        return FittedLora(branches, last_layer, model, self.info.coarsen)


class FittedLora(FittedHyperNoise):
    def __init__(self, branches: dict[str, LowRankBranch], last_layer: str, model: ModelPatcher, coarsen: int):
        self.branches, self.last_layer, self.coarsen = branches, last_layer, coarsen
        self.patcher = ModelPatcher(
            nn.ModuleList(branches.values()),
            load_device=model.load_device,
            offload_device=comfy.model_management.unet_offload_device(),
        )

    def delta(self, call: FirstCall, remaining: int) -> Tensor:
        with injected(call.model.diffusion_model, self.branches, self.last_layer):
            denoised = call.denoised()
        return call.raw_output(denoised) * call.covered()  # where no prompt applies, nothing was predicted
