"""The memory of every recipe, and of those runs that there is an aim for, counted on tensors without data, into
docs/training.md.

python -m benchmarks.memory_table                            # minutes of one core a recipe
python -m benchmarks.memory_table --recipes sana-head,flux   # these lines alone
python -m benchmarks.memory_table --recipes "" --aims all    # the aims alone; --aims sana,flux for some
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch

from hypernoise_core.generators.quantized import Quantize
from hypernoise_core.planning.count import Count, Setup, count
from train.cli import parse, run_command
from train.config import RECIPES, TrainArguments
from train.estimate import setup_of

from .counts import GIB, as_line, write_between_marks

PROG = "python -m benchmarks.memory_table"

PACKED: tuple[Quantize, ...] = ("int8", "nf4")

MARKS = ("<!-- memory: written by python -m benchmarks.memory_table -->", "<!-- end of memory -->")

HEAD = (
    "recipe",
    "images at a time",
    "peak, GiB",
    "at",
    "one image at a time, all offloaded: peak, GiB",
    "at",
    "with int8",
    "with nf4",
    "replay on the CPU, GiB",
)

AIM_MARKS = ("<!-- memory aims: written by python -m benchmarks.memory_table -->", "<!-- end of memory aims -->")

AIM_HEAD = ("run, with the paper's four rewards", "peak, GiB", "at", "aim, GiB")


@dataclass(frozen=True)
class Aim:
    """The most memory that a run is to take, all in its turn."""

    recipe: str
    images: int
    """At a time."""
    gib: float
    quantize: Quantize | None = None
    size: int | None = None
    """Side of the images, where it is not the recipe's."""
    more: str = ""
    """What else is given on the command line."""

    def setup(self) -> Setup:
        given = ["--rewards_dtype", "bfloat16", "--rewards", "hpsv2,imagereward,clip,pickscore", *self.more.split()]
        if self.size:
            given += ["--height", str(self.size), "--width", str(self.size)]
        args: TrainArguments = parse(TrainArguments, PROG, "", given, str(path_of(self.recipe)))
        setup = setup_of(replace(args, use_checkpoint=True))
        config = replace(
            setup.config, micro_batch_size=self.images, batch_size=max(self.images, setup.config.batch_size)
        )
        return replace(setup, config=config, offload=True, offload_rewards=True)


AIMS = (
    Aim("sana-head", 3, 6),
    Aim("sana-head", 18, 8),
    Aim("sd-turbo-head", 3, 6),
    Aim("flux-head", 1, 12, "nf4", 1024),
    Aim("flux-head", 1, 18, "int8", 1024),
    Aim("z-image-turbo-head", 1, 17),
    Aim("z-image-turbo-head", 1, 9, "nf4"),
    Aim("qwen-image-head", 1, 16, "nf4"),
    Aim("sana", 3, 14),
    Aim("sana", 1, 8),
    Aim("sana", 1, 8, more="--vae_tiling true"),
    Aim("sd-turbo", 3, 8),
    Aim("sd-turbo", 3, 8, more="--optim adamw8bit"),
    Aim("flux", 1, 15, "nf4", 512),
    Aim("flux", 1, 15, "nf4", 512, "--optim adamw8bit"),
)


def aim_lines(aims: Sequence[Aim]) -> Iterator[str]:
    """Each aim, and what is counted."""
    known: dict[Aim, Count] = {}
    for aim in aims:
        plain = replace(aim, gib=0, quantize=None)
        if plain not in known:
            known[plain] = count(aim.setup())
        found = known[plain].quantized(aim.quantize) if aim.quantize else known[plain]
        size = f" at {aim.size}²" if aim.size else ""
        run = f"`{aim.recipe}`{size}, {aim.images} at a time, {aim.quantize or 'bfloat16'}"
        run += f", `{aim.more}`" if aim.more else ""
        yield as_line([run, f"{found.peak / GIB:.1f}", found.part, f"{aim.gib:g}"])


def line(recipe: str) -> str:
    """One recipe as it stands, with its rewards in bfloat16, and with what saves most at no cost in quality."""
    args: TrainArguments = parse(TrainArguments, PROG, "", ["--rewards_dtype", "bfloat16"], str(path_of(recipe)))
    setup = setup_of(args)
    whole = count(setup)
    one = replace(setup, config=replace(setup.config, micro_batch_size=1), offload=True, offload_rewards=True)
    least = count(one)
    cells = [f"`{recipe}`", str(setup.at_a_time), f"{whole.peak / GIB:.1f}", whole.part]
    packed = [f"{least.quantized(kind).peak / GIB:.1f}" for kind in PACKED]
    return as_line([*cells, f"{least.peak / GIB:.1f}", least.part, *packed, f"{least.replay / GIB:.1f}"])


def path_of(recipe: str) -> Path:
    return RECIPES / f"{recipe}.yaml"


@dataclass(kw_only=True)
class MemoryTableArguments:
    """The memory of every recipe, counted without a GPU."""

    MAY_BE_EMPTY: ClassVar = ("recipes", "aims", "docs")

    recipes: str = (
        "sana,sana-head,sd-turbo,sd-turbo-head,flux,flux-head,z-image-turbo-head,flux2-klein-4b-head,krea2-turbo-head,"
        "qwen-image-head,sd3.5-turbo-head"
    )
    """Which recipes, by commas."""
    aims: str = ""
    """Recipes whose aims are counted, by commas, or all."""
    docs: str = "docs/training.md"
    """The page whose table these lines go into; "" for none."""

    def __post_init__(self):
        for recipe in _named(self.recipes):
            if not path_of(recipe).is_file():
                raise ValueError(f"--recipes names {recipe!r}, and there is no {path_of(recipe)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: the command line's)."""
    args: MemoryTableArguments = parse(MemoryTableArguments, PROG, __doc__, argv)
    torch.set_num_threads(1)
    for recipe in _named(args.recipes):
        _write(line(recipe), args.docs, HEAD, MARKS)
    for own in aim_lines([aim for aim in AIMS if args.aims == "all" or aim.recipe in _named(args.aims)]):
        _write(own, args.docs, AIM_HEAD, AIM_MARKS)


def _write(own: str, docs: str, head: Sequence[str], marks: tuple[str, str]) -> None:
    print(own, flush=True)
    if docs:
        write_between_marks(Path(docs), [own], head, marks)


def _named(names: str) -> list[str]:
    return [name for name in names.split(",") if name]


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
