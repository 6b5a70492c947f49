"""A folder that diffusers saved as ComfyUI's MODEL, CLIP and VAE: the core's generators in ComfyUI's clothes. Needs
diffusers."""

from __future__ import annotations

import comfy.model_management
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher

from hypernoise_core import load_generator

from .diffusers_clip import diffusers_clip
from .diffusers_model import diffusers_model
from .diffusers_vae import PipelineVae


def load_pipeline(source: str, text_length: int | None = None) -> tuple[ModelPatcher, comfy.sd.CLIP, comfy.sd.VAE]:
    """MODEL, CLIP and VAE of the pipeline at `source`, as of the core's `load_generator`.

    Raises:
        ValueError: it does not load.
    """
    device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(device=device, supported_dtypes=[torch.bfloat16, torch.float32])
    generator = load_generator(source, dtype=dtype, text_length=text_length)
    return diffusers_model(generator), diffusers_clip(generator), PipelineVae(generator)
