"""The head: a small network that reads what the frozen denoiser makes of a noise, and says how to move it.

f_φ(x, c) = h(x, prediction, features): one call of the denoiser as it is, without a gradient through it, and a network
of some hundred thousand weights. Text reaches it through the denoiser alone. This project's own; docs/LOG.md has what
was tried.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..batch import TensorBatch
from ..noise import First, with_norm_of
from ..reading import Reading
from ..settings import SettingError
from .base import NoiseHypernetwork
from .critic import Critic
from .critic_network import CriticNetwork
from .head_file import KIND, HeadInfo, LatentSpace, read_head, write_head
from .head_network import HeadNetwork, HeadShape

if TYPE_CHECKING:
    from ..generators.base import Generator
    from ..training.config import TrainingConfig

MAX_TOKENS = 1024
"""Tokens that a head looks at, at its generator's default size: larger latents are read in patches."""


class HeadHypernetwork(NoiseHypernetwork):
    """A head on a generator.

    Args:
        generator: the frozen model whose noise it moves.
        network: as `read_head` or `new_head_network` made it.
        info: what is known of it.
        critic: what says beforehand how a noise will score.
    """

    kind = KIND
    keeps_norm = True
    is_told = True

    def __init__(self, generator: Generator, network: HeadNetwork, info: HeadInfo, critic: CriticNetwork | None = None):
        self.generator, self.network, self.info = generator, network.to(generator.device), info
        self.critic = None if critic is None else Critic(critic.to(generator.device), generator.read)
        self.coarsen, self.iterations = info.coarsen, info.iterations
        self.training = info.training

    @classmethod
    def new(
        cls,
        generator: Generator,
        width: int = 256,
        depth: int = 2,
        reads: str = "features",
        iterations: int = 1,
        coarsen: int = 1,
    ) -> HeadHypernetwork:
        """One that is zero, with weights drawn from torch's global generator.

        Args:
            width, depth: of its layers.
            reads: `features` (what enters the denoiser's last layer, beside noise and prediction), or `prediction`
                alone: that works on every model, and may serve others with the same latent space.
            iterations: readings that it will be trained for.
            coarsen: latent cells along each side that it sees as one.

        Raises:
            ValueError: the model gives no features, or a size is none.
        """
        shape = head_shape(generator, width, depth, reads, coarsen)
        info = HeadInfo(
            generator=generator.name,
            family=generator.family,
            space=space_of(generator),
            shape=shape,
            iterations=iterations,
            coarsen=coarsen,
        )
        return cls(generator, HeadNetwork(shape), info)

    @classmethod
    def from_config(cls, generator: Generator, config: TrainingConfig) -> HeadHypernetwork:
        return cls.new(
            generator, config.head_width, config.head_depth, config.head_reads, config.iterations, config.coarsen
        )

    @classmethod
    def load(cls, generator: Generator, path: str | Path) -> HeadHypernetwork:
        network, info, critic = read_head(path)
        check_fit(info, str(path), generator.name, generator.family, space_of(generator))
        _check_features(info, str(path), generator)
        head = cls(generator, network, info, critic)
        network.requires_grad_(True)
        return head

    def named_parameters(self) -> dict[str, nn.Parameter]:
        return dict(self.network.named_parameters())

    def save(self, path: str | Path, **training) -> None:
        described = {**self.training, **{key: str(value) for key, value in training.items()}}
        info = HeadInfo(**{**vars(self.info), "training": described})
        write_head(path, self.state_dict(), info, None if self.critic is None else self.critic.network)

    def residual(self, x: Tensor, conditioning: TensorBatch, remaining: int | Tensor = 1) -> Tensor:
        return self.network(x, self.generator.read(x, conditioning), remaining)

    def following(self, x0: Tensor, strength: float = 1.0) -> First:
        if self.coarsen != 1:
            raise SettingError(
                "{free_reading} is set, but this head reads noise coarsened by {}, while the sampler's own call "
                "reads all of it: leave it out",
                self.coarsen,
            )

        def follow(reading: Reading) -> Tensor:
            return with_norm_of(x0 + strength * self.network(x0, reading), x0) - x0

        return follow


def head_shape(
    generator: Generator, width: int, depth: int, reads: str, coarsen: int = 1, most_tokens: int = MAX_TOKENS
) -> HeadShape:
    """The shape of a head for `generator`, of so many tokens at its default size."""
    features = feature_cell = 0
    if reads == "features":
        features, feature_cell = features_of(generator)
        if not features:
            raise SettingError(
                "{head_reads} is features, which {} ({}) does not give: train a head on prediction alone",
                generator.name,
                generator.family,
            )
    patch = max(1, feature_cell)
    cells = generator.default_size // generator.latent_scale // coarsen
    while (-(-cells // patch)) ** 2 > most_tokens:
        patch *= 2
    return HeadShape(
        channels=generator.latent_channels,
        features=features,
        width=width,
        depth=depth,
        patch=patch,
        feature_cell=max(1, feature_cell),
    )


@torch.no_grad()
def features_of(generator: Generator) -> tuple[int, int]:
    """The number of features and the side of their cells in latent cells, from one reading of the smallest noise.
    (0, 0) if the generator gives no features."""
    side = generator.trial_size
    x = generator.noise(1, side, side)
    grid = generator.read(x, generator.empty).features
    return (0, 0) if grid is None else (grid.shape[1], x.shape[-2] // grid.shape[-2])


def space_of(generator: Generator) -> LatentSpace:
    return LatentSpace(
        channels=generator.latent_channels, scale=generator.latent_scale, scaling=generator.latent_scaling
    )


def check_fit(info: HeadInfo, path: str, name: str, family: str, space: LatentSpace) -> None:
    """Whether a head may be used on the model of that name, family and latent space.

    Raises:
        ValueError: it was made for another; the words name both.
    """
    made_for = f"{path} was made for {info.generator[:100]} ({info.family[:60]})"
    if not info.space.fits(space):
        raise ValueError(
            f"{made_for} and does not fit {name} ({family}), load it with its own model: its latents have "
            f"{info.space}, this model's {space}"
        )
    if info.shape.features and info.family != family:
        raise ValueError(
            f"{made_for} and does not fit {name} ({family}), load it with its own model: it reads that family's "
            "features, which mean something else here"
        )


def _check_features(info: HeadInfo, path: str, generator: Generator) -> None:
    """Raise ValueError if a head reads features and the generator, although of the same family, gives others."""
    if not info.shape.features:
        return
    wanted, found = (info.shape.features, info.shape.feature_cell), features_of(generator)
    if found != wanted:
        raise ValueError(
            f"{path} was made for {info.generator[:100]} ({info.family[:60]}) and does not fit {generator.name} "
            f"({generator.family}), load it with its own model: it reads {wanted[0]} features in cells of {wanted[1]}, "
            f"this model gives {found[0]} in cells of {found[1]}"
        )
