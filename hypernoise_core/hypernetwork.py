"""The noise hypernetwork f_φ: a LoRA on the frozen denoiser that moves the starting noise (paper, section 3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from .adapter_file import AdapterInfo, denoiser_fingerprint, read_adapter, write_adapter
from .batch import TensorBatch
from .generators.base import Generator
from .lora import TARGETS, add_lora, load_lora_, lora_parameters, shared_clone, target_names


class DenoiserLora:
    """A LoRA on a weight-sharing clone of a generator's denoiser, and its file."""

    kind: str

    def __init__(self, generator: Generator, rank: int = 128, alpha: float = 256.0):
        if rank < 1:
            raise ValueError(f"rank is {rank}; a LoRA needs at least 1")
        self.generator, self.rank, self.alpha = generator, rank, float(alpha)
        self.network = shared_clone(generator.denoiser)
        self.last_layer = ""
        self.training: dict[str, str] = {}
        self._prepare()
        add_lora(self.network, rank, self.alpha, target_names(generator.denoiser))

    def _prepare(self) -> None:
        """What is done to the clone before the LoRA goes in."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """The LoRA's weights, float32; nothing else is ever trained."""
        return iter(lora_parameters(self.network).values())

    def state_dict(self) -> dict[str, Tensor]:
        return {name: parameter.detach() for name, parameter in lora_parameters(self.network).items()}

    def save(self, path: str | Path, weights: dict[str, Tensor] | None = None, **training) -> None:
        """Write a HyperNoise LoRA file. `weights` replaces the present ones (their moving average, say); `training`
        goes into the header as `hypernoise.*`."""
        info = AdapterInfo(
            kind=self.kind,
            generator=self.generator.name,
            family=self.generator.family,
            denoiser_sha256=denoiser_fingerprint(self.generator.denoiser),
            rank=self.rank,
            alpha=self.alpha,
            last_layer=self.last_layer,
            training={**self.training, **{key: str(value) for key, value in training.items()}},
        )
        write_adapter(path, weights or self.state_dict(), info)

    @classmethod
    def load(cls, generator: Generator, path: str | Path):
        """Read a HyperNoise LoRA file for `generator`.

        Raises:
            ValueError: the file is damaged, of the other kind, or made for a model of another shape.
        """
        weights, info = read_adapter(path)
        if info.kind != cls.kind:
            raise ValueError(f"{path} is a LoRA of kind {info.kind!r}, not {cls.kind!r}: give one trained that way")
        if info.denoiser_sha256 != denoiser_fingerprint(generator.denoiser):
            raise ValueError(
                f"{path} was made for {info.generator} ({info.family}) and does not fit {generator.name} "
                f"({generator.family}): load it with its own model"
            )
        lora = cls._from_info(generator, info)
        lora.training = info.training
        expected = {name: tuple(p.shape) for name, p in lora_parameters(lora.network).items()}
        found = {name: tuple(w.shape) for name, w in weights.items()}
        if wrong := sorted(set(expected.items()) ^ set(found.items())):
            name = wrong[0][0]
            got, want = found.get(name, "no weights"), expected.get(name, "none")
            raise ValueError(f"{path} is damaged: {name} has {got}, expected {want}")
        if bad := [name for name, weight in weights.items() if not weight.isfinite().all()]:
            raise ValueError(f"{path} holds values that are not finite, first in {bad[0]}: train it again")
        load_lora_(lora.network, weights)
        return lora

    @classmethod
    def _from_info(cls, generator: Generator, info: AdapterInfo):
        return cls(generator, info.rank, info.alpha)


class NoiseHypernetwork(DenoiserLora):
    """f_φ(x0, c), exactly zero when made: the clone's last layer is zeroed, so that only its LoRA reaches the output.

    Args:
        generator: the frozen model whose noise it moves.
        rank: of every LoRA factor; the paper uses 128 and finds less than 16 too little.
        alpha: LoRA scale, `alpha / rank` times B A.
        last_layer: the denoiser's output layer; found by running it when not given.
    """

    kind = "noise"

    def __init__(self, generator: Generator, rank: int = 128, alpha: float = 256.0, last_layer: str | None = None):
        self._given_last_layer = last_layer
        super().__init__(generator, rank, alpha)

    def _prepare(self) -> None:
        self.last_layer = self._given_last_layer or find_last_layer(self.generator)
        _zero_layer(self.network, self.last_layer)

    @classmethod
    def _from_info(cls, generator: Generator, info: AdapterInfo):
        return cls(generator, info.rank, info.alpha, info.last_layer)

    def __call__(self, x0: Tensor, conditioning: TensorBatch) -> Tensor:
        """The residual for unit noise `x0` [B, C, h, w]: same shape, float32."""
        return self.generator.first_call(self.network, x0, conditioning)

    def modulate(self, x0: Tensor, conditioning: TensorBatch, strength: float = 1.0) -> Tensor:
        """x0 + strength · f_φ(x0, c) (paper, equation 6); strength 0 returns `x0` itself."""
        return x0 if strength == 0 else x0 + strength * self(x0, conditioning)

    def generate(
        self, x0: Tensor, conditioning: TensorBatch, steps: int = 1, seed: int = 0, strength: float = 1.0
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] from the modulated noise."""
        return self.generator.generate(self.modulate(x0, conditioning, strength), conditioning, steps, seed)


class FineTunedDenoiser(DenoiserLora):
    """A LoRA trained into the generator itself: the paper's comparison, which over-optimises."""

    kind = "finetune"

    def generate(self, x0: Tensor, conditioning: TensorBatch, steps: int = 1, seed: int = 0) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] from the noise as it is, by the changed generator."""
        return self.generator.generate(x0, conditioning, steps, seed, denoiser=self.network)


@torch.no_grad()
def find_last_layer(generator: Generator) -> str:
    """The name of the last Linear or Conv2d that a denoiser runs, found by running it once on its smallest input."""
    order: list[str] = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, module in generator.denoiser.named_modules()
        if isinstance(module, TARGETS)
    ]
    try:
        side = 2 * generator.latent_scale
        generator.first_call(generator.denoiser, generator.noise(1, side, side), generator.encode([""]))
    finally:
        for hook in hooks:
            hook.remove()
    return order[-1]


def _zero_layer(network: nn.Module, name: str) -> None:
    """Give `network` a zeroed layer of its own in place of the shared one."""
    modules = dict(network.named_modules())
    if not isinstance(modules.get(name), TARGETS):
        near = ", ".join(n for n in target_names(network) if "." not in n)
        raise ValueError(f"last_layer {name!r} is no Linear or Conv2d of this denoiser: leave it out, or try {near}")
    layer = modules[name]
    for key, parameter in list(layer.named_parameters(recurse=False)):
        setattr(layer, key, nn.Parameter(torch.zeros_like(parameter), requires_grad=False))
