"""What a `Trainer` tells of itself, one event at a time."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WarmStart:
    """`done` of `total` pictures of the warm start are made; `step` is 0."""

    step: int
    done: int
    total: int


@dataclass(frozen=True)
class StepDone:
    """An optimizer step was made. Means over its pictures, float32: `loss`, `reward` (weighted), `kl` (nats for
    `sum`), `reward/<name>`, `grad_norm`, `lr`; for a noise hypernetwork `clipped` (share of samples) and `alignment`
    (cosine between residual and reward gradient: how much of the search is amortised); at the first step and every
    `diagnostics_every` steps `held_out/<name>`."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class StepSkipped:
    """A step came out non-finite and was dropped; weights and optimizer are as before it."""

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
    `validation/<name>` of every reward, `validation/diversity` and `validation/score`, by which the `best` so far is
    chosen."""

    step: int
    metrics: dict[str, float]
    best: bool


@dataclass(frozen=True)
class EarlyStop:
    """Training ends here, before `max_steps`: a last event."""

    step: int
    reason: str


Event = WarmStart | StepDone | StepSkipped | Diagnosed | Validated | EarlyStop
