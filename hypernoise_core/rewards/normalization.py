"""Bring rewards with different scales to one scale, before they are weighted and added."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

NormalizationKind = Literal["none", "reference", "running"]
"""`none` adds rewards unchanged. `reference` subtracts the reference implementation's offsets, so that minus the reward
is its loss. `running` standardises each reward by the mean and deviation of the scores that training has seen so
far."""

REFERENCE_OFFSETS = {"hpsv2": 1.0, "imagereward": 2.0, "clip": 100.0, "pickscore": 30.0}
"""The offsets in the reference implementation's losses, each of which is a weight times (offset - reward)."""


@dataclass
class Statistics:
    """Mean and variance of all values seen so far (Welford's update, in double precision)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def update(self, values: Tensor) -> None:
        for value in values.detach().double().tolist():
            if value - value != 0:  # not finite: the trainer drops the step
                continue
            self.count += 1
            delta = value - self.mean
            self.mean += delta / self.count
            self.squares += delta * (value - self.mean)

    @property
    def deviation(self) -> float:
        """The deviation, or 1 until there are enough values."""
        return max((self.squares / (self.count - 1)) ** 0.5, 1e-6) if self.count >= 8 else 1.0


@dataclass
class Normalization:
    """(score - offset) / scale, reward by reward.

    Args:
        fixed: name to (offset, scale). A reward that is not named is not changed.
        running: compute both from the scores given to `observe` instead.
    """

    fixed: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    running: bool = False
    statistics: dict[str, Statistics] = field(default_factory=dict)

    def __post_init__(self):
        for name, (offset, scale) in self.fixed.items():
            if not scale > 0:
                raise ValueError(f"the scale of reward {name!r} is {scale} (offset {offset}); it must be above 0")

    @staticmethod
    def of_kind(kind: NormalizationKind) -> "Normalization":
        if kind == "reference":
            return Normalization({name: (offset, 1.0) for name, offset in REFERENCE_OFFSETS.items()})
        return Normalization(running=kind == "running")

    def observe(self, name: str, scores: Tensor) -> None:
        """Add a training batch's scores [B] to the running statistics."""
        if self.running:
            self.statistics.setdefault(name, Statistics()).update(scores)

    def __call__(self, name: str, scores: Tensor) -> Tensor:
        if self.running:
            seen = self.statistics.get(name, Statistics())
            return (scores - seen.mean) / seen.deviation
        offset, scale = self.fixed.get(name, (0.0, 1.0))
        return (scores - offset) / scale

    def state_dict(self) -> dict:
        """Plain numbers, for a checkpoint."""
        return {name: [s.count, s.mean, s.squares] for name, s in self.statistics.items()}

    def load_state_dict(self, state: dict) -> None:
        self.statistics = {name: Statistics(int(n), mean, squares) for name, (n, mean, squares) in state.items()}
