"""SANA-Sprint as ComfyUI's MODEL, CLIP and VAE. Needs diffusers.

Its TrigFlow is ComfyUI's CONST: at angle t the network receives s z + (1 - s) x̂ with s = sin t / (cos t + sin t), and
returns v with x̂ = input - s v. So sigma is s, and ComfyUI's `lcm` sampler is the consistency sampling that diffusers
does.
"""

from __future__ import annotations

import math
from functools import cached_property

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.sd
import comfy.supported_models_base
import torch
from comfy.model_patcher import ModelPatcher
from comfy.model_sampling import CONST, ModelSamplingDiscreteFlow
from torch import Tensor, nn

from hypernoise_core import TensorBatch, load_generator
from hypernoise_core.generators.sana_sprint import SanaSprint
from hypernoise_core.settings import about

PIXELS = {"pixel_space_vae": torch.tensor(1.0)}
"""A state dict that makes ComfyUI set up a VAE without weights; the real one then replaces it."""


def load_sana_sprint(source: str) -> tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of a SANA-Sprint pipeline.

    Raises:
        ValueError: nothing is found there, or it is another kind of pipeline.
    """
    device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(device=device, supported_dtypes=[torch.bfloat16, torch.float32])
    with about("model"):
        generator = load_generator(source, dtype=dtype)
        if not isinstance(generator, SanaSprint):
            raise ValueError(f"{source} is a {generator.family} model: load it with ComfyUI's own loaders")
    model = ModelPatcher(SanaSprintModel(generator), device, comfy.model_management.unet_offload_device())
    clip = comfy.sd.CLIP(TextTarget(generator), parameters=_size(generator.text_encoders[0]))
    return model, clip, SanaVae(generator)


class TrigFlow(ModelSamplingDiscreteFlow, CONST):
    """Sigma is s. The table of sigmas is even in the angle t, so the scheduler `simple` gives SANA-Sprint's steps. Two
    steps are the exception, because diffusers uses 1.3: ManualSigmas 1, 0.7827, 0."""

    def set_parameters(self, shift=1.0, timesteps=1000, multiplier=1.0):
        self.shift, self.multiplier = 1.0, 1.0
        angle = torch.arange(1, timesteps + 1) / timesteps * (math.pi / 2)
        self.register_buffer("sigmas", angle.sin() / (angle.sin() + angle.cos()))

    def percent_to_sigma(self, percent):
        angle = (1.0 - min(max(percent, 0.0), 1.0)) * math.pi / 2
        return math.sin(angle) / (math.sin(angle) + math.cos(angle))


class SanaSprintModel(comfy.model_base.BaseModel):
    """A BaseModel around diffusers' transformer. The layers keep their names."""

    def __init__(self, generator: SanaSprint):
        class Config(comfy.supported_models_base.BASE):
            latent_format = _latent_format(generator)

        config = Config(
            {"disable_unet_model_creation": True, "context_dim": generator.denoiser.config.caption_channels}
        )
        config.set_inference_dtype(generator.denoiser.dtype, None)
        super().__init__(config, comfy.model_base.ModelType.FLOW)
        self.generator = generator
        self.diffusion_model = generator.denoiser
        self.model_sampling = TrigFlow()

    def extra_conds(self, **kwargs):
        embeds, mask = kwargs["cross_attn"], kwargs.get("attention_mask")
        mask = torch.ones(embeds.shape[:2], dtype=torch.long) if mask is None else mask
        if missing := embeds.shape[1] - mask.shape[1]:  # texts that were joined after encoding
            mask = torch.cat([mask, mask.new_ones(len(mask), missing)], 1)
        return {"embeds": comfy.conds.CONDRegular(embeds), "mask": comfy.conds.CONDRegular(mask)}

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **conds):
        conditioning = TensorBatch({name: conds[name].to(x.device) for name in ("embeds", "mask")})
        v = self.generator.predict(self.diffusion_model, x, t.float(), conditioning)
        return self.model_sampling.calculate_denoised(t, v, x)


