"""The command lines' arguments about how a model is loaded."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from hypernoise_core.generators import DiffusersGenerator, load_generator


@dataclass(kw_only=True)
class ModelArguments:
    """How the generator is loaded; `model`, `device` and `dtype` are each command's own."""

    CALLED: ClassVar = {"config": "--pipeline", "generator": "--model"}
    """Settings of the core that the command line calls otherwise."""

    variant: str | None = None
    """Of a diffusers model's weight files, such as fp16."""
    pipeline: str | None = None
    """Where --model is a single file with a denoiser: folder, hub id or short name of the pipeline around it."""
    offload: bool = False
    """Keep the text encoders in CPU memory except while prompts are encoded."""
    vae_slicing: bool = False
    """Decode the pictures of a batch one after the other: less memory, the same pictures."""
    vae_tiling: bool = False
    """Decode large pictures in tiles: far less memory, slightly other pictures."""

    def load_generator(self, device: str | None = None) -> DiffusersGenerator:
        """The generator, on `device` where it is not the command's own.

        Raises:
            ValueError: nothing is found there, or no family runs it.
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
