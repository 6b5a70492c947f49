"""`--estimate` and `--fit`: what a run needs of its device's memory, before anything is loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from hypernoise_core.planning.count import KINDS, Count, Setup, count
from hypernoise_core.planning.models import configuration_of
from hypernoise_core.planning.plan import GIB, check_fits, fit, switches
from hypernoise_core.planning.rewards import is_counted
from hypernoise_core.settings import Message, about

if TYPE_CHECKING:
    from .config import TrainArguments

FIELDS = {"gradient_checkpointing": "use_checkpoint"}
"""Settings of a plan that arguments call otherwise."""

Name = Callable[[Message], str]


def setup_of(args: TrainArguments, prompt_count: int = 1) -> Setup:
    """What of the arguments decides the memory.

    Raises:
        ValueError: a reward or the model is unknown.
    """
    with about("pipeline" if args.pipeline else "model"):
        configuration = configuration_of(args.model, args.pipeline)
    return Setup(
        configuration=configuration,
        name=args.model,
        config=args.training_config(prompt_count),
        dtype=getattr(torch, args.dtype),
        rewards=tuple(args.reward_names()),
        held_out=tuple(_names(args.held_out or "")),
        rewards_dtype=getattr(torch, args.rewards_dtype),
        judge=args.rewards_judge,
        rewards_batch=args.rewards_batch,
        offload_rewards=args.offload_rewards,
        offload=args.offload,
        quantize=args.quantize,
        may_quantize=args.generator_lora is None,
        vae_slicing=args.vae_slicing,
        vae_tiling=args.vae_tiling,
        text_length=args.text_length,
    )


def estimate(args: TrainArguments, say: Callable[[str], None], name: Name) -> None:
    """Print what the run needs, and what each switch would change; the last line is the peak."""
    setup = setup_of(args)
    found = count(setup)
    for line in table(found):
        say(line)
    for line in uncounted(args):
        say(line)
    say("")
    say("with one setting more, those that cost least time first:")
    for switch in switches(setup, found):
        saved = found.peak - switch.count.peak
        say(f"{name(switch.told):34}{switch.count.peak / GIB:8.1f} GiB{-saved / GIB:+8.1f}")
    say(f"peak {found.peak / GIB:.1f} GiB")


def table(found: Count) -> list[str]:
    """What a run needs at its peak, in GiB, and on the CPU."""
    held = found.parts[found.part]
    lines = [f"{kind:34}{held[kind] / GIB:8.2f} GiB" for kind in KINDS]
    lines.append(f"{'total, at the ' + found.part:34}{found.peak / GIB:8.2f} GiB")
    lines += [f"{'  at the ' + part:34}{sums.total() / GIB:8.2f} GiB" for part, sums in found.parts.items()]
    return [*lines, f"{'replay, in CPU memory':34}{found.replay / GIB:8.2f} GiB"]


def uncounted(args: TrainArguments) -> list[str]:
    """What of a run the count leaves out."""
    names = [name for name in (*args.reward_names(), *_names(args.held_out or "")) if not is_counted(name)]
    lines = [f"not counted: reward {name}" for name in names]
    if args.distill:
        lines.append("not counted: the hypernetwork of --distill")
    if args.diagnostics_every:
        lines.append("not counted: the measurements of --diagnostics_every")
    return lines


def fitted(args: TrainArguments, free: float, say: Callable[[str], None], name: Name) -> TrainArguments:
    """The arguments with the settings that make the run fit, with `--fit`; as they are where it fits.

    Raises:
        ValueError: it does not fit.
    """
    try:
        setup = setup_of(args)
        found = count(setup)
    except (ValueError, RuntimeError) as error:  # a family of the user's own may do what needs values
        if args.fit:
            raise ValueError(f"--fit cannot count the memory of --model {args.model}: {error}") from error
        say(f"how much memory the run needs is not known: {error}")
        return args
    for line in uncounted(args):
        say(line)
    if not args.fit:
        check_fits(setup, found, free)
        say(f"peak {found.peak / GIB:.1f} GiB of {free / GIB:.1f} GiB that are free")
        return args
    plan = fit(setup, found, free)
    changes = {FIELDS.get(switch.setting, switch.setting): switch.value for switch in plan.chosen}
    chosen = name(plan.told) if plan.chosen else "nothing: it fits as it is"
    say(f"--fit sets {chosen}; peak {plan.count.peak / GIB:.1f} GiB of {free / GIB:.1f} GiB that are free")
    return replace(args, **changes)


def free_memory(device: str) -> float | None:
    """Bytes that are free on a GPU; None for other devices."""
    return float(torch.cuda.mem_get_info(device)[0]) if torch.device(device).type == "cuda" else None


def _names(line: str) -> list[str]:
    return [part.partition("=")[0].strip() for part in line.split(",") if part.strip()]
