"""The events that a `Trainer` yields."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WarmStart:
    """`done` of `total` images are made that something learns from before the next step."""

    step: int
    done: int
    total: int
    what: str = "warm start"
    """What learns from them: the `warm start`, or the `critic`."""


@dataclass(frozen=True)
class StepDone:
    """An optimizer step was made.

    `metrics` are means over its images, in float32: `loss`, `reward` (weighted), `kl` (nats for `sum`),
    `reward/<name>`, `grad_norm`, `lr`. For a noise hypernetwork also `clipped` (share of samples) and `alignment`
    (cosine between residual and reward gradient: how much of the search it has learnt). At the first step and every
    `diagnostics_every` steps also `held_out/<name>`. By a critic also `critic/loss` (mean squared error of standardised
    scores) and `critic/bias` (what it expected of the images less what they scored). Rewards are means over the images
    that were scored.
    """

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class StepSkipped:
    """A step was not finite and was dropped. Weights and optimizer are as before it."""

    step: int
    reason: str


@dataclass(frozen=True)
class Diagnosed:
    """Measured on one batch: `kl_second_order` (½ tr J², nats), `lipschitz` (mean), `lipschitz_max`, `noise_mean`,
    `noise_std`, `noise_norm`."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class Validated:
    """Measured on prompts that are not trained on, with the same seeds every time: `validation/reward` (weighted),
    `validation/<name>` of every reward, `validation/diversity`, and `validation/score`, which decides the `best` so
    far."""

    step: int
    metrics: dict[str, float]
    best: bool


@dataclass(frozen=True)
class Notice:
    """Something that the one who trains should know; training goes on."""

    step: int
    text: str


@dataclass(frozen=True)
class EarlyStop:
    """The last event of a training that ends before `max_steps`."""

    step: int
    reason: str


Event = WarmStart | StepDone | StepSkipped | Diagnosed | Validated | Notice | EarlyStop
