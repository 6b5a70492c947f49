"""Z-Image (Alibaba Tongyi 2025, arXiv 2511.22699): a rectified-flow transformer on one sequence of picture and text."""

import torch
from diffusers import ZImagePipeline
from torch import Tensor, nn

from ..batch import TensorBatch
from .rectified_flow import RectifiedFlow
from .texts import masked, padded

MAX_TOKENS = 512
"""Tokens per prompt: `ZImagePipeline`'s default."""


class ZImage(RectifiedFlow):
    """A `ZImagePipeline` that was distilled to a few steps without guidance. Its transformer counts time from noise to
    picture, returns the velocity with the other sign, and takes pictures and texts as lists."""

    family = "z-image"
    pipeline_class = ZImagePipeline
    max_tokens = MAX_TOKENS

    def _encode(self, prompts: list[str]) -> TensorBatch:
        texts, _ = self.pipeline.encode_prompt(
            prompts, self.device, do_classifier_free_guidance=False, max_sequence_length=self.text_length
        )
        return padded(texts)

    def _velocity(self, denoiser: nn.Module, x: Tensor, s: float, conditioning: TensorBatch) -> Tensor:
        dtype = self.denoiser.dtype
        pictures = denoiser(
            list(x.to(dtype).unsqueeze(2)),  # [C, 1, h, w] each: one frame
            torch.full((len(x),), 1 - s, device=x.device),
            masked(conditioning["embeds"].to(dtype), conditioning["mask"]),
            return_dict=False,
        )[0]
        return -torch.stack(pictures).squeeze(2).float()

    def as_grid(self, tokens: Tensor, height: int, width: int) -> Tensor | None:
        """The picture's tokens come first; padding and text follow."""
        return super().as_grid(tokens[:, : height * width // self.patch**2], height, width)
