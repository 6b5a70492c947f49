"""f_φ inside ComfyUI: one denoiser call with the injected LoRA, with everything that ComfyUI does around a call."""

import comfy.model_management
import comfy.samplers
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from hypernoise_core.hypernetworks.injection import injected

from .adapter import FittedLora, HyperNoise

KEY = "hypernoise"
"""The key of everything that the pack adds to a ModelPatcher."""

NOT_TEXT = ("control", "control_apply_to_uncond", "gligen")
"""Parts of a conditioning that f_φ does not see: it was trained on noise and text."""


class FirstCall(comfy.samplers.Sampler):
    """Not a real sampler: it makes the one call of f_φ, where a sampler would make its first call."""

    def __init__(self, lora: FittedLora):
        self.lora = lora
        self.delta: Tensor | None = None

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *_, **__):
        model = model_wrap.inner_model
        sampling = model.model_sampling
        x = sampling.noise_scaling(sigmas[0], noise, torch.zeros_like(noise))
        conds = [model_wrap.conds["positive"]]
        with injected(model.diffusion_model, self.lora.branches, self.lora.last_layer):
            denoised = comfy.samplers.calc_cond_batch(
                model, conds, x, sigmas[0].expand(len(x)), extra_args["model_options"]
            )[0]
        self.delta = raw_output(sampling, sigmas[0], x, denoised)
        return noise


def raw_output(sampling, sigma: Tensor, x: Tensor, denoised: Tensor) -> Tensor:
    """The denoiser's raw output, recovered from ComfyUI's `denoised`, which is affine in it for every kind of
    prediction."""
    zero, one = torch.zeros_like(x), torch.ones_like(x)
    slope = sampling.calculate_denoised(sigma, one, zero) - sampling.calculate_denoised(sigma, zero, zero)
    return (denoised - sampling.calculate_denoised(sigma, zero, x)) / slope


def residual(model: ModelPatcher, hypernoise: HyperNoise, x0: Tensor, conditioning: list | dict) -> Tensor:
    """f_φ(x0, c): float32 on x0's device.

    Args:
        model: any MODEL that `hypernoise` fits, with any LoRAs and patches.
        x0: unit Gaussian noise [B, C, h, w].
        conditioning: a CONDITIONING, or the dictionary of conds that a guider made.
    """
    comfy.model_management.throw_exception_if_processing_interrupted()
    lora = hypernoise.fit(model)
    model = model.clone()
    model.remove_wrappers_with_key(WrappersMP.OUTER_SAMPLE, KEY)  # a modulated MODEL would modulate this call too
    model.set_additional_models(KEY, [lora.patcher])
    guider = comfy.samplers.CFGGuider(model)
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
    sigma = torch.as_tensor(float(model.get_model_object("model_sampling").sigma_max))
    call = FirstCall(lora)
    guider.sample(
        x0, torch.zeros_like(x0), call, torch.stack([sigma, torch.zeros_like(sigma)]), disable_pbar=True, seed=0
    )
    return call.delta.to(x0)
