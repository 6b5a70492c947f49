"""How ComfyUI samples the core's generators: by what their denoisers predict, on their own noise levels."""

from __future__ import annotations

import math

import comfy.model_sampling
import torch
from comfy.model_sampling import CONST, ModelSamplingDiscrete, ModelSamplingDiscreteFlow
from torch import Tensor, nn

from hypernoise_core.generators import DiffusersGenerator, SanaSprint, StableDiffusion
from hypernoise_core.generators.rectified_flow import RectifiedFlow

LEVELS = 1000
"""In a table, from which ComfyUI's schedulers take some."""

PREDICTIONS = {
    "epsilon": comfy.model_sampling.EPS,
    "v_prediction": comfy.model_sampling.V_PREDICTION,
    "sample": comfy.model_sampling.X0,
}

LEAST_SIGNAL = 4.8973451890853435e-08
"""ᾱ where a schedule ends in noise without any signal: ComfyUI's number, because σ would be infinite."""


def sampling_of(generator: DiffusersGenerator) -> nn.Module:
    """What ComfyUI calls `model_sampling`. The scheduler `simple` gives the pipeline's own steps, at the size that the
    model was trained on."""
    if isinstance(generator, SanaSprint):
        return TrigFlow()
    if isinstance(generator, StableDiffusion):
        scheduler = generator.pipeline.scheduler
        return _discrete(scheduler.alphas_cumprod, PREDICTIONS[scheduler.config.prediction_type])
    assert isinstance(generator, RectifiedFlow)
    return Flow(generator.levels(LEVELS).flip(0))


class _Table(ModelSamplingDiscreteFlow, CONST):
    """Sigma is s, the share of noise, and what the network is told of it as well."""

    def __init__(self, sigmas: Tensor):
        self._given = sigmas
        super().__init__()

    def set_parameters(self, shift=1.0, timesteps=LEVELS, multiplier=1.0):
        self.shift, self.multiplier = 1.0, 1.0
        self.register_buffer("sigmas", self._given)


class Flow(_Table):
    """Rectified flow on these levels, from least to most."""

    def percent_to_sigma(self, percent):
        index = round((1.0 - min(max(percent, 0.0), 1.0)) * len(self.sigmas))
        return float(self.sigmas[index - 1]) if index else 0.0


class TrigFlow(_Table):
    """SANA-Sprint's is ComfyUI's CONST: at angle t the network receives s z + (1 - s) x̂ with s = sin t /
    (cos t + sin t), and returns v with x̂ = input - s v. So ComfyUI's `lcm` sampler is the consistency sampling that
    diffusers does. The table is even in the angle. Two steps are the exception, because diffusers uses 1.3:
    ManualSigmas 1, 0.7827, 0."""

    def __init__(self):
        angle = torch.arange(1, LEVELS + 1) / LEVELS * (math.pi / 2)
        super().__init__(angle.sin() / (angle.sin() + angle.cos()))

    def percent_to_sigma(self, percent):
        angle = (1.0 - min(max(percent, 0.0), 1.0)) * math.pi / 2
        return math.sin(angle) / (math.sin(angle) + math.cos(angle))


def _discrete(alphas_cumprod: Tensor, prediction: type) -> nn.Module:
    """Stable Diffusion's, where ᾱ [T] says how much signal there is at each timestep."""

    class Discrete(ModelSamplingDiscrete, prediction):
        pass

    sampling, signal = Discrete(), alphas_cumprod.double().clamp(min=LEAST_SIGNAL)
    sampling.set_sigmas(((1 - signal) / signal).sqrt())
    return sampling
