"""FLUX.1-schnell (Black Forest Labs 2024): a rectified-flow transformer on packed latents."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn

from ..batch import TensorBatch
from ..noise import First, streams
from .diffusers_generator import DiffusersGenerator

MAX_TOKENS = 256
"""Tokens per prompt for T5, as schnell was distilled."""

GUIDANCE_SCALE = 3.5
"""`FluxPipeline`'s default, for transformers that take guidance as an input. schnell does not."""


class Flux(DiffusersGenerator):
    """A `FluxPipeline`. As in every family, x0 is unpacked; the transformer sees 2x2 latent cells as one token."""

    family = "flux"
    pipeline_class = FluxPipeline

    def __init__(self, pipeline: FluxPipeline, name: str, offload: bool = False):
        super().__init__(pipeline, name, offload)
        self.latent_channels = self.denoiser.config.in_channels // 4

    @property
    def size_multiple(self) -> int:
        return 2 * self.latent_scale

    @property
    def adds_noise(self) -> bool:
        return bool(self.pipeline.scheduler.config.get("stochastic_sampling"))

    def _encode(self, prompts: list[str]) -> TensorBatch:
        tokens = min(MAX_TOKENS, self.pipeline.tokenizer_2.model_max_length)
        embeds, pooled, _ = self.pipeline.encode_prompt(prompts, None, device=self.device, max_sequence_length=tokens)
        return TensorBatch({"embeds": embeds, "pooled": pooled})

    def first_call(self, denoiser: nn.Module, x0: Tensor, conditioning: TensorBatch) -> Tensor:
        return self._call(denoiser, x0, 1.0, conditioning)

    def clean(self, x0: Tensor, prediction: Tensor) -> Tensor:
        return x0 - prediction

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
        kept = self._kept(x0, denoiser, steps, between, first)
        scheduler = self._scheduler(steps, tokens=x0[0, 0].numel() // 4, device=x0.device)
        x, random = x0, streams(seed, len(x0))
        for t, (s, after) in zip(scheduler.timesteps, pairwise(scheduler.sigmas), strict=True):
            v = kept.call(self._call, denoiser or self.denoiser, x, float(t) / 1000, conditioning)
            clean = x - s * v
            x = kept.moved(scheduler.step(v, t, x, generator=random, return_dict=False)[0], after)
            if kept.between is not None:
                x = (1 - after) * clean + after * kept.between
        return x

    def _call(self, denoiser: nn.Module, x: Tensor, s: float, conditioning: TensorBatch) -> Tensor:
        """The velocity at x = s z + (1 - s) x̂ [B, C, h, w], in float32."""
        dtype, batch = self.denoiser.dtype, len(x)
        embeds = conditioning["embeds"].to(dtype)
        with_guidance = self.denoiser.config.guidance_embeds
        tokens = denoiser(
            hidden_states=pack(x).to(dtype),
            timestep=torch.full((batch,), s, dtype=dtype, device=x.device),
            guidance=torch.full((batch,), GUIDANCE_SCALE, device=x.device) if with_guidance else None,
            pooled_projections=conditioning["pooled"].to(dtype),
            encoder_hidden_states=embeds,
            txt_ids=torch.zeros(embeds.shape[1], 3, dtype=dtype, device=x.device),
            img_ids=_positions(x.shape[-2] // 2, x.shape[-1] // 2).to(x.device, dtype),
            return_dict=False,
        )[0]
        return unpack(tokens.float(), x.shape)

    def _scheduler(self, steps: int, tokens: int, device: torch.device) -> FlowMatchEulerDiscreteScheduler:
        config = self.pipeline.scheduler.config
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
        shift = calculate_shift(
            tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )
        scheduler.set_timesteps(device=device, sigmas=np.linspace(1.0, 1 / steps, steps), mu=shift)
        scheduler.set_begin_index(0)
        return scheduler


def pack(x: Tensor) -> Tensor:
    """Latents [B, C, h, w] as tokens of 2x2 cells [B, h w / 4, 4 C]."""
    batch, channels, height, width = x.shape
    cells = x.view(batch, channels, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(batch, height * width // 4, 4 * channels)


def unpack(x: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of `pack`, to `shape`."""
    batch, channels, height, width = shape
    cells = x.view(batch, height // 2, width // 2, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return cells.reshape(shape)


def _positions(height: int, width: int) -> Tensor:
    """(0, row, column) of each token [height · width, 3]."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([torch.zeros_like(rows), rows, columns], -1).view(-1, 3)
