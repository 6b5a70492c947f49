"""The embedded benchmark: judges any way of making images with the exact detector, on paired prompts and seeds.

Every method gets the same cases, so two methods are compared image by image. The interval of a difference is a paired
bootstrap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from ..batch import TensorBatch
from ..diagnostics import noise_statistics
from ..generators.base import Generator
from ..objective import kl_l2
from ..rewards import Reward
from ..rewards.redness import Redness
from ..settings import SettingError
from .detector import judge
from .prompts import CATEGORIES, Prompt, prompts

PER_PROMPT = 10
"""Consecutive images of one prompt. Diversity is measured within them."""


@dataclass(frozen=True)
class Case:
    """One image to make."""

    prompt: Prompt
    seed: int


@dataclass(frozen=True)
class Made:
    """What a method returns for a batch: images [B, 3, 64, 64] in [0, 1], and the noise [B, C, h, w] that the generator
    started from."""

    images: Tensor
    start: Tensor


Method = Callable[[Tensor, TensorBatch, TensorBatch], Made]
"""(noise [B, C, h, w], conditioning, reward text) -> what was made of it."""


@dataclass(frozen=True)
class Result:
    """Measurements of every case, each [n]. `pictures` is [n, 64, 64, 3] in [0, 1]."""

    cases: list[Case]
    pictures: np.ndarray
    correct: np.ndarray
    strict: np.ndarray
    reward: np.ndarray
    redness: np.ndarray
    kl: np.ndarray
    noise_std: float
    seconds_per_image: float

    def category_scores(self, values: np.ndarray) -> dict[str, float]:
        names = np.array([case.prompt.category for case in self.cases])
        return {category: float(values[names == category].mean()) for category in CATEGORIES}

    def summary(self) -> dict:
        """Means as GenEval computes them: over the images of each category, then over the six categories."""
        per_category = self.category_scores(self.correct)
        return {
            "detector_mean": float(np.mean(list(per_category.values()))),
            "detector_strict": float(np.mean(list(self.category_scores(self.strict).values()))),
            "categories": per_category,
            "reward": float(self.reward.mean()),
            "diversity": diversity(self),
            "redness": float(self.redness.mean()),
            "kl": float(self.kl.mean()),
            "noise_std": self.noise_std,
            "seconds_per_image": self.seconds_per_image,
            "n": len(self.cases),
        }


def cases(n: int, seed: int = 1_000_000) -> list[Case]:
    """`n` cases (a multiple of 60): held-out prompts, every category equally often, `PER_PROMPT` consecutive seeds for
    each prompt. The seeds are never used in training."""
    share = len(CATEGORIES) * PER_PROMPT
    if n < share or n % share:
        raise SettingError("{n} is {}: give a multiple of {}", n, share)
    chosen = []
    for category in CATEGORIES:
        own = [prompt for prompt in prompts(held_out=True) if prompt.category == category]
        chosen += [own[i % len(own)] for i in range(n // share)]
    return [Case(prompt, seed + i * PER_PROMPT + j) for i, prompt in enumerate(chosen) for j in range(PER_PROMPT)]


def measure(generator: Generator, reward: Reward, method: Method, todo: list[Case], batch: int = 30) -> Result:
    """Make and judge every case. `seconds_per_image` counts only the making, without text encoding."""
    parts: dict[str, list] = {"pictures": [], "reward": [], "redness": [], "kl": [], "starts": []}
    seconds, red = 0.0, Redness()
    for i in range(0, len(todo), batch):
        part = todo[i : i + batch]
        texts = [case.prompt.text for case in part]
        conditioning, text = generator.encode(texts), reward.encode_text(texts)
        x0 = torch.cat([generator.noise(1, seed=case.seed) for case in part])
        begun = perf_counter()
        with torch.no_grad():
            made = method(x0, conditioning, text)
        seconds += perf_counter() - begun
        with torch.no_grad():
            parts["reward"].append(reward.score(made.images, text).cpu())
            parts["redness"].append(red.score(made.images, text).cpu())
        parts["kl"].append(kl_l2(made.start - x0).cpu())
        parts["starts"].append(made.start.cpu())
        parts["pictures"].append(made.images.permute(0, 2, 3, 1).cpu())
    pictures = torch.cat(parts["pictures"]).numpy()
    verdicts = [judge(picture, case.prompt) for picture, case in zip(pictures, todo, strict=True)]
    return Result(
        cases=todo,
        pictures=pictures,
        correct=np.array([v.correct for v in verdicts], float),
        strict=np.array([v.strict for v in verdicts], float),
        reward=torch.cat(parts["reward"]).numpy(),
        redness=torch.cat(parts["redness"]).numpy(),
        kl=torch.cat(parts["kl"]).numpy(),
        noise_std=noise_statistics(torch.cat(parts["starts"]))["noise_std"],
        seconds_per_image=seconds / len(todo),
    )


def diversity(result: Result) -> float:
    """Mean root-mean-square difference between images of one prompt at different seeds, after averaging 4x4 pixels. 0
    if the seed changes nothing."""
    small = result.pictures.reshape(-1, 16, 4, 16, 4, 3).mean((2, 4)).reshape(len(result.pictures), -1)
    distances = []
    for _, group in groupby(range(len(result.cases)), key=lambda i: i // PER_PROMPT):
        x = small[list(group)]
        d = np.sqrt(np.square(x[:, None] - x[None]).mean(-1))
        distances.append(d[np.triu_indices(len(x), 1)].mean())
    return float(np.mean(distances))


def paired_interval(
    result: Result, base: Result, what: str = "correct", samples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """(difference of category means, low, high): 95 % paired bootstrap within categories, in units of `what`."""
    difference = getattr(result, what) - getattr(base, what)
    names = np.array([case.prompt.category for case in base.cases])
    groups = [difference[names == category] for category in CATEGORIES]
    rng = np.random.default_rng(seed)
    means = np.mean([g[rng.integers(len(g), size=(samples, len(g)))].mean(1) for g in groups], axis=0)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.mean([g.mean() for g in groups])), float(low), float(high)
