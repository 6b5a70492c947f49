"""The commands' arguments for loading a model."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hypernoise_core.generators import DiffusersGenerator, load_generator
from hypernoise_core.generators.quantized import Quantize
from hypernoise_core.generators.schedules import Scheduler


@dataclass(kw_only=True)
class ModelArguments:
    """How to load the generator. Each command has its own `model`, `device` and `dtype`."""

    CALLED: ClassVar = {"config": "--pipeline", "generator": "--model"}
    """Settings of the core that the command line calls otherwise."""

    variant: str | None = None
    """Variant of a diffusers model's weight files, such as fp16."""
    pipeline: str | None = None
    """If --model is a denoiser alone (a single file, or a folder or Hugging Face id of a UNet or transformer): folder,
    Hugging Face id or short name of the pipeline whose denoiser it replaces."""
    generator_lora: str | None = None
    """LoRA that belongs to the model, such as Lightning, Hyper-SD, DMD2, LCM or Turbo: FILE or FILE=SCALE. The file may
    be on the hub: owner/name/file.safetensors. It is added to the weights in memory."""
    scheduler: Scheduler | None = None
    """Sampler in place of the model's own: lcm, euler, ddim-trailing or tcd for Stable Diffusion models; euler or lcm
    for rectified flows. Take the one that the model or LoRA was distilled for."""
    shift: float | None = None
    """Shift of a rectified flow's noise levels, the same at every size, in place of the model's own. Lightning for
    Qwen-Image wants 3."""
    text_length: int | None = None
    """Tokens of a prompt that the model reads: longer ones are cut, and shorter ones filled up where the model sees
    that (FLUX, FLUX.2, SD3). Default: the model's own, 256 for FLUX. The reference implementation uses 512 for FLUX."""
    quantize: Quantize | None = None
    """Pack the denoiser's linear weights as it is loaded. int8, fp8: half of the memory of bfloat16, nearly the same
    images. nf4: a quarter, on a GPU. Extra [quantize]. What is trained on it fits the whole model too."""
    offload: bool = False
    """Keep the text encoders in CPU memory. While prompts are encoded, they change places with denoiser and decoder."""
    vae_slicing: bool = False
    """Decode the images of a batch one at a time: less memory, the same images."""
    vae_tiling: bool = False
    """Decode large images in tiles: far less memory, slightly different images."""

    def load_generator(self, device: str | None = None) -> DiffusersGenerator:
        """The generator, on `device` or on the command's own device.

        Raises:
            ValueError: nothing is found there, or no family supports it.
        """
        return load_generator(
            self.model,
            device or self.device,
            getattr(torch, self.dtype),
            variant=self.variant,
            config=self.pipeline,
            quantize=self.quantize,
            offload=self.offload,
            vae_slicing=self.vae_slicing,
            vae_tiling=self.vae_tiling,
            generator_lora=self.generator_lora,
            scheduler=self.scheduler,
            shift=self.shift,
            text_length=self.text_length,
        )
