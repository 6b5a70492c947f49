"""What training needs of the device's memory, known before the first step."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import comfy.model_management
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from hypernoise_core import TensorBatch
from hypernoise_core.noise import First
from hypernoise_core.planning.count import Count, size_of
from hypernoise_core.planning.loaded import Copies, Loaded, check_loaded_fits, count_loaded, held_throughout
from hypernoise_core.planning.plan import GIB
from hypernoise_core.planning.without_data import allow_mutation
from hypernoise_core.training import Trainer, TrainingConfig

from .differentiation import Recomputation
from .generator import HostGenerator
from .reward import LoadedReward

WORTH_COUNTING = 2**30
"""Bytes of models. A step of smaller ones on a CPU is over before it is counted."""


class CountedGenerator(HostGenerator):
    """A loaded generator whose models have no data. Every prompt is the one with the most tokens."""

    @classmethod
    def of(cls, generator: HostGenerator, copies: Copies, calls: int) -> CountedGenerator:
        """
        Args:
            calls: of the denoiser, in a run of the sampler.
        """
        own = copy.copy(generator)
        own.__class__ = cls
        own._calls, own._recomputation = calls, Recomputation()
        with unset_fake_temporarily():
            own._sigma = float(generator._patcher.model.model_sampling.sigma_max)
        own._longest = max(range(len(own._conds)), key=lambda number: _tokens(own._conds[number]))
        wrapped = [vars(patcher.model).get("generator") for patcher in (generator._patcher, generator._vae_patcher)]
        copies.memo |= {id(one): copy.copy(one) for one in wrapped if one is not None}
        own._patcher, own._vae_patcher = copy.copy(generator._patcher), copy.copy(generator._vae_patcher)
        own._patcher.model = model = copy.copy(generator._patcher.model)
        model._modules = {**model._modules}
        own.denoiser = model.diffusion_model = copies.of(generator.denoiser)
        own.autoencoder = own._vae_patcher.model = copies.of(generator.autoencoder)
        for owner in (model, own.autoencoder):
            if (one := vars(owner).get("generator")) is not None:
                vars(owner)["generator"] = one = copies.memo.get(id(one), one)
                one.denoiser, one.autoencoder = own.denoiser, getattr(own.autoencoder, "autoencoder", one.autoencoder)
        return own

    def _first_input(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        sigma = torch.tensor(self._sigma, device=x0.device)
        return self._patcher.model.model_sampling.noise_scaling(sigma, x0, torch.zeros_like(x0)), sigma

    def _model_conds(self, numbers: Tensor, x: Tensor, kind: str) -> list[dict]:
        made = self._conds_of([self._longest], x, kind)
        return made * len(numbers)

    def check_steps(self, steps: int) -> None:
        """The loaded one was asked."""

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
        """As many calls as the sampler makes, which itself looks at values."""
        x, sigma = self._first_input(x0)
        for _ in range(self._calls):
            x = self._guided(denoiser or self.denoiser, x, sigma, conditioning, {})
        return x


def _tokens(cond: dict) -> int:
    text = cond.get("cross_attn")
    return 0 if text is None else text.shape[1]


def tell_memory(
    generator: HostGenerator, reward: LoadedReward, prompts: Sequence[str], config: TrainingConfig
) -> str | None:
    """A line that says what training needs and what is free; None where that could not be counted.

    Raises:
        SettingError: it does not fit on the GPU; the message names settings of the node that would.
    """
    held = size_of([*generator.denoiser.parameters(), *generator.autoencoder.parameters()])
    on_gpu = generator.device.type != "cpu"
    if not on_gpu and held < WORTH_COUNTING:
        return None
    counting = Counting(generator, reward, prompts)
    try:
        found = counting(config)
    except comfy.model_management.InterruptProcessingException:
        raise
    except Exception:  # whatever a model or a pack of somebody else does with tensors that have no data
        logging.info("HyperNoise: the memory of a training step could not be counted", exc_info=True)
        return None
    free = free_memory(generator.device) + held
    if on_gpu:
        check_loaded_fits(config, found, free, counting, generator.size_multiple)
    needed = found.peak + (0 if on_gpu else found.replay)
    names = ", ".join(counting.uncounted)
    left_out = f"; the activations of reward {names} are not counted" if names else ""
    return f"needs about {needed / GIB:.1f} GiB, {free / GIB:.1f} GiB are free{left_out}"


class Counting:
    """What settings would need."""

    def __init__(self, generator: HostGenerator, reward: LoadedReward, prompts: Sequence[str]):
        self._generator, self._prompt = generator, max(prompts, key=len)
        self._offload, self._ensemble = reward.device != generator.device, reward.ensemble
        self.uncounted: list[str] = []
        """Rewards, by name."""

    def __call__(self, config: TrainingConfig) -> Count:
        comfy.model_management.throw_exception_if_processing_interrupted()
        generator = self._generator
        calls = generator.calls(config.steps) if config.teacher == "gradient" else 1
        loaded = Loaded(
            lambda copies: CountedGenerator.of(generator, copies, calls),
            generator.device,
            self._ensemble,
            self._prompt,
            self._offload,
        )
        with allow_mutation():
            found, self.uncounted = count_loaded(loaded, config)
        return found


def free_memory(device: torch.device) -> float:
    return float(comfy.model_management.get_free_memory(device))


def certain(trainer: Trainer, device: torch.device) -> str:
    """The line where a step was not counted: what is known all the same."""
    held = held_throughout(trainer) / GIB
    free = free_memory(device) / GIB
    return (
        f"weights, gradients and optimizers take {held:.2f} GiB, activations are not counted; {free:.2f} GiB are free"
    )
