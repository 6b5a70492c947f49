"""Whether a training has run away: steps too large threw the weights to where no residual is of use."""

from __future__ import annotations

import math

from ..settings import Message
from .config import TrainingConfig

OUTGROWN = 4.0
"""Norm of a residual, in norms of the noise that it moves. What is left of the noise is then a small part; a useful
residual stays far below 1."""


LARGEST = 1000.0
"""Largest weight of an adapter; useful ones stay near 1. It bounds what has no KL, a fine-tuned generator."""


class NonFiniteError(RuntimeError):
    """Several steps in a row were not finite; the message names what is at fault."""


class DivergedError(NonFiniteError):
    """The weights are of no use any more, and no step repairs them: go back to a checkpoint. The message names the
    settings to change."""


def runaway(kl: float, values: int, config: TrainingConfig) -> Message | None:
    """Why training should not go on, from the mean KL of a batch and the number of values in one noise, or None.

    Unit noise of n values has ½‖x0‖² = n / 2 on average, and the KL is ½‖Δ‖².
    """
    if math.isfinite(kl) and kl <= OUTGROWN**2 / 2 * (values if config.kl_reduction == "sum" else 1):
        return None
    return _lower_lr(Message("the residual has outgrown the noise, with a KL of {:.4g}", kl), config)


def overgrown(largest: float, config: TrainingConfig) -> Message | None:
    """As `runaway`, from the largest weight; NaN where one is not finite."""
    if largest <= LARGEST:
        return None
    return _lower_lr(Message("the weights have grown up to {:.4g}", largest), config)


def _lower_lr(what: Message, config: TrainingConfig) -> Message:
    advice = "{}: lower {lr} from {:g}, such as to {:g}, or raise {temperature} from {:g}"
    return Message(advice, what, config.lr, config.lr / 3, config.temperature)


def not_finite(what: str, config: TrainingConfig) -> Message:
    """What to do about `what`, such as `the weights`."""
    return Message("{} are not finite: lower {lr} from {:g}, or use {dtype} float32", what, config.lr)
