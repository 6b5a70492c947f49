"""SANA-Sprint (Chen et al. 2025, arXiv 2503.09641): TrigFlow with a linear-attention transformer and a DC-AE."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers import SanaSprintPipeline, SCMScheduler
from torch import Tensor, nn

from ..batch import TensorBatch
from ..noise import First, streams
from .diffusers_generator import DiffusersGenerator

GUIDANCE_SCALE = 4.5
"""`SanaSprintPipeline`'s default. Sprint was distilled with guidance as an input, so guidance needs no second call."""

MAX_TOKENS = 300
"""Tokens per prompt. `SanaSprintPipeline`'s default."""

MAX_TIMESTEP = 1.57080
"""The angle where sampling starts, in radians: pure noise. As in `SanaSprintPipeline`."""

SECOND_TIMESTEP = 1.3
"""The second of two steps. Other step counts are spaced evenly. As in `SanaSprintPipeline`."""


class SanaSprint(DiffusersGenerator):
    """A `SanaSprintPipeline`. Prompts are encoded without SANA's complex human instruction, as the paper's authors do
    in training and inference. The instruction changes the images of the full-size model."""

    family = "sana-sprint"
    pipeline_class = SanaSprintPipeline
    max_tokens = MAX_TOKENS

    def _encode(self, prompts: list[str]) -> TensorBatch:
        cleaned = self.pipeline._text_preprocessing(prompts)  # other letters may be more tokens
        longest = max(map(len, self.tokenizer(cleaned)["input_ids"]))
        embeds, mask = self.pipeline.encode_prompt(
            prompts,
            complex_human_instruction=None,
            device=self.text_encoders[0].device,
            max_sequence_length=min(longest, self.text_length or MAX_TOKENS),
        )  # padding to the pipeline's 300 tokens would change no image and cost most of the time
        return TensorBatch({"embeds": embeds, "mask": mask})

    def first_call(self, denoiser: nn.Module, x0: Tensor, conditioning: TensorBatch) -> Tensor:
        return self.predict(denoiser, x0, torch.ones(len(x0), device=x0.device), conditioning)

    def clean(self, x0: Tensor, prediction: Tensor) -> Tensor:
        return x0 - prediction

    def predict(self, denoiser: nn.Module, x: Tensor, s: Tensor, conditioning: TensorBatch) -> Tensor:
        """The raw prediction at x = s z + (1 - s) x̂, in float32; `s` [B] in [0, 1]."""
        dtype = self.denoiser.dtype
        guidance = torch.full_like(s, GUIDANCE_SCALE) * self.denoiser.config.guidance_embeds_scale
        return denoiser(
            x.to(dtype),
            encoder_hidden_states=conditioning["embeds"].to(dtype),
            encoder_attention_mask=conditioning["mask"],
            guidance=guidance.to(dtype),
            timestep=s,
            return_dict=False,
        )[0].float()

    @property
    def adds_noise(self) -> bool:
        return True

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
        scheduler = SCMScheduler.from_config(self.pipeline.scheduler.config)
        scheduler.set_timesteps(
            steps,
            device=x0.device,
            max_timesteps=MAX_TIMESTEP,
            intermediate_timesteps=SECOND_TIMESTEP if steps == 2 else None,
        )
        scheduler.set_begin_index(0)
        sigma_data = scheduler.config.sigma_data
        random = streams(seed, len(x0))
        x = x0 * sigma_data
        for t, after in pairwise(scheduler.timesteps):
            s = t.sin() / (t.cos() + t.sin())
            norm = (s**2 + (1 - s) ** 2).sqrt()
            flow_input = x / sigma_data * norm
            v = kept.call(self.predict, denoiser or self.denoiser, flow_input, s.expand(len(x)), conditioning)
            trigflow = ((1 - 2 * s) * flow_input + (1 - 2 * s + 2 * s**2) * v) / norm * sigma_data
            x, clean = scheduler.step(trigflow, t, x, generator=random, return_dict=False)
            if kept.between is not None:
                x = after.cos() * clean + after.sin() * kept.between * sigma_data
        return clean / sigma_data
