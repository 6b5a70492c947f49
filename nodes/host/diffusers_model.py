"""The denoiser of one of the core's generators as ComfyUI's MODEL."""

from __future__ import annotations

from functools import cached_property

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.supported_models_base
import torch
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import CONST
from torch import Tensor

from hypernoise_core import TensorBatch
from hypernoise_core.generators import DiffusersGenerator
from hypernoise_core.planning.models import conditioning_shapes

from .diffusers_sampling import sampling_of
from .features import told_by

IN_CONDITIONING = {"embeds": "cross_attn", "mask": "attention_mask", "pooled": "pooled_output"}
"""The core's parts of an encoded prompt, and ComfyUI's names for them."""


def diffusers_model(generator: DiffusersGenerator) -> ModelPatcher:
    told_by(generator)
    device = comfy.model_management.get_torch_device()
    return ModelPatcher(DiffusersModel(generator), device, comfy.model_management.unet_offload_device())


class DiffusersModel(comfy.model_base.BaseModel):
    """A BaseModel around diffusers' denoiser. The layers keep their names."""

    def __init__(self, generator: DiffusersGenerator):
        class Config(comfy.supported_models_base.BASE):
            latent_format = latent_format_of(generator)

        self._parts = conditioning_shapes(generator)
        config = Config({"disable_unet_model_creation": True, "context_dim": self._parts["embeds"][-1]})
        config.set_inference_dtype(generator.denoiser.dtype, None)
        sampling = sampling_of(generator)
        kinds = comfy.model_base.ModelType
        super().__init__(config, kinds.FLOW if isinstance(sampling, CONST) else kinds.EPS)
        self.generator = generator
        self.diffusion_model = generator.denoiser
        self.model_sampling = sampling

    def extra_conds(self, **kwargs):
        given = {part: kwargs.get(IN_CONDITIONING[part]) for part in self._parts}
        embeds = given["embeds"]
        width = None if embeds is None else embeds.shape[-1]
        if width != self._parts["embeds"][-1] or ("pooled" in given and given["pooled"] is None):
            raise ValueError("conditioning: it comes from another text encoder: encode the prompt with this model's")
        if "mask" in given:
            mask = given["mask"]
            mask = torch.ones(embeds.shape[:2], dtype=torch.long) if mask is None else mask
            if missing := embeds.shape[1] - mask.shape[1]:  # texts that were joined after encoding
                mask = torch.cat([mask, mask.new_ones(len(mask), missing)], 1)
            given["mask"] = mask
        return {part: comfy.conds.CONDRegular(tensor) for part, tensor in given.items()}

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds):
        self._check_sides(x)
        sampling, t = self.model_sampling, t.float()
        conditioning = TensorBatch({part: conds[part].to(x.device) for part in self._parts})
        time = t if isinstance(sampling, CONST) else sampling.timestep(t).float()
        raw = self.generator.predict(self.diffusion_model, sampling.calculate_input(t, x), time, conditioning)
        return sampling.calculate_denoised(t, raw, x)

    def _check_sides(self, x: Tensor) -> None:
        cells = self.generator.size_multiple // self.generator.latent_scale
        if any(side % cells for side in x.shape[-2:]):
            raise ValueError(
                f"latent_image: width and height must be multiples of {self.generator.size_multiple} pixels for this "
                "model"
            )


def latent_format_of(generator: DiffusersGenerator) -> type[comfy.latent_formats.LatentFormat]:
    """What ComfyUI knows of a generator's latents. A LATENT holds what the autoencoder makes, before the scaling and
    the shift that make it unit; where these differ by channel, the VAE does that, and a LATENT is unit."""
    config = generator.autoencoder.config

    class Latents(comfy.latent_formats.LatentFormat):
        latent_channels = generator.latent_channels
        spacial_downscale_ratio = generator.latent_scale
        scale_factor = generator.latent_scaling
        shift = config.get("shift_factor") or 0.0

        def process_in(self, latent):
            return (latent - self.shift) * self.scale_factor

        def process_out(self, latent):
            return latent / self.scale_factor + self.shift

        @cached_property
        def _preview(self) -> list[list[float]]:
            return _preview_colors(generator)

        @property
        def latent_rgb_factors(self) -> list[list[float]]:  # ComfyUI reads it only where previews are on
            return self._preview[:-1]

        @property
        def latent_rgb_factors_bias(self) -> list[float]:
            return self._preview[-1]

    return Latents


@torch.no_grad()
def _preview_colors(generator: DiffusersGenerator, cells: int = 8) -> list[list[float]]:
    """Red, green and blue in [-1, 1] as linear functions of a latent cell, [C + 1, 3] with the constants last: the best
    fit to the latents of four images of randomly coloured cells."""
    colors = torch.rand(4, 3, cells, cells, generator=torch.Generator().manual_seed(0)) * 2 - 1
    ratio, weight = generator.latent_scale, next(generator.autoencoder.parameters())
    pixels = colors.repeat_interleave(ratio, 2).repeat_interleave(ratio, 3).to(weight.device)
    latents = generator.encode_pictures(pixels / 2 + 0.5).float().cpu()
    features = latents.movedim(1, -1).flatten(0, 2)
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    return torch.linalg.lstsq(features, colors.movedim(1, -1).flatten(0, 2)).solution.tolist()
