"""The protocol of a generator: the frozen few-step model g_θ behind a handful of methods."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from ..batch import TensorBatch
from ..layers import is_target
from ..reading import Reading, inputs_of, tokens_as_grid
from ..settings import SettingError


class Generator(ABC):
    """A frozen few-step text-to-image model.

    Noise hypernetworks, the trainer, search and evaluation take any generator and never ask which. A family implements
    the abstract methods; `x0` is always unit Gaussian and unpacked, [B, C, h, w], whatever its denoiser wants to see.
    """

    family: str
    """The architecture, such as `sana-sprint`: adapters are made for one."""
    name: str
    """Hub id or folder name, for messages and metadata."""
    denoiser: nn.Module
    """The UNet or transformer."""
    latent_channels: int
    latent_scale: int
    """Pixels per latent cell, along each side."""
    latent_scaling: float = 1.0
    """What the autoencoder's latents are multiplied by, where it is one number."""
    default_size: int
    """Side, in pixels, of the pictures that the model was trained on."""
    device: torch.device

    @property
    def size_multiple(self) -> int:
        """Sides of pictures are multiples of this many pixels."""
        return self.latent_scale

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> TensorBatch:
        """The conditioning of each prompt, without gradients. Costs a text encoder call: cache the result."""

    @abstractmethod
    def first_call(self, denoiser: nn.Module, x0: Tensor, conditioning: TensorBatch) -> Tensor:
        """What `denoiser` returns on unit noise at the first step: [B, C, h, w], in unit space.

        `denoiser` is this generator's own or a clone of it that carries a LoRA: this is the call that f_φ makes.
        """

    @abstractmethod
    def clean(self, x0: Tensor, prediction: Tensor) -> Tensor:
        """The clean latents [B, C, h, w] that `prediction`, what `first_call` returned for `x0`, stands for."""

    def read(self, x0: Tensor, conditioning: TensorBatch) -> Reading:
        """What the frozen denoiser makes of unit noise `x0` [B, C, h, w]: one call, differentiable in `x0`."""
        with inputs_of(self.denoiser.get_submodule(self.last_layer)) as received:
            prediction = self.first_call(self.denoiser, x0, conditioning)
        return Reading(self.clean(x0, prediction).float(), self.as_grid(received[-1], *x0.shape[-2:]))

    def as_grid(self, tokens: Tensor, height: int, width: int) -> Tensor | None:
        """What entered the last layer as a grid [B, F, h', w'] over latents of `height` x `width` cells. A family whose
        sequence holds more than picture tokens, or in another order, says so here."""
        grid = tokens_as_grid(tokens, height, width)
        return None if grid is None else grid.float()

    @cached_property
    def last_layer(self) -> str:
        """The name of the last Linear or Conv2d that the denoiser runs, found by running it once on a small input."""
        order: list[str] = []
        hooks = [
            module.register_forward_hook(lambda *_, name=name: order.append(name))
            for name, module in self.denoiser.named_modules()
            if is_target(module)
        ]
        try:
            side = 2 * self.size_multiple
            with torch.no_grad():
                self.first_call(self.denoiser, self.noise(1, side, side), self.encode([""]))
        finally:
            for hook in hooks:
                hook.remove()
        return order[-1]

    @abstractmethod
    def denoise(
        self, x0: Tensor, conditioning: TensorBatch, steps: int, seed: int, denoiser: nn.Module | None
    ) -> Tensor:
        """From unit noise [B, C, h, w] to clean latents [B, C, h, w]."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """From clean latents to pictures [B, 3, H, W] in [0, 1]."""

    @abstractmethod
    def checkpoint_gradients(self, enabled: bool = True) -> None:
        """Recompute activations in the backward pass of denoiser and decoder instead of keeping them."""

    def generate(
        self,
        x0: Tensor,
        conditioning: TensorBatch,
        steps: int = 1,
        seed: int = 0,
        denoiser: nn.Module | None = None,
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] from unit noise, differentiable in `x0` at any number of steps.

        `seed` draws the noise that some families add between steps; `denoiser` replaces the generator's own (a
        fine-tuned one).
        """
        if steps < 1:
            raise SettingError("{steps} is {}: give at least 1", steps)
        return self.decode(self.denoise(x0, conditioning, steps, seed, denoiser))

    def noise(self, batch: int, height: int | None = None, width: int | None = None, seed: int = 0) -> Tensor:
        """Unit Gaussian noise [batch, C, height / f, width / f], float32, equal on every machine for one seed.

        `height` and `width` are in pixels and default to `default_size`.
        """
        height, width = height or self.default_size, width or self.default_size
        if height < 1 or width < 1 or height % self.size_multiple or width % self.size_multiple:
            raise SettingError(
                "{width} x {height} is {}x{}: give multiples of {} pixels for {}",
                width,
                height,
                self.size_multiple,
                self.name,
            )
        shape = (batch, self.latent_channels, height // self.latent_scale, width // self.latent_scale)
        random = torch.Generator("cpu").manual_seed(seed)
        return torch.randn(shape, generator=random).to(self.device)
