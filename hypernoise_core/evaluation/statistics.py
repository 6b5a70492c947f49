"""Means over categories, and intervals for the difference between two ways of making the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Interval:
    """A difference of means and its 95 % interval."""

    difference: float
    low: float
    high: float


def mean_of_groups(groups: Sequence[np.ndarray]) -> float:
    """The mean of the groups' means, whatever their sizes."""
    return float(np.mean([group.mean() for group in groups]))


def paired_interval(groups: Sequence[np.ndarray], samples: int = 2000, seed: int = 0) -> Interval:
    """Paired bootstrap of `mean_of_groups`, within groups.

    Args:
        groups: the differences of each category, one number per prompt: images of one prompt are not independent, so
            prompts are resampled as a whole.
    """
    random = np.random.default_rng(seed)
    means = np.zeros(samples)
    for group in groups:
        means += group[random.integers(len(group), size=(samples, len(group)))].mean(1) / len(groups)
    low, high = np.quantile(means, (0.025, 0.975))
    return Interval(mean_of_groups(groups), float(low), float(high))
