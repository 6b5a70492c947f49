"""Rewards that the comparisons add: several objectives at once, and one that is hard to climb."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hypernoise_core import Reward, TensorBatch, load_reward

from .world import World, probe_cases


class PixelStep(Reward):
    """Near 1 where at least `share` of the pixels are coloured, near 0 elsewhere: a count and a step, each softened by
    so little that the gradient is next to nothing over most pictures.

    A pixel counts as coloured where its chroma is above half of its brightness.
    """

    name = "pixel_step"

    def __init__(self, share: float, edge: float = 0.02, width: float = 0.005):
        self.share, self.edge, self.width = share, edge, width

    def coverage(self, images: Tensor) -> Tensor:
        """Share of coloured pixels, [B]."""
        high, low = images.float().amax(1), images.float().amin(1)
        return ((high - low - 0.5 * high) / self.edge).sigmoid().mean((1, 2))

    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        return ((self.coverage(images) - self.share) / self.width).sigmoid()


def make_reward(world: World, settings: Mapping) -> list[tuple[Reward, float]]:
    """(reward, weight) pairs of a row's settings: `weights` by name, and `pixel_step`, the share of the base's pictures
    that it leaves near 0."""
    pairs = [(load_reward(name), weight) for name, weight in settings.get("weights", {}).items()]
    if "pixel_step" in settings:
        pairs.append((pixel_step(world, settings["pixel_step"]), 1.0))
    return pairs


@torch.no_grad()
def pixel_step(world: World, low: float, probe: int = 120) -> PixelStep:
    """A `PixelStep` that is near 0 on a share `low` of the generator's own pictures of training prompts."""
    batch = world.batch(probe_cases(probe))
    images = world.generator.generate(batch.x0, batch.conditioning)
    return PixelStep(torch.quantile(PixelStep(0).coverage(images), low).item())
