"""How pictures are sampled while a hypernetwork is trained or a noise is searched for: as KSampler samples them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields

import comfy.model_sampling
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

AUTO = "auto"
"""The sampler that suits the model."""

DIFFERENTIABLE = ("euler", "ddim", "heun", "dpmpp_2m", "lcm")
"""Samplers whose code carries a gradient from the picture to the noise."""

NoiseSampler = Callable[[Tensor, Tensor], Tensor]
"""Draws the noise that is added between two sigmas."""


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """KSampler's settings. The defaults are those of workflows from before there was a choice."""

    sampler_name: str = "lcm"
    scheduler: str = "simple"
    cfg: float = 1.0
    negative_prompt: str = ""
    guidance: float = 0.0
    """What Flux Guidance would write into the positive prompt; 0 writes nothing."""

    def sampler(self, model: ModelPatcher) -> str:
        """The sampler's name for this MODEL."""
        if self.sampler_name != AUTO:
            return self.sampler_name
        flow = isinstance(model.get_model_object("model_sampling"), comfy.model_sampling.CONST)
        return "euler" if flow else "lcm"

    def check_differentiable(self, model: ModelPatcher, otherwise: str = "") -> None:
        """
        Raises:
            ValueError: this sampler's code loses the gradient.
        """
        if (name := self.sampler(model)) not in DIFFERENTIABLE:
            raise ValueError(
                f"sampler_name: {name} is not differentiable, which following the reward's gradient needs: choose one "
                f"of {', '.join(DIFFERENTIABLE)}{otherwise}"
            )

    def sigmas(self, model: ModelPatcher, steps: int) -> Tensor:
        """KSampler's sigmas, [steps + 1] or more.

        Raises:
            ValueError: the scheduler has none for so few steps.
        """
        try:
            sampler = self.sampler(model)
            sigmas = comfy.samplers.KSampler(model, steps, model.load_device, sampler, self.scheduler).sigmas
        except (ArithmeticError, IndexError) as error:
            raise self._no_schedule(steps, str(error)) from error
        if len(sigmas) < 2 or not sigmas.isfinite().all() or not sigmas[0] > 0:
            raise self._no_schedule(steps, f"its sigmas are {[round(float(sigma), 4) for sigma in sigmas]}")
        return sigmas

    def _no_schedule(self, steps: int, reason: str) -> ValueError:
        return ValueError(
            f"scheduler: {self.scheduler} has no schedule for {steps} step{'s' if steps > 1 else ''} on this model "
            f"({reason}): choose another scheduler, such as simple, or another number of denoiser_steps"
        )


def take_sampling(settings: dict) -> Sampling:
    """The sampling among a node's inputs, which lose it."""
    return Sampling(**{field.name: settings.pop(field.name) for field in fields(Sampling) if field.name in settings})


def adds_noise(name: str) -> bool:
    """Whether a sampler draws noise between its steps."""
    return "noise_sampler" in inspect.signature(comfy.samplers.sampler_object(name).sampler_function).parameters


class Run(comfy.samplers.CFGGuider):
    """One run of a sampler, in the place of the guider that a sampler node would make.

    Args:
        predict: the clean latents at (x [B, C, h, w], sigma []), with the options that the sampler gives.
    """

    def __init__(self, model: ModelPatcher, predict: Callable[[Tensor, Tensor, dict], Tensor]):
        super().__init__(model)
        self.inner_model, self.conds, self._predict = model.model, {}, predict

    def __call__(self, x: Tensor, sigma: Tensor, model_options: dict | None = None, seed: int | None = None) -> Tensor:
        return self._predict(x, sigma[0], model_options or {})

    def sample(self, name: str, noise: Tensor, sigmas: Tensor, seed: int, draw: NoiseSampler | None = None) -> Tensor:
        """From unit noise [B, C, h, w] to clean latents. `draw` takes the place of the sampler's own noise."""
        sampler = comfy.samplers.sampler_object(name)
        if torch.is_grad_enabled() and name in DIFFERENTIABLE:
            sampler.sampler_function = inspect.unwrap(sampler.sampler_function)  # they are under no_grad
        if draw is not None and adds_noise(name):
            sampler.extra_options = {**sampler.extra_options, "noise_sampler": draw}
        extra = {"model_options": {**self.model_options}, "seed": seed}
        return sampler.sample(self, sigmas, extra, None, noise, torch.zeros_like(noise), disable_pbar=True)
