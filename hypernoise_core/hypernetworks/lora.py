"""The noise hypernetwork of the paper: a LoRA on a clone of the frozen denoiser (paper, section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from ..batch import TensorBatch
from ..generators.base import Generator
from ..layers import TARGETS, is_target, target_names, weight_shape
from ..noise import BetweenSteps, added_noise
from ..settings import SettingError
from .adapter_file import AdapterInfo, denoiser_fingerprint, layer_ranks, read_adapter, write_adapter
from .adapter_fit import fit_adapter, misfit
from .base import Adapter, NoiseHypernetwork
from .comfy_keys import key_map
from .lora_clone import add_lora, load_lora_, lora_parameters, shared_clone

if TYPE_CHECKING:
    from typing import Self

    from ..training.config import TrainingConfig


class DenoiserLora(Adapter):
    """A LoRA on a weight-sharing clone of a generator's denoiser, and its file.

    Args:
        generator: the frozen model.
        rank: of every LoRA factor.
        alpha: LoRA scale, `alpha / rank` times B A.
        ranks: of each adapted layer where they are not all of them or not all `rank`; the scale stays `alpha / rank`.
    """

    coarsen: int = 1
    """A fine-tuned denoiser sees its latents as they are."""

    def __init__(
        self, generator: Generator, rank: int = 128, alpha: float = 256.0, ranks: dict[str, int] | None = None
    ):
        if rank < 1:
            raise SettingError("{rank} is {}: give at least 1", rank)
        self.generator, self.rank, self.alpha = generator, rank, float(alpha)
        self.ranks = ranks or dict.fromkeys(target_names(generator.denoiser), rank)
        self.network = shared_clone(generator.denoiser)
        self.last_layer = ""
        self.training: dict[str, str] = {}
        self._prepare()
        add_lora(self.network, self.ranks, self.alpha / self.rank, self.rank)

    def _prepare(self) -> None:
        """What is done to the clone before the LoRA goes in."""

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The LoRA's weights under the names that the denoiser's layers have."""
        return lora_parameters(self.network)

    def save(self, path: str | Path, **training) -> None:
        """Write a HyperNoise LoRA file, under diffusers' names whatever the denoiser's; `training` goes into the header
        as `hypernoise.*`."""
        write_adapter(path, *self.exported(**training))

    def exported(self, **training) -> tuple[dict[str, Tensor], AdapterInfo]:
        """What a file of it holds."""
        names = target_names(self.generator.denoiser)
        keys = key_map(names)
        weights = keys.to_diffusers(self.state_dict()) if keys.comfy else self.state_dict()
        return weights, AdapterInfo(
            kind=self.kind,
            generator=self.generator.name,
            family=self.generator.family,
            denoiser_sha256=denoiser_fingerprint(self.generator.denoiser),
            rank=self.rank,
            alpha=self.alpha,
            last_layer=keys.diffusers_name(self.last_layer) if keys.comfy and self.last_layer else self.last_layer,
            layers=None if len(self.ranks) == len(names) else len(layer_ranks(weights)),
            training={**self.training, **{key: str(value) for key, value in training.items()}},
        )

    @classmethod
    def from_config(cls, generator: Generator, config: TrainingConfig) -> Self:
        return cls(generator, config.rank, config.alpha)

    @classmethod
    def load(cls, generator: Generator, path: str | Path) -> Self:
        """Read an adapter for `generator`, from anything that `read_adapter` takes. The denoiser may have diffusers'
        layer names or ComfyUI's.

        Raises:
            ValueError: the file is damaged, of the other kind, or made for a model of another shape.
        """
        weights, info = read_adapter(path)
        if info.kind not in ("", cls.kind):
            raise ValueError(f"{path} is a LoRA of kind {info.kind!r}, not {cls.kind!r}: give one trained that way")
        try:
            weights, last_layer = fit_adapter(generator.denoiser, weights, info)
        except ValueError as error:
            model = f"{generator.name} ({generator.family})"
            raise ValueError(misfit(str(path), info, model, error)) from error
        lora = cls._from_file(generator, info, layer_ranks(weights), last_layer)
        lora.training = info.training
        load_lora_(lora.network, weights)
        return lora

    @classmethod
    def _from_file(cls, generator: Generator, info: AdapterInfo, ranks: dict[str, int], last_layer: str):
        return cls(generator, info.rank, info.alpha, ranks)


