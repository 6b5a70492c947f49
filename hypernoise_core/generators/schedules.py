"""The sampler that goes with a few-step model or LoRA, where it is not the one of its pipeline."""

from typing import Literal

from diffusers import DiffusionPipeline

from ..settings import SettingError
from .diffusers_generator import DiffusersGenerator

Scheduler = Literal["lcm", "euler", "ddim-trailing", "tcd"]
"""Samplers by the names that model cards give them. Each family lists those that it can use in `schedulers`."""


def set_scheduler(
    pipeline: DiffusionPipeline, family: type[DiffusersGenerator], name: str | None, shift: float | None, model: str
) -> None:
    """Give a pipeline another scheduler with the noise schedule of its own.

    Args:
        name: one of `Scheduler`, or None for the pipeline's own.
        shift: the static shift of a rectified flow's noise levels, at every size, or None for the pipeline's own.
        model: its name, for messages.

    Raises:
        SettingError: the family cannot use it.
    """
    if name is not None:
        if name not in family.schedulers:
            choices = " or ".join(family.schedulers)
            remedy = f"give {choices}, or leave it out" if choices else "leave it out"
            raise SettingError("{scheduler} is {!r}, which {} cannot use: {}", name, model, remedy)
        kind, changes = family.schedulers[name]
        pipeline.register_modules(scheduler=kind.from_config(pipeline.scheduler.config, **changes))
    if shift is None:
        return
    if not shift > 0:
        raise SettingError("{shift} is {}: give a number above 0, such as 3", shift)
    if "shift" not in pipeline.scheduler.config:
        raise SettingError(
            "{shift} is {}, and {} is no rectified flow, whose noise levels could be shifted: leave it out",
            shift,
            model,
        )
    static = {"shift": shift, "use_dynamic_shifting": False, "shift_terminal": None}
    pipeline.register_modules(scheduler=type(pipeline.scheduler).from_config(pipeline.scheduler.config, **static))
