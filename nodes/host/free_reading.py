"""The free reading: a head reads the sampler's own first step, and moves what is left of the starting noise."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import comfy.samplers
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key
from torch import Tensor

from .call import FirstCall
from .head import FittedHead
from .residual import KEY, HostFunction


class FreeReading:
    """Wraps the denoiser calls of one run of a sampler.

    A sampler that adds no noise keeps its start z in every x, sigma times. So it goes on from z + Δ where all that the
    denoiser sees from then on has sigma Δ added to it. At sigma 0 nothing is left to add.

    Args:
        f: a head on the MODEL.
        noise: unit noise that the sampler starts from, moved by the readings before this one.
        start: the noise as it was drawn.
    """

    def __init__(self, f: HostFunction, noise: Tensor, start: Tensor, strength: float):
        self.f, self.noise, self.start, self.strength = f, noise, start, strength
        self.delta: Tensor | None = None

    def wrap(self, guider: comfy.samplers.CFGGuider) -> None:
        """For the run that `guider` is about to make: its options live as long as that."""
        for kind, wrapper in (
            (WrappersMP.PREDICT_NOISE, self._predict_noise),
            (WrappersMP.CALC_COND_BATCH, self._calc_cond_batch),
        ):
            add_wrapper_with_key(kind, KEY, wrapper, guider.model_options, is_model_options=True)
        self.guider = guider

    def _predict_noise(self, executor: Callable, x: Tensor, sigma: Tensor, *args, **kwargs) -> Tensor:
        if self.delta is not None:
            x = x + sigma.view(-1, *[1] * (x.dim() - 1)) * self.delta
        return executor(x, sigma, *args, **kwargs)

    def _calc_cond_batch(self, executor: Callable, model, conds: list, x: Tensor, sigma: Tensor, options: dict):
        positive = self.guider.conds["positive"]
        place = next((i for i, cond in enumerate(conds) if cond is positive), None)
        if self.delta is not None or place is None:
            return executor(model, conds, x, sigma, options)
        noise, start = self.noise.to(x), self.start.to(x)
        call = FirstCall(model, noise, x, sigma[0], positive, options, executor)
        reading = self.f.fitted.read(call)
        self.delta = self.f.moved(noise, self.strength * self.f.fitted.moves(noise, reading), start) - noise
        if len(positive) > 1:  # only one of them was read
            return executor(model, conds, x, sigma, options)
        others = [None if i == place else cond for i, cond in enumerate(conds)]
        outputs = executor(model, others, x, sigma, options)
        outputs[place] = reading.prediction.view(x.shape)
        return outputs


def check_free_reading(f: HostFunction, sampler: comfy.samplers.Sampler) -> None:
    """Whether the first step of `sampler` can be a reading.

    Raises:
        ValueError: it adds fresh noise between steps, or the hypernetwork needs a call of its own.
    """
    if not isinstance(f.fitted, FittedHead) or f.coarsen != 1:
        raise ValueError(
            "free_reading: only a head that reads noise at full size can read the sampler's own first step: turn it off"
        )
    function = getattr(sampler, "sampler_function", None)
    if function is None or "noise_sampler" in inspect.signature(function).parameters:
        name = getattr(function, "__name__", type(sampler).__name__).removeprefix("sample_")
        raise ValueError(
            f"free_reading: the sampler {name} adds fresh noise between its steps, and the moved noise would be lost: "
            "choose euler or another that keeps its noise, or turn free_reading off"
        )