def _latent_format(generator: SanaSprint) -> type[comfy.latent_formats.LatentFormat]:
    class SanaLatent(comfy.latent_formats.LatentFormat):
        latent_channels = generator.latent_channels
        spacial_downscale_ratio = generator.latent_scale
        scale_factor = generator.autoencoder.config.scaling_factor

        @cached_property
        def _preview(self) -> list[list[float]]:
            return _preview_colors(generator.autoencoder, self.scale_factor, self.spacial_downscale_ratio)

        @property
        def latent_rgb_factors(self) -> list[list[float]]:  # ComfyUI reads it only where previews are on
            return self._preview[:-1]

        @property
        def latent_rgb_factors_bias(self) -> list[float]:
            return self._preview[-1]

    return SanaLatent


@torch.no_grad()
def _preview_colors(autoencoder: nn.Module, scale: float, ratio: int, cells: int = 8) -> list[list[float]]:
    """Red, green and blue in [-1, 1] as linear functions of a latent cell, [C + 1, 3] with the constants last: the best
    fit to the latents of four images of randomly coloured cells."""
    colors = torch.rand(4, 3, cells, cells, generator=torch.Generator().manual_seed(0)) * 2 - 1
    weight = next(autoencoder.parameters())
    pixels = colors.repeat_interleave(ratio, 2).repeat_interleave(ratio, 3).to(weight.device, weight.dtype)
    latents = autoencoder.encode(pixels, return_dict=False)[0].float().cpu() * scale
    features = latents.movedim(1, -1).flatten(0, 2)
    features = torch.cat([features, torch.ones(len(features), 1)], 1)
    return torch.linalg.lstsq(features, colors.movedim(1, -1).flatten(0, 2)).solution.tolist()


class SanaText(nn.Module):
    """The text encoder with the interface that comfy.sd.CLIP calls. Its tokens are the prompt itself."""

    disable_offload = True
    """ComfyUI's dynamic VRAM works only for its own layers; transformers' layers are loaded completely."""

    def __init__(self, generator: SanaSprint):
        super().__init__()
        self.generator = generator
        (self.text_encoder,) = generator.text_encoders
        self.dtypes = {self.text_encoder.dtype}

    def set_clip_options(self, options: dict) -> None:
        pass

    def reset_clip_options(self) -> None:
        pass

    def encode_token_weights(self, tokens: dict) -> tuple[Tensor, None, dict]:
        encoded = self.generator.encode(tokens["sana"]).to(comfy.model_management.intermediate_device())
        return encoded["embeds"].float(), None, {"attention_mask": encoded["mask"]}

    def load_sd(self, state_dict: dict):
        return self.text_encoder.load_state_dict(state_dict, strict=False)


class SanaTokenizer:
    """Passes the whole prompt on. diffusers' pipeline tokenizes when it encodes."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        pass

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_) -> dict:
        return {"sana": [text]}

    def state_dict(self) -> dict:
        return {}


class TextTarget:
    """The target from which comfy.sd.CLIP makes a text encoder."""

    tokenizer = SanaTokenizer

    def __init__(self, generator: SanaSprint):
        self.params = {}
        self.clip = lambda **_: SanaText(generator)


class SanaAutoencoder(nn.Module):
    """AutoencoderDC with the interface that comfy.sd.VAE calls: images in [-1, 1], unscaled latents."""

    def __init__(self, autoencoder: nn.Module):
        super().__init__()
        self.autoencoder = autoencoder

    def decode(self, latents: Tensor, **_) -> Tensor:
        return self.autoencoder.decode(latents, return_dict=False)[0]

    def encode(self, pixels: Tensor, **_) -> Tensor:
        return self.autoencoder.encode(pixels, return_dict=False)[0]


class SanaVae(comfy.sd.VAE):
    def __init__(self, generator: SanaSprint):
        super().__init__(sd=dict(PIXELS), dtype=generator.autoencoder.dtype)
        self.first_stage_model = SanaAutoencoder(generator.autoencoder)
        self.latent_channels = generator.latent_channels
        self.downscale_ratio = self.upscale_ratio = generator.latent_scale
        self.disable_offload = False
        area = generator.latent_scale**2  # AutoencoderKL's measures, a pixel, as ComfyUI has them
        self.memory_used_decode = lambda shape, dtype: 2178 * shape[2] * shape[3] * area * _bytes(dtype)
        self.memory_used_encode = lambda shape, dtype: 1767 * shape[2] * shape[3] * _bytes(dtype)
        self.patcher = ModelPatcher(self.first_stage_model, self.device, comfy.model_management.vae_offload_device())
        self.size = None


def _bytes(dtype: torch.dtype) -> int:
    return comfy.model_management.dtype_size(dtype)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
