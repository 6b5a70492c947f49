"""Settings that make a run fit: each with what it needs then, those that cost least time first."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from ..settings import Message, SettingError, joined
from .count import Count, Setup, count

GIB = 2**30

SPARE = 0.5 * GIB
"""Of a device's free memory, left to what is not tensors: cuBLAS' and cuDNN's workspaces, and gaps between blocks."""


@dataclass(frozen=True)
class Switch:
    """One setting that saves memory."""

    setting: str
    """The core's name."""
    value: object
    setup: Setup
    """The run with it."""
    count: Count

    @property
    def told(self) -> Message:
        return Message(f"{{{self.setting}}} {{}}", str(self.value).lower() if self.value is True else self.value)


@dataclass(frozen=True)
class Plan:
    """Settings that were chosen, in order."""

    setup: Setup
    count: Count
    chosen: tuple[Switch, ...]

    @property
    def told(self) -> Message:
        """The settings, in words; where one was changed twice, its last value."""
        last = {switch.setting: switch.told for switch in self.chosen}
        return joined(", ", list(last.values()))


def switches(setup: Setup, known: Count, counted: Callable[[Setup], Count] = count) -> Iterator[Switch]:
    """What would change in a run whose count is `known`: one setting at a time, the least time first."""
    for setting, value, changed in _changes(setup):
        if setting in ("offload", "offload_rewards"):  # nothing but weights moves
            found = known.offloaded(setting == "offload_rewards", setting == "offload")
        elif changed.quantize and not setup.quantize:  # nothing but weights shrinks
            found = known.quantized(changed.quantize)
        else:
            found = counted(changed)
        yield Switch(setting, value, changed, found)


def fit(setup: Setup, known: Count, free: float, counted: Callable[[Setup], Count] = count) -> Plan:
    """The settings that make a run, whose count is `known`, fit into `free` bytes; none where it fits as it is.

    Raises:
        SettingError: no settings do; the message says what it needs at least, and for what.
    """
    plan = Plan(setup, known, ())
    while not fits(plan.count, free):
        better = (s for s in switches(plan.setup, plan.count, counted) if s.count.peak < plan.count.peak)
        switch = next(better, None)
        if switch is None:
            raise SettingError(
                "{model} needs {:.1f} GiB with all savings, most of it at the {}, and {:.1f} GiB are free: take "
                "smaller {height} and {width}, {hypernetwork} head with {teacher} critic, or another model",
                (plan.count.peak + SPARE) / GIB,
                plan.count.part,
                free / GIB,
            )
        plan = Plan(switch.setup, switch.count, (*plan.chosen, switch))
    return plan


def fits(known: Count, free: float) -> bool:
    return known.peak <= free - SPARE


def check_fits(setup: Setup, known: Count, free: float, counted: Callable[[Setup], Count] = count) -> None:
    """
    Raises:
        SettingError: a run, whose count is `known`, does not fit into `free` bytes; the message names settings that
            would.
    """
    if fits(known, free):
        return
    try:
        remedy = Message("set {}, as {fit} does", fit(setup, known, free, counted).told)
    except SettingError as error:
        remedy = error.args[0]
    raise SettingError(
        "{model} would need {:.1f} GiB with these settings, most of it at the {}, and {:.1f} GiB are free: {}",
        (known.peak + SPARE) / GIB,
        known.part,
        free / GIB,
        remedy,
    )


def _changes(setup: Setup) -> Iterator[tuple[str, object, Setup]]:
    """(setting, value, the run with it) of all that is still to be switched on."""
    config = setup.config
    gradient = config.teacher == "gradient"
    if not setup.offload and setup.configuration.text_encoders:
        yield "offload", True, replace(setup, offload=True)
    if not setup.vae_slicing and gradient and setup.at_a_time > 1:
        yield "vae_slicing", True, replace(setup, vae_slicing=True)
    if (at_a_time := setup.at_a_time) > config.pictures_per_prompt:
        smaller = _smaller(at_a_time, config.pictures_per_prompt)
        yield "micro_batch_size", smaller, replace(setup, config=replace(config, micro_batch_size=smaller))
    if not setup.offload_rewards and setup.rewards:
        yield "offload_rewards", True, replace(setup, offload_rewards=True)
    if not config.gradient_checkpointing and config.train_type == "noise" and config.hypernetwork == "lora":
        again = replace(config, gradient_checkpointing="hypernetwork")
        yield "gradient_checkpointing", "hypernetwork", replace(setup, config=again)
    if config.gradient_checkpointing is not True:
        yield "gradient_checkpointing", True, replace(setup, config=replace(config, gradient_checkpointing=True))
    if setup.rewards_batch is None and setup.rewards and at_a_time > 1:
        yield "rewards_batch", 1, replace(setup, rewards_batch=1)
    if not setup.vae_tiling:
        yield "vae_tiling", True, replace(setup, vae_tiling=True)
    if setup.may_quantize and setup.quantize != "nf4":  # last, since the generator then makes slightly other pictures
        if not setup.quantize:
            yield "quantize", "int8", replace(setup, quantize="int8")
        yield "quantize", "nf4", replace(setup, quantize="nf4")


def _smaller(at_a_time: int, multiple: int) -> int:
    """About half, in whole prompts."""
    return max(multiple, at_a_time // 2 // multiple * multiple)
