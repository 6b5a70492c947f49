"""Everything that a `Trainer` must save to resume as if it had not been stopped, and which settings may change in
between."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..hypernetworks.adapter_file import denoiser_fingerprint, layers_fingerprint
from ..settings import Message, SettingError, joined
from . import processes
from .optimizers import load_optimizer_tensors, optimizer_tensors
from .trainer import Trainer, copy_
from .validation import Progress

FIXED = {
    "train_type": "another kind of adapter",
    "hypernetwork": "another kind of hypernetwork",
    "head_width": "its weights have another shape",
    "head_depth": "its weights have another shape",
    "head_reads": "its weights have another shape",
    "coarsen": "its weights have another shape",
    "teacher": "what it knows is learnt from the first step on",
    "scores": "the critic has learnt from others",
    "critics": "the critic's weights have another shape",
    "critic_width": "the critic's weights have another shape",
    "critic_depth": "the critic's weights have another shape",
    "start_sha256": "it began from another file",
    "distill_sha256": "its first steps followed another file",
    "distill_steps": "its first steps followed a file for another time",
    "rank": "its weights have another shape",
    "alpha": "every weight would count differently at once",
    "last_layer": "it is built into the weights",
    "optimizer": "its memory is of another kind",
    "seed": "order and noise follow from it",
    "warm_start_pictures": "the warm start is made or half made",
    "denoiser_sha256": "the adapter does not fit another denoiser",
}
"""Settings that cannot change in a run, and why."""


@dataclass(frozen=True)
class TrainerState:
    """The state of a trainer between two events."""

    tensors: dict[str, Tensor]
    """`weights/…`, `average/…`, `optimizer/…`, `order/…`, `random/…`, `teacher/…`, `warm_start/…`."""
    values: dict[str, Any] = field(default_factory=dict)
    """For JSON: counters, the state of validation, and `run`: the settings of the run."""

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors under `name/`."""
        return {k.removeprefix(f"{name}/"): t for k, t in self.tensors.items() if k.startswith(f"{name}/")}


def trainer_state(trainer: Trainer) -> TrainerState:
    """The current state. All processes must call it. The tensors are the trainer's own: write them before training
    continues."""
    weights = trainer.adapter.named_parameters()
    average = dict(zip(weights, trainer.average, strict=True)) if trainer.average is not None else {}
    groups: dict[str, dict[str, Tensor]] = {
        "weights": {name: parameter.detach() for name, parameter in weights.items()},
        "average": average,
        "optimizer": optimizer_tensors(trainer.optimizer),
        "order": {str(i): torch.tensor(left, dtype=torch.int64) for i, left in enumerate(trainer.order.state())},
        "random": {"draws": trainer.random.get_state()} | _global_random_states(),
        "teacher": trainer.teacher.state(),
    }
    if trainer.regression is not None:
        # Sums over processes: the first process takes them all.
        gram, cross = trainer.regression.gram.clone(), trainer.regression.cross.clone()
        processes.sum_([gram, cross])
        groups["warm_start"] = {"gram": gram, "cross": cross}
    values = {
        "step": trainer.step,
        "warm_start_done": trainer.warm_start_done,
        "skipped_in_a_row": trainer.skipped_in_a_row,
        "diagnosed": trainer.diagnosed,
        "validated": trainer.validated,
        "stop_reason": trainer.stop_reason,
        "validation": asdict(trainer.validation.progress) if trainer.validation else None,
        "normalization": trainer.reward.normalization.state_dict(),
        "run": describe(trainer),
    }
    return TrainerState({f"{name}/{key}": t for name, own in groups.items() for key, t in own.items()}, values)


