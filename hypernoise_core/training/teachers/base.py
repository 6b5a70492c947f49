"""The protocol of a teacher."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...batch import TensorBatch
from ...settings import Message


@dataclass(frozen=True)
class Lesson:
    """A micro-batch to learn from."""

    x0: Tensor
    """Unit noise as it was drawn, [B, C, h, w]."""
    conditioning: TensorBatch
    text: TensorBatch
    """The prompts as the reward encodes them."""
    seeds: Sequence[int]
    """Of the noise between denoiser calls, one of each picture."""
    before: Tensor
    """Readings that each noise has behind it when it is learnt from, [B], on the CPU."""
    remaining: Tensor
    """Readings that are still to come, this one included, [B], on the CPU."""
    scored: Sequence[bool]
    """Whether each picture is to be drawn and scored."""


@dataclass(frozen=True)
class Judged:
    """What a teacher says of noises."""

    value: Tensor
    """What the hypernetwork climbs, [B], in the reward's units; differentiable in the noise."""
    rows: Tensor
    """Which of them have pictures with a score, [S]."""
    reward: Tensor
    """What the reward says of those, [S]."""
    scores: dict[str, Tensor]
    """Each reward's own, [S]."""
    images: Tensor
    """The pictures, [S, 3, H, W] in [0, 1], without gradients."""


class Teacher(ABC):
    """Trainer, KL, clip, iterates and kinds of hypernetworks do not know which one it is.

    One that learns itself has a state of its own. The others inherit that there is none.
    """

    watched: int = 0
    """Pictures of its warm-up that it has seen, over all processes."""

    @abstractmethod
    def judge(self, start: Tensor, lesson: Lesson) -> Judged:
        """Of pictures that start from the moved noise `start` [B, C, h, w]."""

    @property
    def warm_up_left(self) -> int:
        """Pictures that it must see before it can teach."""
        return 0

    def watch(self, lesson: Lesson) -> None:  # noqa: B027, most have none
        """See pictures of noise as it was drawn, during the warm-up."""

    def fault(self) -> Message | None:
        """What its warm-up showed to be wrong, told once, and in all processes alike."""
        return None

    def learn(self, seed: int) -> dict[str, float]:
        """Learn from what it has judged or watched since the last call; metrics of that. All processes call it."""
        return {}

    def mark(self) -> Any:
        """What `go_back` needs to undo everything up to the next `learn`, that one included."""
        return None

    def go_back(self, mark: Any) -> None:  # noqa: B027
        """Be as at `mark`."""

    def state(self) -> dict[str, Tensor]:
        """Everything to resume from."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> list[Message]:
        """Take over what `state` returned; what could not be, in words."""
        return []
