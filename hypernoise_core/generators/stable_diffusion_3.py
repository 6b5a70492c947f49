"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv 2403.03206): a rectified-flow transformer of two streams."""

import torch
from diffusers import StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..batch import TensorBatch
from .rectified_flow import RectifiedFlow

MAX_TOKENS = 256
"""Tokens per prompt for T5: `StableDiffusion3Pipeline`'s default."""


class StableDiffusion3(RectifiedFlow):
    """A `StableDiffusion3Pipeline` that was distilled to a few steps without guidance, such as SD3.5-Large-Turbo."""

    family = "sd3"
    pipeline_class = StableDiffusion3Pipeline
    max_tokens = MAX_TOKENS

    def __init__(self, pipeline: StableDiffusion3Pipeline, name: str, offload: bool = False):
        self.patch = pipeline.patch_size
        super().__init__(pipeline, name, offload)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self.pipeline.tokenizer_3 or self.pipeline.tokenizer  # CLIP's alone where T5 is left out

    def _encode(self, prompts: list[str]) -> TensorBatch:
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompts,
            prompt_2=None,
            prompt_3=None,
            device=self.device,
            do_classifier_free_guidance=False,
            max_sequence_length=self.text_length,
        )
        return TensorBatch({"embeds": embeds, "pooled": pooled})

    def _velocity(self, denoiser: nn.Module, x: Tensor, s: float, conditioning: TensorBatch) -> Tensor:
        dtype = self.denoiser.dtype
        return denoiser(
            hidden_states=x.to(dtype),
            timestep=torch.full((len(x),), 1000 * s, device=x.device),
            encoder_hidden_states=conditioning["embeds"].to(dtype),
            pooled_projections=conditioning["pooled"].to(dtype),
            return_dict=False,
        )[0].float()

    def _levels(self, steps: int) -> dict:
        """The scheduler's own: they end where it ends, not at 1 / steps."""
        return {"num_inference_steps": steps}
