"""f_φ inside ComfyUI: a noise hypernetwork of any kind on a MODEL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import comfy.model_management
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from hypernoise_core.hypernetworks.base import NoiseFunction
from hypernoise_core.hypernetworks.critic import Critic, Promising
from hypernoise_core.noise import with_norm_of
from hypernoise_core.reading import Reading

from .adapter import HyperNoise
from .call import FirstCall
from .input_gradient import differentiable, own
from .text_length import tell_text_length

T = TypeVar("T")

KEY = "hypernoise"
"""The key of everything that the pack adds to a ModelPatcher."""

NOT_TEXT = ("control", "control_apply_to_uncond", "gligen")
"""Parts of a conditioning that f_φ does not see: it was trained on noise and text."""


class HostFunction(NoiseFunction):
    """f_φ on a MODEL that it fits, with whatever LoRAs and patches that carries. A conditioning is a CONDITIONING, or
    the dictionary of conds that a guider made of some.

    Raises:
        ValueError: `hypernoise` was made for another model.
    """

    def __init__(self, model: ModelPatcher, hypernoise: HyperNoise):
        self.fitted, self._hypernoise, self._told = hypernoise.fit(model), hypernoise, False
        self.keeps_norm, self.is_told = self.fitted.keeps_norm, self.fitted.is_told
        self.coarsen = self.fitted.coarsen
        self.critic = None if self.fitted.critic is None else Critic(self.fitted.critic, self.read)
        self.model = model.clone()
        self.model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)  # it would modulate these calls too
        self.model.set_additional_models(KEY, [self.fitted.patcher])

    def residual(self, x: Tensor, conditioning: list | dict, remaining: int | Tensor = 1) -> Tensor:
        return self._from_first_call(x, conditioning, lambda call: self.fitted.delta(call, remaining)).to(x)

    def moved(self, x: Tensor, delta: Tensor, x0: Tensor) -> Tensor:
        still = delta == 0  # no prompt applies there: nothing moves, and the norm is kept by the rest
        if not (self.keeps_norm and still.any()):
            return super().moved(x, delta, x0)
        rest = with_norm_of((x + delta).masked_fill(still, 0), x0.masked_fill(still, 0))
        return torch.where(still, x, rest)

    def read(self, x: Tensor, conditioning: list | dict) -> Reading:
        """What the denoiser makes of `x` [B, C, h, w], on its device; for a kind that reads."""
        return self._from_first_call(x, conditioning, self.fitted.read).to(x.device)

    def refine(self, x: Tensor, conditioning: list | dict, iterations: int) -> Promising:
        """The critic's own, with a gradient through the MODEL. A reading beforehand loads it."""
        self.critic.score(x, conditioning)
        with differentiable(self.model, self.fitted.patcher):
            return self.critic.refine(own(x), own(conditioning), iterations)

    def _from_first_call(self, x: Tensor, conditioning: list | dict, use: Callable[[FirstCall], T]) -> T:
        """What `use` makes of the first denoiser call that a sampler would make on `x`."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        guider = comfy.samplers.CFGGuider(self.model)
        if isinstance(conditioning, dict):
            guider.original_conds = conditioning
        else:
            guider.inner_set_conds({"positive": conditioning})
        guider.original_conds = {
            "positive": [
                {key: value for key, value in cond.items() if key not in NOT_TEXT}
                for cond in guider.original_conds["positive"]
            ]
        }
        if not self._told:
            tell_text_length(self._hypernoise, self.model, guider.original_conds["positive"])
            self._told = True
        sigma = torch.as_tensor(float(self.model.get_model_object("model_sampling").sigma_max))
        sigmas = torch.stack([sigma, torch.zeros_like(sigma)])
        call = _InPlaceOfSampler(use)
        guider.sample(x, torch.zeros_like(x), call, sigmas, disable_pbar=True, seed=0)
        return call.found


class _InPlaceOfSampler(comfy.samplers.Sampler):
    """Not a sampler: the one call that f_φ makes, in the place where a sampler would make its first."""

    def __init__(self, use: Callable[[FirstCall], T]):
        self._use = use
        self.found: T | None = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *_, **__):
        call = FirstCall.of(model_wrap, noise, sigmas[0], extra_args["model_options"])
        self.found = self._use(call)
        return noise
