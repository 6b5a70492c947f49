"""The commands' arguments for loading a model."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hypernoise_core.generators import DiffusersGenerator, load_generator


@dataclass(kw_only=True)
class ModelArguments:
    """How to load the generator. Each command has its own `model`, `device` and `dtype`."""

    CALLED: ClassVar = {"config": "--pipeline", "generator": "--model"}
    """Settings of the core that the command line calls otherwise."""

    variant: str | None = None
    """Variant of a diffusers model's weight files, such as fp16."""
    pipeline: str | None = None
    """If --model is a single file with a denoiser: folder, Hugging Face id or short name of its pipeline."""
    offload: bool = False
    """Keep the text encoders in CPU memory except while prompts are encoded."""
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
            offload=self.offload,
            vae_slicing=self.vae_slicing,
            vae_tiling=self.vae_tiling,
        )
