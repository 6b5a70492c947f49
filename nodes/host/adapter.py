"""HYPERNOISE, which nodes pass on: a HyperNoise LoRA, and its form for one MODEL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import comfy.model_management
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor, nn

from hypernoise_core.hypernetworks.adapter_file import AdapterInfo, layer_ranks, read_adapter
from hypernoise_core.hypernetworks.adapter_fit import fit_adapter, misfit
from hypernoise_core.hypernetworks.comfy_keys import A, B
from hypernoise_core.hypernetworks.injection import LowRankBranch

HyperNoiseType = io.Custom("HYPERNOISE")

LAST_LAYERS = ("out.2", "final_layer.linear", "proj_out")
"""Last layers of UNets, FLUX and SANA, for adapters whose files do not name it."""


@dataclass(frozen=True, eq=False)
class FittedLora:
    """A HyperNoise LoRA as branches beside a denoiser's layers."""

    branches: dict[str, LowRankBranch]
    last_layer: str
    patcher: ModelPatcher
    """ComfyUI loads and unloads the branches' weights through it, like any model's."""


@dataclass(frozen=True, eq=False)
class HyperNoise:
    """An adapter as stored in its file, with diffusers' names."""

    name: str
    weights: dict[str, Tensor]
    info: AdapterInfo
    _fitted: WeakKeyDictionary = field(default_factory=WeakKeyDictionary, repr=False)

    @classmethod
    def load(cls, name: str, path) -> HyperNoise:
        weights, info = read_adapter(path)
        if info.kind not in ("", "noise"):
            raise ValueError(
                f"file: {name} is a LoRA that fine-tunes the generator itself: choose a noise hypernetwork instead"
            )
        return cls(name, weights, info)

    def fit(self, model: ModelPatcher) -> FittedLora:
        """Its form for this MODEL's denoiser, made once.

        Raises:
            ValueError: it was made for another model.
        """
        if model.model not in self._fitted:
            self._fitted[model.model] = self._fit(model)
        return self._fitted[model.model]

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
        patcher = ModelPatcher(
            nn.ModuleList(branches.values()),
            load_device=model.load_device,
            offload_device=comfy.model_management.unet_offload_device(),
        )
        return FittedLora(branches, last_layer, patcher)


def check_conditioning(model: ModelPatcher, texts: Iterable[Tensor | None]) -> None:
    """Check that encoded texts [B, tokens, width] have the width that this MODEL's denoiser takes, if its configuration
    says so.

    Raises:
        ValueError: they come from another text encoder.
    """
    config = model.model.model_config.unet_config
    width = config.get("context_dim", config.get("context_in_dim"))
    for tokens in texts:
        if isinstance(width, int) and torch.is_tensor(tokens) and tokens.shape[-1] != width:
            raise ValueError(
                f"conditioning: its text encoder gives {tokens.shape[-1]} numbers per token, but this model takes "
                f"{width}: encode the prompt with the CLIP of this model"
            )
