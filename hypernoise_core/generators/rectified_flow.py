"""Rectified flow (Liu et al. 2022, arXiv 2209.03003): what the families have in common whose denoiser predicts the
velocity z - x̂ at x = s z + (1 - s) x̂."""

from abc import abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux.pipeline_flux import calculate_shift
from torch import Tensor, nn

from ..batch import TensorBatch
from ..noise import First, streams
from ..settings import SettingError
from .diffusers_generator import DiffusersGenerator

USUAL_STEPS = 4
"""What a few-step model is sampled with where nobody says it; some schedules depend on it."""


class RectifiedFlow(DiffusersGenerator):
    """A pipeline with a flow-matching scheduler. A family adds `_velocity`, and `_shift` where its schedule depends on
    something else than the size of the picture."""

    patch = 2
    """Latent cells along each side that the transformer sees as one token."""
    schedulers: ClassVar = {
        "euler": (FlowMatchEulerDiscreteScheduler, {"shift_terminal": None, "stochastic_sampling": False}),
        "lcm": (FlowMatchEulerDiscreteScheduler, {"shift_terminal": None, "stochastic_sampling": True}),
    }

    @property
    def size_multiple(self) -> int:
        return self.patch * self.latent_scale

    @property
    def adds_noise(self) -> bool:
        return bool(self.pipeline.scheduler.config.get("stochastic_sampling"))

    @abstractmethod
    def _velocity(self, denoiser: nn.Module, x: Tensor, s: float, conditioning: TensorBatch) -> Tensor:
        """What `denoiser` predicts at x = s z + (1 - s) x̂ [B, C, h, w], in the same shape and in float32."""

    def check_steps(self, steps: int) -> None:
        super().check_steps(steps)
        self._scheduler(steps, self._usual_tokens, "cpu")

    def first_call(self, denoiser: nn.Module, x0: Tensor, conditioning: TensorBatch) -> Tensor:
        return self._velocity(denoiser, x0, 1.0, conditioning)

    def predict(self, denoiser: nn.Module, x: Tensor, s: Tensor, conditioning: TensorBatch) -> Tensor:
        """The raw prediction at x = s z + (1 - s) x̂ [B, C, h, w], in float32; `s` [B] in [0, 1], the same in all
        rows."""
        return self._velocity(denoiser, x, float(s[0]), conditioning)

    def levels(self, count: int) -> Tensor:
        """So many noise levels from 1 down, of pictures of the size that the model was trained on: [count]. Every
        n-th of them make the schedule of count / n steps."""
        return self._scheduler(USUAL_STEPS, self._usual_tokens, "cpu", count).sigmas[:-1]

    @property
    def _usual_tokens(self) -> int:
        return (self.default_size // self.size_multiple) ** 2

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
        scheduler = self._scheduler(steps, tokens=x0[0, 0].numel() // self.patch**2, device=x0.device)
        x, random = x0, streams(seed, len(x0))
        for t, (s, after) in zip(scheduler.timesteps, pairwise(scheduler.sigmas), strict=True):
            v = kept.call(self._velocity, denoiser or self.denoiser, x, float(t) / 1000, conditioning)
            clean = x - s * v
            x = kept.moved(scheduler.step(v, t, x, generator=random, return_dict=False)[0], after)
            if kept.between is not None:
                x = (1 - after) * clean + after * kept.between
        return x

    def _scheduler(
        self, steps: int, tokens: int, device: torch.device | str, points: int | None = None
    ) -> FlowMatchEulerDiscreteScheduler:
        """One like the pipeline's, with its own state, for a picture of so many tokens. `points` in place of `steps`
        are the levels that it stops at, shifted as for `steps`.

        Raises:
            ValueError: there is no such schedule.
        """
        scheduler = FlowMatchEulerDiscreteScheduler.from_config(self.pipeline.scheduler.config)
        with np.errstate(divide="ignore", invalid="ignore"):
            scheduler.set_timesteps(device=device, mu=self._shift(steps, tokens), **self._levels(points or steps))
        if not scheduler.sigmas.isfinite().all():
            raise SettingError(
                "{steps} is {}, and {} has no schedule of so many: its last noise level is set to {} (shift_terminal), "
                "and with a single step that is also the first, which is pure noise; give at least 2",
                steps,
                self.name,
                scheduler.config.shift_terminal,
            )
        scheduler.set_begin_index(0)
        return scheduler

    def _levels(self, steps: int) -> dict:
        """The noise levels before they are shifted, as the scheduler takes them."""
        return {"sigmas": np.linspace(1.0, 1 / steps, steps)}

    def _shift(self, steps: int, tokens: int) -> float:
        """μ of a shift that depends on the size of the picture; static shifts ignore it."""
        config = self.pipeline.scheduler.config
        return calculate_shift(
            tokens, config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
        )

    def _times(self, x: Tensor, s: float) -> Tensor:
        """`s` for each picture [B], in the denoiser's dtype."""
        return torch.full((len(x),), s, dtype=self.denoiser.dtype, device=x.device)
