"""One denoiser call on unit noise, made by ComfyUI with all that it does around one: what f_φ does with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import comfy.samplers
import torch
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class FirstCall:
    """The call that a sampler would make first; nothing is run before `denoised` is asked for."""

    model: nn.Module
    """ComfyUI's BaseModel, loaded."""
    noise: Tensor
    """Unit Gaussian, [B, C, h, w]."""
    x: Tensor
    """The noise as the model's sampling scales it."""
    sigma: Tensor
    conds: Sequence[dict]
    """The positive ones, as ComfyUI has processed them."""
    options: dict
    """The MODEL's."""
    calculate: Callable[..., list[Tensor]] = comfy.samplers.calc_cond_batch
    """Makes the call, or what wraps it."""

    @classmethod
    def of(cls, guider: comfy.samplers.CFGGuider, noise: Tensor, sigma: Tensor, options: dict) -> FirstCall:
        model = guider.inner_model
        x = model.model_sampling.noise_scaling(sigma, noise, torch.zeros_like(noise))
        return cls(model, noise, x, sigma, guider.conds["positive"], options)

    def denoised(self, conds: Sequence[dict] | None = None) -> Tensor:
        """The clean latents that the model predicts, [B, C, h, w], for all conds or for some."""
        conds = list(self.conds if conds is None else conds)
        sigma = self.sigma.expand(len(self.x))
        return self.calculate(self.model, [conds], self.x, sigma, self.options)[0]

    def weight(self, cond: dict) -> Tensor | None:
        """How much `cond` counts in each cell of the noise [B, C, h, w], by its area, mask and strength; None if it
        counts at other steps."""
        part = comfy.samplers.get_area_and_mult(cond, self.x, self.sigma.expand(len(self.x)))
        if part is None:
            return None
        weight = where = torch.zeros_like(self.x)
        if part.area is not None:
            for i in range(sides := self.x.dim() - 2):
                where = where.narrow(i + 2, part.area[sides + i], part.area[i])
        where += part.mult  # a view into the weight
        return weight

    def covered(self) -> Tensor:
        """1 in the cells that some positive prompt is about at this call, 0 elsewhere, [B, C, h, w]."""
        weights = [weight for cond in self.conds if (weight := self.weight(cond)) is not None]
        return sum((weight.abs() for weight in weights), torch.zeros_like(self.x)).gt(0).to(self.x.dtype)

    def raw_output(self, denoised: Tensor) -> Tensor:
        return raw_output(self.model.model_sampling, self.sigma, self.x, denoised)


def still(x: Tensor) -> Tensor:
    """Latents [B, C, h, w], or with a time axis of one picture, [B, C, 1, h, w], as [B, C, h, w].

    Raises:
        ValueError: the time axis holds more.
    """
    if x.dim() == 5 and x.shape[2] > 1:
        raise ValueError(
            f"latent_image: it holds a video of {x.shape[2]} latent frames, and this is for still images: set its "
            "length to 1"
        )
    return x[:, :, 0] if x.dim() == 5 else x


def raw_output(sampling, sigma: Tensor, x: Tensor, denoised: Tensor) -> Tensor:
    """What the denoiser returned, from what ComfyUI made of it: that is affine for every kind of prediction."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    slope = sampling.calculate_denoised(sigma, one, zero) - sampling.calculate_denoised(sigma, zero, zero)
    return (denoised - sampling.calculate_denoised(sigma, zero, x)) / slope