def load_trainer_state(trainer: Trainer, state: TrainerState) -> list[Message]:
    """Resume from `state`. All processes must call it. Returns the changed settings, one line each.

    Raises:
        SettingError: settings changed that must not change; all of them are named, and the trainer is unchanged.
    """
    values, changes = state.values, changed(state.values["run"], describe(trainer))
    if refused := [
        Message(f"{{{key}}} is {{}}, the checkpoint has {{}}: {{}}", new, old, FIXED[key])
        for key, old, new in changes
        if key in FIXED
    ]:
        raise SettingError(
            "you cannot resume with these changes ({}): undo them, or start a new run", joined("; ", refused)
        )
    weights = state.part("weights")
    copy_(trainer.parameters, [weights[name] for name in trainer.adapter.named_parameters()])
    if trainer.average is not None:
        average = state.part("average") or weights
        copy_(trainer.average, [average[name] for name in trainer.adapter.named_parameters()])
    load_optimizer_tensors(trainer.optimizer, state.part("optimizer"))
    random = state.part("random")
    trainer.random.set_state(random["draws"])
    _set_global_random_states(random)
    keys = {key for key, _, _ in changes}
    if "prompts" not in keys:
        order = state.part("order")
        trainer.order.load_state([order[str(i)].tolist() for i in range(len(order))])
    _load_warm_start(trainer, state)
    trainer.step, trainer.skipped_in_a_row = values["step"], values["skipped_in_a_row"]
    trainer.diagnosed, trainer.validated = values["diagnosed"], values["validated"]
    if not keys & {"patience", "diversity_floor"}:
        trainer.stop_reason = values["stop_reason"]
    if trainer.validation and values["validation"] and not keys & MEASURED_WITH:
        trainer.validation.progress = Progress(**values["validation"])
    trainer.reward.normalization.load_state_dict(values["normalization"])
    told = trainer.teacher.load_state(state.part("teacher")) if state.part("teacher") else []
    notes = NOTES | dict.fromkeys(MEASURED_WITH if trainer.validation else (), " (validation begins anew)")
    return told + [Message(f"{{{key}}}: {{}} -> {{}}{{}}", old, new, notes.get(key, "")) for key, old, new in changes]


MEASURED_WITH = {"rewards", "held_out", "validation_prompts", "iterations", "steps", "between_steps", "height", "width"}
"""Settings that decide what validation measures: scores with different ones are not compared."""

NOTES = {
    "prompts": " (a new pass begins)",
    "max_steps": " (the learning rate's decay moves with it)",
    "ema_decay": " (an average that is not in the checkpoint begins at its weights)",
}
"""The consequence of a change, if it is not obvious."""


def describe(trainer: Trainer) -> dict[str, Any]:
    """The settings of a run, flat, as they are compared on resume."""
    generator = trainer.generator
    fingerprint = layers_fingerprint if trainer.adapter.kind == "head" else denoiser_fingerprint
    return {
        **asdict(trainer.config),
        "generator": generator.name,
        "start_sha256": trainer.start_sha256[:12] or "none",
        "distill_sha256": trainer.distill_sha256[:12] or "none",
        "denoiser_sha256": fingerprint(generator.denoiser),
        "text_length": generator.text_length,
        "dtype": str(generator.denoiser.dtype).removeprefix("torch."),
        "prompts": f"{sum(trainer.prompts.sizes)} prompts, {trainer.prompts.sha256[:12]}",
        "validation_prompts": trainer.validation.prompts_sha256[:12] if trainer.validation else "",
        "rewards": ",".join(f"{name}={weight:g}" for name, weight in trainer.reward.weights.items()),
        "held_out": ",".join(trainer.reward.held_out),
        "scores": f"{len(trainer.scored)} rows, {trainer.scored.sha256[:12]}" if trainer.scored else "",
    }


def changed(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old, new) wherever two descriptions differ. A key that one of them lacks was added to the program since,
    and does not count as a change."""
    return [(key, old[key], new[key]) for key in new if key in old and old[key] != new[key]]


def _load_warm_start(trainer: Trainer, state: TrainerState) -> None:
    trainer.warm_start_done = state.values["warm_start_done"]
    sums = state.part("warm_start")
    if not sums:
        trainer.regression = None
        return
    assert trainer.regression is not None
    mine = 1.0 if processes.rank() == 0 else 0.0
    trainer.regression.gram = sums["gram"].to(trainer.regression.gram) * mine
    trainer.regression.cross = sums["cross"].to(trainer.regression.cross) * mine


def _global_random_states() -> dict[str, Tensor]:
    """torch's global random state in every process. The trainer does not draw from it, but a user's reward may."""
    own = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        own["cuda"] = torch.cuda.get_rng_state()
    gathered = processes.gather(own)
    return {f"{kind}/{rank}": state for rank, states in enumerate(gathered) for kind, state in states.items()}


def _set_global_random_states(random: dict[str, Tensor]) -> None:
    rank = processes.rank()
    if f"cpu/{rank}" in random:
        torch.set_rng_state(random[f"cpu/{rank}"])
    if f"cuda/{rank}" in random and torch.cuda.is_available():
        torch.cuda.set_rng_state(random[f"cuda/{rank}"])
