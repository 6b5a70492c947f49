"""What is trained for a frozen generator, and what every noise hypernetwork f_φ does with noise."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.nn import functional as F

from ..batch import TensorBatch
from ..noise import BetweenSteps, First, added_noise, with_norm_of
from ..settings import SettingError

if TYPE_CHECKING:  # ComfyUI loads heads without diffusers
    from typing import Self

    from ..generators.base import Generator
    from ..training.config import TrainingConfig
    from .critic import Critic


class NoiseFunction(ABC):
    """f_φ(x0, c): moves starting noise to where the frozen generator makes better pictures.

    `conditioning` is whatever its generator takes: a `TensorBatch`, or a host's own.
    """

    keeps_norm = False
    """Whether moved noise is rescaled to the norm that its start has."""
    is_told = False
    """Whether it is told how many readings are still to come."""
    critic: Critic | None = None
    """What says beforehand how a noise will score, where it was trained with one."""
    coarsen: int = 1
    """It sees noise averaged over `coarsen` x `coarsen` latent cells, and moves them together: a fraction of the cost
    for a generator that makes pictures at a fraction of its side as well."""

    @abstractmethod
    def residual(self, x: Tensor, conditioning: Any, remaining: int | Tensor = 1) -> Tensor:
        """f_φ at the size that it sees: [B, C, h, w] in and out, float32. Arguments as of `__call__`."""

    def __call__(self, x: Tensor, conditioning: Any, remaining: int | Tensor = 1) -> Tensor:
        """The residual for unit noise `x` [B, C, h, w]: same shape, float32. One denoiser call.

        `remaining`: how many readings are still to come, this one included; an int, or one for each row [B].
        """
        if self.coarsen == 1:
            return self.residual(x, conditioning, remaining)
        return spread(self.residual(coarse(x, self.coarsen), conditioning, remaining), self.coarsen)

    def moved(self, x: Tensor, delta: Tensor, x0: Tensor) -> Tensor:
        """`x` + `delta`, at the norm of its start `x0` where this kind keeps it; all [B, C, h, w]."""
        moved = x + delta
        return with_norm_of(moved, x0) if self.keeps_norm else moved

    def modulate(
        self, x0: Tensor, conditioning: Any, strength: float = 1.0, iterations: int = 1, more: int = 0
    ) -> Tensor:
        """x0 + strength · f_φ(x0, c) (paper, equation 6), `iterations` times over: each reads the noise that the one
        before has moved, and costs a denoiser call. Strength 0 or no iteration returns `x0` itself.

        `more`: readings that follow elsewhere, such as a sampler's own first step.

        Raises:
            ValueError: `iterations` is below 0.
        """
        if iterations < 0:
            raise SettingError("{iterations} is {}: give at least 0", iterations)
        x = x0
        for done in range(iterations if strength else 0):
            x = self.moved(x, strength * self(x, conditioning, iterations + more - done), x0)
        return x


class Adapter(ABC):
    """Weights that are trained for a generator whose own weights stay as they are."""

    kind: str
    """In the file's header: `noise` (a LoRA), `head`, `finetune`."""
    generator: Generator
    network: nn.Module
    """What holds the trained weights."""
    training: dict[str, str]
    """What the file says of its training."""
    iterations: int = 1
    """Readings that it is trained for: how often it is to be applied. You may apply it less or more often."""

    @classmethod
    @abstractmethod
    def from_config(cls, generator: Generator, config: TrainingConfig) -> Self:
        """A new one for a training run; it draws its weights from torch's global generator."""

    @abstractmethod
    def named_parameters(self) -> dict[str, nn.Parameter]:
        """The trained weights, float32, under the names that they are saved by."""

    @abstractmethod
    def save(self, path: str | Path, **training) -> None:
        """Write a HyperNoise file; `training` goes into its header as `hypernoise.*`."""

    @classmethod
    @abstractmethod
    def load(cls, generator: Generator, path: str | Path) -> Self:
        """Read one for `generator`.

        Raises:
            ValueError: the file is damaged, of another kind, or made for a model that it does not fit.
        """

    @abstractmethod
    def generate(
        self,
        x0: Tensor,
        conditioning: TensorBatch,
        steps: int = 1,
        seed: int | Sequence[int] = 0,
        *,
        between_steps: BetweenSteps = "fresh",
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] for unit noise `x0` [B, C, h, w]; `seed` as for `Generator.generate`.

        Raises:
            ValueError: another `between_steps` than fresh, for a generator that adds no noise between steps.
        """

    def parameters(self) -> Iterator[nn.Parameter]:
        """The trained weights; nothing else is ever trained."""
        return iter(self.named_parameters().values())

    def state_dict(self) -> dict[str, Tensor]:
        """The trained weights by name, without gradients."""
        return {name: parameter.detach() for name, parameter in self.named_parameters().items()}


class NoiseHypernetwork(Adapter, NoiseFunction):
    """A noise function that is trained for a generator. Exactly zero when made.

    Load one of any kind by `load_hypernetwork`.
    """

    def following(self, x0: Tensor, strength: float = 1.0) -> First:
        """From a reading of `x0` [B, C, h, w] that the sampler has made to how far it moves x0, with no denoiser call.

        Raises:
            ValueError: this kind cannot use the sampler's own call.
        """
        raise SettingError(
            "{free_reading} is set, and this hypernetwork ({}) makes a denoiser call of its own: take a head", self.kind
        )

    def generate(
        self,
        x0: Tensor,
        conditioning: TensorBatch,
        steps: int = 1,
        seed: int | Sequence[int] = 0,
        strength: float = 1.0,
        iterations: int = 1,
        between_steps: BetweenSteps = "fresh",
        free_reading: bool = False,
    ) -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] from the modulated noise.

        Args:
            free_reading: with two or more steps, the first step's own call on x0 is the one reading that is made, and
                the noise that is kept from there is the moved one: no extra denoiser call at all.

        Raises:
            ValueError: as `modulate` and `Generator.generate`; a free reading of a kind that makes a call of its own.
        """
        if free_reading:
            between = x0 if self.generator.adds_noise else None
            first = self.following(x0, strength)
            return self.generator.generate(x0, conditioning, steps, seed, between=between, first=first)
        self.generator.check_between_steps(between_steps)
        start = self.modulate(x0, conditioning, strength, iterations)
        between = added_noise(between_steps, x0, start)
        return self.generator.generate(start, conditioning, steps, seed, between=between)


def coarse(x: Tensor, k: int) -> Tensor:
    """Unit noise [B, C, h, w] averaged over k x k cells, at unit variance again: [B, C, h / k, w / k].

    Raises:
        ValueError: k does not divide the sides.
    """
    if x.shape[-2] % k or x.shape[-1] % k:
        raise SettingError(
            "{coarsen} is {}, and latents of {}x{} cells cannot be coarsened by that: choose a size in pixels that "
            "gives a multiple of {} cells along each side, or a hypernetwork that is not coarse",
            k,
            x.shape[-1],
            x.shape[-2],
            k,
        )
    return F.avg_pool2d(x, k) * k


def spread(delta: Tensor, k: int) -> Tensor:
    """The transpose of `coarse`: each coarse cell's residual over its k x k cells."""
    return delta.repeat_interleave(k, -2).repeat_interleave(k, -1) / k
