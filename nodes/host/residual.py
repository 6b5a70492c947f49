"""f_φ inside ComfyUI: a noise hypernetwork of any kind on a MODEL."""

from __future__ import annotations

import comfy.model_management
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from hypernoise_core.hypernetworks.base import NoiseFunction

from .adapter import FittedHyperNoise, HyperNoise
from .call import FirstCall

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
        self.fitted = hypernoise.fit(model)
        self.keeps_norm, self.is_told = self.fitted.keeps_norm, self.fitted.is_told
        self.coarsen = self.fitted.coarsen
        self.model = model.clone()
        self.model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)  # it would modulate these calls too
        self.model.set_additional_models(KEY, [self.fitted.patcher])

    def residual(self, x: Tensor, conditioning: list | dict, remaining: int | Tensor = 1) -> Tensor:
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
        sigma = torch.as_tensor(float(self.model.get_model_object("model_sampling").sigma_max))
        sigmas = torch.stack([sigma, torch.zeros_like(sigma)])
        call = _InPlaceOfSampler(self.fitted, remaining)
        guider.sample(x, torch.zeros_like(x), call, sigmas, disable_pbar=True, seed=0)
        return call.delta.to(x)


class _InPlaceOfSampler(comfy.samplers.Sampler):
    """Not a sampler: the one call that f_φ makes, in the place where a sampler would make its first."""

    def __init__(self, fitted: FittedHyperNoise, remaining: int):
        self.fitted, self.remaining = fitted, remaining
        self.delta: Tensor | None = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *_, **__):
        call = FirstCall.of(model_wrap, noise, sigmas[0], extra_args["model_options"])
        self.delta = self.fitted.delta(call, self.remaining)
        return noise
