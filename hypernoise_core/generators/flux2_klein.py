"""FLUX.2 klein (Black Forest Labs 2026): a rectified-flow transformer on latents of 128 channels at a sixteenth of the
picture, whose mean and deviation stand in the autoencoder's batch norm."""

import torch
from diffusers import Flux2KleinPipeline
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor, nn

from ..batch import TensorBatch
from .diffusers_generator import as_pictures
from .latents import denormalize, normalize, pack, patchify, positions, unpack, unpatchify
from .rectified_flow import RectifiedFlow

MAX_TOKENS = 512
"""Tokens per prompt, padding included, which the transformer sees: `Flux2KleinPipeline`'s default."""


class Flux2Klein(RectifiedFlow):
    """A `Flux2KleinPipeline` that was distilled to a few steps without guidance."""

    family = "flux2-klein"
    pipeline_class = Flux2KleinPipeline
    max_tokens = MAX_TOKENS
    patch = 1

    def __init__(self, pipeline: Flux2KleinPipeline, name: str, offload: bool = False):
        super().__init__(pipeline, name, offload)
        self.latent_scale = 2 * pipeline.vae_scale_factor

    def _encode(self, prompts: list[str]) -> TensorBatch:
        embeds, _ = self.pipeline.encode_prompt(prompts, self.device, max_sequence_length=self.text_length)
        return TensorBatch({"embeds": embeds})

    def _velocity(self, denoiser: nn.Module, x: Tensor, s: float, conditioning: TensorBatch) -> Tensor:
        dtype = self.denoiser.dtype
        embeds = conditioning["embeds"].to(dtype)
        words = torch.arange(embeds.shape[1], device=x.device)
        tokens = denoiser(
            hidden_states=pack(x, 1).to(dtype),
            timestep=self._times(x, s),
            encoder_hidden_states=embeds,
            txt_ids=torch.stack([torch.zeros_like(words)] * 3 + [words], 1),
            img_ids=positions(x.shape[-2], x.shape[-1], axes=4).to(x.device),
            return_dict=False,
        )[0]
        return unpack(tokens.float(), x.shape, 1)

    def _shift(self, steps: int, tokens: int) -> float:
        return compute_empirical_mu(image_seq_len=tokens, num_steps=steps)

    def _decode(self, latents: Tensor) -> Tensor:
        latents = unpatchify(denormalize(latents, *self._statistics()))
        return as_pictures(self.autoencoder.decode(latents.to(self.autoencoder.dtype), return_dict=False)[0])

    def encode_pictures(self, pictures: Tensor) -> Tensor:
        return normalize(patchify(self._encoded(pictures)), *self._statistics())

    def _statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and deviation of each channel."""
        statistics = self.autoencoder.bn
        return statistics.running_mean, (statistics.running_var + self.autoencoder.config.batch_norm_eps).sqrt()
