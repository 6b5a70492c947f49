"""FLUX.1-schnell (Black Forest Labs 2024): a rectified-flow transformer on packed latents."""

import torch
from diffusers import FluxPipeline
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..batch import TensorBatch
from .latents import pack, positions, unpack
from .rectified_flow import RectifiedFlow

MAX_TOKENS = 256
"""Tokens per prompt for T5, as schnell was distilled, padding included, which the transformer sees. The reference
implementation uses 512."""

GUIDANCE_SCALE = 3.5
"""`FluxPipeline`'s default, for transformers that take guidance as an input. schnell does not."""


class Flux(RectifiedFlow):
    """A `FluxPipeline`. As in every family, x0 is unpacked; the transformer sees 2x2 latent cells as one token."""

    family = "flux"
    pipeline_class = FluxPipeline
    max_tokens = MAX_TOKENS

    def __init__(self, pipeline: FluxPipeline, name: str, offload: bool = False):
        super().__init__(pipeline, name, offload)
        self.latent_channels = self.denoiser.config.in_channels // 4

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.pipeline.tokenizer_2  # T5's; CLIP's text becomes one vector

    def _encode(self, prompts: list[str]) -> TensorBatch:
        embeds, pooled, _ = self.pipeline.encode_prompt(
            prompts, None, device=self.device, max_sequence_length=self.text_length
        )
        return TensorBatch({"embeds": embeds, "pooled": pooled})

    def _velocity(self, denoiser: nn.Module, x: Tensor, s: float, conditioning: TensorBatch) -> Tensor:
        dtype = self.denoiser.dtype
        embeds = conditioning["embeds"].to(dtype)
        with_guidance = self.denoiser.config.guidance_embeds
        tokens = denoiser(
            hidden_states=pack(x).to(dtype),
            timestep=self._times(x, s),
            guidance=torch.full((len(x),), GUIDANCE_SCALE, device=x.device) if with_guidance else None,
            pooled_projections=conditioning["pooled"].to(dtype),
            encoder_hidden_states=embeds,
            txt_ids=torch.zeros(embeds.shape[1], 3, dtype=dtype, device=x.device),
            img_ids=positions(x.shape[-2] // 2, x.shape[-1] // 2).to(x.device, dtype),
            return_dict=False,
        )[0]
        return unpack(tokens.float(), x.shape)
