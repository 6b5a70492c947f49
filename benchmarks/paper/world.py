"""What every row works with: the embedded generator and its reward, loaded once a process, rewards that the comparisons
add, and trained adapters."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from hypernoise_core import Reward, TensorBatch, load_generator, load_reward
from hypernoise_core.embedded import HEAD_FILE, HYPERNOISE_FILE
from hypernoise_core.embedded.benchmark import PER_PROMPT, Case, cases
from hypernoise_core.embedded.prompts import prompts
from hypernoise_core.generators import Generator
from hypernoise_core.hypernetworks import Adapter, load_adapter
from hypernoise_core.rewards.base import BackboneReward

PROBE_SEED = 5_000_000
"""Of pictures that choices are made on: neither trained nor judged on."""

SHIPPED, SHIPPED_HEAD = "shipped", "shipped-head"
SHIPPED_FILES = {SHIPPED: HYPERNOISE_FILE, SHIPPED_HEAD: HEAD_FILE}
"""Names of the adapters that lie beside the generator."""


@dataclass(frozen=True)
class Batch:
    """Cases that are made together."""

    cases: list[Case]
    x0: Tensor
    conditioning: TensorBatch
    text: TensorBatch


@dataclass
class World:
    """`work` is the folder that trained weights are kept in."""

    work: Path
    _encoded: dict[str, TensorBatch] = field(default_factory=dict)

    @cached_property
    def generator(self) -> Generator:
        return load_generator("embedded")

    @cached_property
    def reward(self) -> BackboneReward:
        return load_reward("embedded")

    def encode(self, texts: list[str]) -> TensorBatch:
        """Conditioning of prompts, each encoded once a process."""
        for text in texts:
            if text not in self._encoded:
                self._encoded[text] = self.generator.encode([text])
        return TensorBatch.cat([self._encoded[text] for text in texts])

    def forget_encoded(self) -> None:
        """So that encoding is done again, where its time is measured."""
        self._encoded.clear()

    def batch(self, part: list[Case]) -> Batch:
        texts = [case.prompt.text for case in part]
        x0 = torch.cat([self.generator.noise(1, seed=case.seed) for case in part])
        return Batch(part, x0, self.encode(texts), self.reward.encode_text(texts))

    def adapter_file(self, name: str) -> Path:
        return SHIPPED_FILES.get(name) or self.work / f"{name}.safetensors"

    def adapter(self, name: str, generator: Generator | None = None) -> Adapter:
        """A trained adapter of any kind, on the embedded generator or a changed one."""
        return load_adapter(generator or self.generator, self.adapter_file(name))


def chosen_cases(n: int, per: int = PER_PROMPT) -> list[Case]:
    """The first `per` of each prompt's cases among the benchmark's `n`: a paired part of them with every prompt."""
    return [case for i, case in enumerate(cases(n)) if i % PER_PROMPT < per]


def probe_cases(count: int) -> list[Case]:
    """Training prompts from all over the list with seeds of their own."""
    own = prompts(held_out=False)
    chosen = [own[i * len(own) // count % len(own)] for i in range(count)]
    return [Case(prompt, PROBE_SEED + i) for i, prompt in enumerate(chosen)]


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
