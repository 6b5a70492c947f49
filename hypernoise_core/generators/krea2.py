"""Krea 2 (Krea 2026): a rectified-flow transformer on one sequence of text and picture, with twelve layers of a
vision-language model for text."""

import torch
from diffusers import Krea2Pipeline
from torch import Tensor, nn

from ..batch import TensorBatch
from .latents import pack, positions, unpack
from .texts import masked, padded
from .video_autoencoder import VideoAutoencoder

MAX_TOKENS = 512
"""Tokens per prompt: `Krea2Pipeline`'s default."""

DISTILLED_SHIFT = 1.15
"""μ of the distilled checkpoint at every size, as in `Krea2Pipeline`."""


class Krea2(VideoAutoencoder):
    """A `Krea2Pipeline` that was distilled to a few steps without guidance."""

    family = "krea2"
    pipeline_class = Krea2Pipeline
    max_tokens = MAX_TOKENS

    def __init__(self, pipeline: Krea2Pipeline, name: str, offload: bool = False):
        self.patch = pipeline.config.patch_size
        super().__init__(pipeline, name, offload)

    def _encode(self, prompts: list[str]) -> TensorBatch:
        """Without the padding in the middle of each prompt: masked tokens, and all text is at one position."""
        return padded(masked(*self.pipeline.encode_prompt(prompts, self.device, max_sequence_length=self.text_length)))

    def _velocity(self, denoiser: nn.Module, x: Tensor, s: float, conditioning: TensorBatch) -> Tensor:
        dtype, embeds = self.denoiser.dtype, conditioning["embeds"]
        grid = positions(x.shape[-2] // self.patch, x.shape[-1] // self.patch).to(x.device)
        tokens = denoiser(
            hidden_states=pack(x, self.patch).to(dtype),
            encoder_hidden_states=embeds.to(dtype),
            timestep=self._times(x, s),
            position_ids=torch.cat([grid.new_zeros(embeds.shape[1], 3), grid]),
            encoder_attention_mask=conditioning["mask"].bool(),
            return_dict=False,
        )[0]
        return unpack(tokens.float(), x.shape, self.patch)

    def _shift(self, steps: int, tokens: int) -> float:
        return DISTILLED_SHIFT if self.pipeline.config.is_distilled else super()._shift(steps, tokens)
