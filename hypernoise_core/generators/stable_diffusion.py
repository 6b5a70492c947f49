"""SD-Turbo and SDXL-Turbo (Sauer et al. 2023, arXiv 2311.17042): a UNet that predicts the noise, without guidance."""

import inspect

import torch
from diffusers import SchedulerMixin, StableDiffusionPipeline, StableDiffusionXLPipeline
from torch import Tensor, nn

from ..batch import TensorBatch
from .diffusers_generator import DiffusersGenerator


class StableDiffusion(DiffusersGenerator):
    """A `StableDiffusionPipeline` that was distilled to a few steps without guidance."""

    family = "sd-turbo"
    pipeline_class = StableDiffusionPipeline
    denoiser_name = "unet"

    def _encode(self, prompts: list[str]) -> TensorBatch:
        embeds, _ = self.pipeline.encode_prompt(prompts, self.device, 1, do_classifier_free_guidance=False)
        return TensorBatch({"embeds": embeds})

    def first_call(self, denoiser: nn.Module, x0: Tensor, conditioning: TensorBatch) -> Tensor:
        x, t = self._first_input(x0)
        return self._call(denoiser, x, t, conditioning)

    def clean(self, x0: Tensor, prediction: Tensor) -> Tensor:
        x, t = self._first_input(x0)  # variance-preserving whatever the scheduler: x = √ᾱ x̂ + √(1 - ᾱ) z
        scheduler = self.pipeline.scheduler
        kept = scheduler.alphas_cumprod[int(t)].to(x)
        if scheduler.config.prediction_type == "v_prediction":
            return kept.sqrt() * x - (1 - kept).sqrt() * prediction
        return (x - (1 - kept).sqrt() * prediction) / kept.sqrt()

    def _first_input(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """What the UNet sees of unit noise, and the timestep."""
        scheduler = self._scheduler(1, x0.device)
        t = scheduler.timesteps[0]
        return scheduler.scale_model_input(x0 * scheduler.init_noise_sigma, t), t

    def denoise(
        self, x0: Tensor, conditioning: TensorBatch, steps: int, seed: int, denoiser: nn.Module | None = None
    ) -> Tensor:
        scheduler = self._scheduler(steps, x0.device)
        options = {}
        if "generator" in inspect.signature(scheduler.step).parameters:
            options["generator"] = torch.Generator("cpu").manual_seed(seed)
        x = x0 * scheduler.init_noise_sigma
        for t in scheduler.timesteps:
            noise = self._call(denoiser or self.denoiser, scheduler.scale_model_input(x, t), t, conditioning)
            x = scheduler.step(noise, t, x, **options, return_dict=False)[0]
        return x

    def _call(self, denoiser: nn.Module, x: Tensor, t: Tensor, conditioning: TensorBatch) -> Tensor:
        """The raw prediction, in float32, for a scaled `x` at the scheduler's timestep `t`."""
        dtype = self.denoiser.dtype
        return denoiser(
            x.to(dtype),
            t,
            encoder_hidden_states=conditioning["embeds"].to(dtype),
            **self._more_inputs(x, conditioning),
            return_dict=False,
        )[0].float()

    def _more_inputs(self, x: Tensor, conditioning: TensorBatch) -> dict:
        """What the UNet takes beside text and time."""
        return {}

    def _scheduler(self, steps: int, device: torch.device) -> SchedulerMixin:
        """The pipeline's, with a state of its own. Its first timestep is the same for any number of steps."""
        scheduler = type(self.pipeline.scheduler).from_config(self.pipeline.scheduler.config)
        scheduler.set_timesteps(steps, device=device)
        return scheduler


class StableDiffusionXL(StableDiffusion):
    """A `StableDiffusionXLPipeline` that was distilled to a few steps without guidance, such as SDXL-Turbo."""

    family = "sdxl-turbo"
    pipeline_class = StableDiffusionXLPipeline

    def __init__(self, pipeline: StableDiffusionXLPipeline, name: str, offload: bool = False):
        super().__init__(pipeline, name, offload)
        if self.autoencoder.dtype == torch.float16 and self.autoencoder.config.force_upcast:
            self.autoencoder.float()  # it overflows in float16

    def _encode(self, prompts: list[str]) -> TensorBatch:
        embeds, _, pooled, _ = self.pipeline.encode_prompt(
            prompts, device=self.device, do_classifier_free_guidance=False
        )
        return TensorBatch({"embeds": embeds, "pooled": pooled})

    def _more_inputs(self, x: Tensor, conditioning: TensorBatch) -> dict:
        """Pooled text, and the picture as one that was neither cropped nor resized."""
        size = [side * self.latent_scale for side in x.shape[-2:]]
        time_ids = torch.tensor([*size, 0, 0, *size], dtype=self.denoiser.dtype, device=x.device)
        pooled = conditioning["pooled"].to(self.denoiser.dtype)
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": time_ids.expand(len(x), -1)}}