class LoraHypernetwork(DenoiserLora, NoiseHypernetwork):
    """f_φ(x0, c), exactly zero when made: the clone's last layer is zeroed, so that only its LoRA reaches the output.

    Args:
        generator: the frozen model whose noise it moves.
        rank: of every LoRA factor; the paper uses 128 and finds less than 16 too little.
        alpha: LoRA scale, `alpha / rank` times B A.
        last_layer: the denoiser's output layer; found by running it when not given.
        ranks: as for every `DenoiserLora`.
        coarsen: latent cells along each side that it sees as one.
    """

    kind = "noise"

    def __init__(
        self,
        generator: Generator,
        rank: int = 128,
        alpha: float = 256.0,
        last_layer: str | None = None,
        ranks: dict[str, int] | None = None,
        coarsen: int = 1,
    ):
        self._given_last_layer, self.coarsen = last_layer, coarsen
        super().__init__(generator, rank, alpha, ranks)

    def _prepare(self) -> None:
        self.last_layer = self._given_last_layer or self.generator.last_layer
        _zero_layer(self.network, self.last_layer)
        if self.last_layer not in self.ranks:
            raise ValueError(f"no LoRA on the last layer {self.last_layer}: it could only ever return zero")

    @classmethod
    def from_config(cls, generator: Generator, config: TrainingConfig) -> Self:
        lora = cls(generator, config.rank, config.alpha, config.last_layer, coarsen=config.coarsen)
        lora.iterations = config.iterations
        return lora

    @classmethod
    def _from_file(cls, generator: Generator, info: AdapterInfo, ranks: dict[str, int], last_layer: str) -> Self:
        lora = cls(generator, info.rank, info.alpha, last_layer or None, ranks, info.coarsen)
        lora.iterations = info.iterations
        return lora

    def exported(self, **training) -> tuple[dict[str, Tensor], AdapterInfo]:
        weights, info = super().exported(**training)
        return weights, replace(info, coarsen=self.coarsen, iterations=self.iterations)

    def residual(self, x: Tensor, conditioning: TensorBatch, remaining: int | Tensor = 1) -> Tensor:
        return self.generator.first_call(self.network, x, conditioning)


class FineTunedDenoiser(DenoiserLora):
    """A LoRA trained into the generator itself: the paper's comparison, which over-optimises."""

    kind = "finetune"
    coarsen = 1

    def generate(
        self,
        x0: Tensor,
        conditioning: TensorBatch,
        steps: int = 1,
        seed: int | Sequence[int] = 0,
        *,
        between_steps: BetweenSteps = "fresh",
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] from the noise as it is, by the changed generator."""
        self.generator.check_between_steps(between_steps)
        between = added_noise(between_steps, x0, x0)
        return self.generator.generate(x0, conditioning, steps, seed, self.network, between)


PLAIN = (nn.Parameter, FakeTensor)
"""What can be zeroed. `FakeTensor` is a parameter without data; a host's quantized ones are of other types."""


def _zero_layer(network: nn.Module, name: str) -> None:
    """Give `network` a zeroed layer of its own in place of the shared one."""
    layer = dict(network.named_modules()).get(name)
    if layer is None or not is_target(layer):
        near = ", ".join(n for n in target_names(network) if "." not in n)
        raise SettingError(
            "{last_layer} {!r} is no Linear or Conv2d of this denoiser: leave it out, or try {}", name, near
        )
    if not isinstance(layer, TARGETS) or any(type(p) not in PLAIN for p in layer.parameters(recurse=False)):
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, _Zero.of(layer))
        return
    for key, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, key, nn.Parameter(torch.zeros_like(parameter), requires_grad=False))


class _Zero(nn.Linear):
    """In place of a host's own linear, whose quantized weights cannot be zeroed as others are."""

    @classmethod
    def of(cls, layer: nn.Module) -> Self:
        device, (outputs, inputs) = next(layer.parameters()).device, weight_shape(layer)
        return cls(inputs, outputs, bias=False, device=device).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return x.new_zeros(*x.shape[:-1], self.out_features)
