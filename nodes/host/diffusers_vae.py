"""The autoencoder of one of the core's generators as ComfyUI's VAE."""

from __future__ import annotations

import comfy.model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from hypernoise_core.generators import DiffusersGenerator

from .diffusers_model import latent_format_of

PIXELS = {"pixel_space_vae": torch.tensor(1.0)}
"""A state dict that makes ComfyUI set up a VAE without weights; the real one then replaces it."""


class PipelineAutoencoder(nn.Module):
    """The autoencoder with the interface that comfy.sd.VAE calls: images in [-1, 1], and what a LATENT holds."""

    def __init__(self, generator: DiffusersGenerator):
        super().__init__()
        self.generator, self.latents = generator, latent_format_of(generator)()
        self.autoencoder = generator.autoencoder

    def decode(self, latents: Tensor, **_) -> Tensor:
        return self.generator.decode(self.latents.process_in(latents.float())) * 2 - 1

    def encode(self, pixels: Tensor, **_) -> Tensor:
        return self.latents.process_out(self.generator.encode_pictures(pixels.float() / 2 + 0.5))


class PipelineVae(comfy.sd.VAE):
    def __init__(self, generator: DiffusersGenerator):
        super().__init__(sd=dict(PIXELS), dtype=generator.autoencoder.dtype)
        self.first_stage_model = PipelineAutoencoder(generator)
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
