"""The protocol of a generator: the frozen few-step model g_θ behind a handful of methods."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ..batch import TensorBatch
from ..layers import is_target
from ..noise import BetweenSteps, First, KeptNoise
from ..reading import Reading, inputs_of, tokens_as_grid
from ..settings import SettingError

MOST_PIXELS = 2**18
"""Of pictures that are decoded, or decoded and scored, at a time: decoders take more memory than anything else."""


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
    autoencoder: Any
    """Its decoder makes the pictures."""
    latent_channels: int
    latent_scale: int
    """Pixels per latent cell, along each side."""
    latent_scaling: float = 1.0
    """What the autoencoder's latents are multiplied by, where it is one number."""
    default_size: int
    """Side, in pixels, of the pictures that the model was trained on."""
    device: torch.device
    quantized: str = ""
    """How its denoiser's weights are packed, such as `int8`; empty where they are not."""
    lora: str | None = None
    """The LoRA in its weights: `name=scale hash`; empty for none, None where that is not known."""

    text_length: int | None = None
    """Tokens that a prompt is cut to, and that it is filled up to where the denoiser sees the padding; None where that
    is not known, or always the same."""

    @property
    def size_multiple(self) -> int:
        """Sides of pictures are multiples of this many pixels."""
        return self.latent_scale

    @property
    def trial_size(self) -> int:
        """Side, in pixels, of the small picture that the denoiser is tried on to learn about its layers."""
        return 2 * self.size_multiple

    @property
    def adds_noise(self) -> bool:
        """Whether its sampler adds noise between steps. Without it, it keeps its starting noise."""
        return False

    @abstractmethod
    def encode(self, prompts: Sequence[str]) -> TensorBatch:
        """The conditioning of each prompt, without gradients. Costs a text encoder call: cache the result."""

    def encoding(self) -> AbstractContextManager[None]:
        """For several calls of `encode`: what makes room for the text encoders comes back at the end of the block."""
        return nullcontext()

    @cached_property
    def empty(self) -> TensorBatch:
        """The conditioning of the empty prompt, for calls that are made to learn about the denoiser."""
        return self.encode([""])

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
        return self._read(self.denoiser, x0, lambda: self.first_call(self.denoiser, x0, conditioning))[1]

    def _read(self, denoiser: nn.Module, x0: Tensor, call: Callable[[], Tensor]) -> tuple[Tensor, Reading]:
        """What `call`, a call of `denoiser` on x0, returns, and the reading of it."""
        with inputs_of(denoiser.get_submodule(self.last_layer)) as received:
            prediction = call()
        return prediction, Reading(self.clean(x0, prediction).float(), self.as_grid(received[-1], *x0.shape[-2:]))

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
            side = self.trial_size
            with torch.no_grad():
                self.first_call(self.denoiser, self.noise(1, side, side), self.empty)
        finally:
            for hook in hooks:
                hook.remove()
        return order[-1]

    @abstractmethod
    def denoise(
        self,
        x0: Tensor,
        conditioning: TensorBatch,
        steps: int,
        seed: int | Sequence[int],
        denoiser: nn.Module | None = None,
        between: Tensor | None = None,
        first: First | None = None,
    ) -> Tensor:
        """From unit noise [B, C, h, w] to clean latents [B, C, h, w]; arguments and errors as of `generate`."""

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
        seed: int | Sequence[int] = 0,
        denoiser: nn.Module | None = None,
        between: Tensor | None = None,
        first: First | None = None,
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] from unit noise, differentiable in `x0` at any number of steps.

        Args:
            seed: draws the noise that some families add between steps, independent of `noise(seed)`: one for the whole
                batch, as the pipelines take it, or one of each picture, so that a batch equals its pictures one by one.
            denoiser: in place of the generator's own, such as a fine-tuned one.
            between: unit noise [B, C, h, w] that is added between steps in place of a fresh draw: the clean prediction
                gets as much of it as the scheduler has noise at the next step.
            first: moves the noise that is kept, without a call of its own: the first of two or more steps is a reading
                of x0, and what `first` returns for it, [B, C, h, w], is added to that noise from then on.

        Raises:
            ValueError: as of `check_steps`; `between` where no noise is added; `first` with a single step, or where
                fresh noise is added between steps.
        """
        self.check_steps(steps)
        return self.decode(self.denoise(x0, conditioning, steps, seed, denoiser, between, first))

    def parts(self, latents: Tensor) -> list[slice]:
        """Rows of `latents` [B, C, h, w] that are decoded, or decoded and scored, at a time."""
        size = max(1, MOST_PIXELS // (latents.shape[-2] * latents.shape[-1] * self.latent_scale**2))
        return [slice(first, first + size) for first in range(0, len(latents), size)]

    def check_steps(self, steps: int) -> None:
        """Raises ValueError for fewer than 1, and where the sampler has no schedule of so many."""
        if steps < 1:
            raise SettingError("{steps} is {}: give at least 1", steps)

    def check_between_steps(self, between_steps: BetweenSteps) -> None:
        """Raises ValueError where there is no choice but `fresh`."""
        if between_steps != "fresh" and not self.adds_noise:
            raise SettingError(
                "{between_steps} is {}, and the sampler of {} adds no noise between steps, so it keeps the "
                "starting noise in any case: leave it at fresh",
                between_steps,
                self.name,
            )

    def _kept(
        self, x0: Tensor, denoiser: nn.Module | None, steps: int, between: Tensor | None, first: First | None
    ) -> KeptNoise:
        """What a run of the sampler keeps; errors as of `generate`."""
        if between is not None and not self.adds_noise:
            raise ValueError(f"between is given, and {self.name} adds no noise between steps: leave it out")
        if between is not None and between.shape != x0.shape:
            raise ValueError(f"between has shape {list(between.shape)}; it must be that of x0, {list(x0.shape)}")
        if first is not None and steps < 2:
            raise ValueError(f"first is given and steps is {steps}: a reading is free only where another step follows")
        if first is not None and between is None and self.adds_noise:
            raise ValueError(
                f"first moves the noise that is kept, and {self.name} adds fresh noise between steps: give between as "
                "well, such as x0"
            )
        return KeptNoise(lambda call: self._read(denoiser or self.denoiser, x0, call), between, first)

    def noise(self, batch: int, height: int | None = None, width: int | None = None, seed: int = 0) -> Tensor:
        """Unit Gaussian noise [batch, C, height / f, width / f], float32, equal on every machine for one seed, and what
        ComfyUI draws for it.

        `height` and `width` are in pixels and default to `default_size`. torch's CPU generator reads the low 32 bits of
        a seed only, here as in ComfyUI: seeds that are equal in them draw equal noise.
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
