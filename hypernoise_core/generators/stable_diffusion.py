"""SD-Turbo and SDXL-Turbo (Sauer et al. 2023, arXiv 2311.17042): a UNet that predicts noise, velocity or clean latents,
without guidance."""

import inspect
from collections.abc import Sequence
from functools import cached_property
from itertools import zip_longest
from typing import ClassVar

import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    TCDScheduler,
)
from torch import Tensor, nn

from ..batch import TensorBatch
from ..noise import First, streams
from .diffusers_generator import DiffusersGenerator

PREDICTIONS = ("epsilon", "v_prediction", "sample")
"""What a UNet may return: the noise, the velocity, or the clean latents themselves."""


TRAILING = {"timestep_spacing": "trailing", "clip_sample": False}
"""Timesteps from pure noise on, and latents that may leave [-1, 1]."""


class StableDiffusion(DiffusersGenerator):
    """A `StableDiffusionPipeline` that was distilled to a few steps without guidance."""

    family = "sd-turbo"
    pipeline_class = StableDiffusionPipeline
    denoiser_name = "unet"
    schedulers: ClassVar = {
        "euler": (EulerDiscreteScheduler, TRAILING),
        "lcm": (LCMScheduler, {}),
        "ddim-trailing": (DDIMScheduler, TRAILING),
        "tcd": (TCDScheduler, {}),
    }

    def __init__(self, pipeline: StableDiffusionPipeline, name: str, offload: bool = False):
        super().__init__(pipeline, name, offload)
        self._check_prediction()

    def _check_prediction(self) -> None:
        """Raise ValueError if it is not known, or not known to the scheduler, what the UNet returns."""
        scheduler = self.pipeline.scheduler
        told = scheduler.config.get("prediction_type")
        if told in PREDICTIONS and (told != "sample" or _takes_samples(scheduler)):
            return
        what = "which it does not support" if told in PREDICTIONS else "which is not known here"
        raise ValueError(
            f"{self.name} has the scheduler {type(scheduler).__name__} with prediction_type {told!r}, {what}: set what "
            f"the UNet was trained to predict in scheduler_config.json ({', '.join(PREDICTIONS)}), or take another "
            "scheduler"
        )

    def _encode(self, prompts: list[str]) -> TensorBatch:
        embeds, _ = self.pipeline.encode_prompt(prompts, self.device, 1, do_classifier_free_guidance=False)
        return TensorBatch({"embeds": embeds})

    def first_call(self, denoiser: nn.Module, x0: Tensor, conditioning: TensorBatch) -> Tensor:
        x, t = self._first_input(x0)
        return self.predict(denoiser, x, t, conditioning)

    def clean(self, x0: Tensor, prediction: Tensor) -> Tensor:
        x, t = self._first_input(x0)  # variance-preserving whatever the scheduler: x = √ᾱ x̂ + √(1 - ᾱ) z
        kept = self.pipeline.scheduler.alphas_cumprod[int(t)].to(x)
        return self._clean(x, prediction, kept.sqrt(), (1 - kept).sqrt())

    def _clean(self, x: Tensor, prediction: Tensor, share: Tensor, amount: Tensor) -> Tensor:
        """x̂, from what the UNet saw, x = share · x̂ + amount · z, and what it returned."""
        told = self.pipeline.scheduler.config.prediction_type
        if told == "sample":
            return prediction
        if told == "v_prediction":
            return share * x - amount * prediction
        assert told == "epsilon"
        return (x - amount * prediction) / share

    def _first_input(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """What the UNet sees of unit noise, and the timestep."""
        scheduler = self._scheduler(1, x0.device)
        t = scheduler.timesteps[0]
        return scheduler.scale_model_input(x0 * scheduler.init_noise_sigma, t), t

    @cached_property
    def adds_noise(self) -> bool:
        """Told by a step from nothing to nothing."""
        scheduler, nothing = self._scheduler(2, torch.device("cpu")), torch.zeros(1, 1, 8, 8)
        t = scheduler.timesteps[0]
        x = scheduler.scale_model_input(nothing, t)
        return bool(scheduler.step(nothing, t, x, **_options(scheduler, 0, 1), return_dict=False)[0].any())

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
        scheduler = self._scheduler(steps, x0.device)
        if kept.changes and scheduler.order > 1:
            raise ValueError(f"between and first need a scheduler of one call a step; {self.name} has another")
        options = _options(scheduler, seed, len(x0))
        x = x0 * scheduler.init_noise_sigma
        for t, after in zip_longest(scheduler.timesteps, scheduler.timesteps[1:]):
            seen = scheduler.scale_model_input(x, t)
            before = _levels(scheduler, t) if kept.changes else None
            prediction = kept.call(self.predict, denoiser or self.denoiser, seen, t, conditioning)
            x = scheduler.step(prediction, t, x, **options, return_dict=False)[0]
            if after is None or before is None:
                continue
            share, amount = _levels(scheduler, after)
            x = kept.moved(x, amount)
            if kept.between is not None:
                norm = (before[0] ** 2 + before[1] ** 2).sqrt()
                clean = self._clean(seen, prediction, before[0] / norm, before[1] / norm)
                x = share * clean + amount * kept.between
        return x

    def predict(self, denoiser: nn.Module, x: Tensor, t: Tensor, conditioning: TensorBatch) -> Tensor:
        """The raw prediction, in float32, for a scaled `x` [B, C, h, w] at the scheduler's timestep `t`, [] or [B]."""
        dtype = self.denoiser.dtype
        return denoiser(
            x.to(dtype),
            t,
            encoder_hidden_states=conditioning["embeds"].to(dtype),
            **self._more_inputs(x, conditioning),
            return_dict=False,
        )[0].float()

    def _more_inputs(self, x: Tensor, conditioning: TensorBatch) -> dict:
        """What the UNet takes besides text and time."""
        return {}

    def _scheduler(self, steps: int, device: torch.device) -> SchedulerMixin:
        """A scheduler like the pipeline's, with its own state. Its first timestep is the same for any number of
        steps."""
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
        """Pooled text, and the size of an image that was neither cropped nor resized."""
        size = [side * self.latent_scale for side in x.shape[-2:]]
        time_ids = torch.tensor([*size, 0, 0, *size], dtype=self.denoiser.dtype, device=x.device)
        pooled = conditioning["pooled"].to(self.denoiser.dtype)
        return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": time_ids.expand(len(x), -1)}}


def _takes_samples(scheduler: SchedulerMixin) -> bool:
    """Whether a scheduler can step where the UNet predicts clean latents, which some of diffusers' cannot."""
    trial = type(scheduler).from_config(scheduler.config)
    trial.set_timesteps(2)
    nothing = torch.zeros(1, 1, 8, 8)
    try:
        trial.step(nothing, trial.timesteps[0], trial.scale_model_input(nothing, trial.timesteps[0]))
    except (NotImplementedError, ValueError):
        return False
    return True


def _options(scheduler: SchedulerMixin, seed: int | Sequence[int], batch: int) -> dict:
    """What a step takes beside prediction, time and latents."""
    takes = inspect.signature(scheduler.step).parameters
    return {"generator": streams(seed, batch)} if "generator" in takes else {}


def _levels(scheduler: SchedulerMixin, t: Tensor) -> tuple[Tensor, Tensor]:
    """(share, amount): the scheduler's latents are share · x̂ + amount · z at its present step, of timestep `t`."""
    if scheduler.init_noise_sigma != 1:  # it counts in σ
        return torch.ones(()), scheduler.sigmas[scheduler.step_index]
    kept = scheduler.alphas_cumprod[int(t)]
    return kept.sqrt(), (1 - kept).sqrt()
