"""The memory of every recipe, counted on tensors without data, into docs/training.md.

python -m benchmarks.memory_table                            # minutes of one core a recipe
python -m benchmarks.memory_table --recipes sana-head,flux   # these lines alone
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hypernoise_core.planning.count import count
from train.cli import parse, run_command
from train.config import RECIPES, TrainArguments
from train.estimate import setup_of

from .counts import GIB, as_line, write_between_marks

PROG = "python -m benchmarks.memory_table"

MARKS = ("<!-- memory: written by python -m benchmarks.memory_table -->", "<!-- end of memory -->")

HEAD = (
    "recipe",
    "images at a time",
    "peak, GiB",
    "at",
    "one image at a time, all offloaded: peak, GiB",
    "at",
    "replay on the CPU, GiB",
)


def line(recipe: str) -> str:
    """One recipe as it stands, with its rewards in bfloat16, and with what saves most at no cost in quality."""
    args: TrainArguments = parse(TrainArguments, PROG, "", ["--rewards_dtype", "bfloat16"], str(path_of(recipe)))
    setup = setup_of(args)
    whole = count(setup)
    one = replace(setup, config=replace(setup.config, micro_batch_size=1), offload=True, offload_rewards=True)
    least = count(one)
    cells = [f"`{recipe}`", str(setup.at_a_time), f"{whole.peak / GIB:.1f}", whole.part]
    return as_line([*cells, f"{least.peak / GIB:.1f}", least.part, f"{least.replay / GIB:.1f}"])


def path_of(recipe: str) -> Path:
    return RECIPES / f"{recipe}.yaml"


@dataclass(kw_only=True)
class MemoryTableArguments:
    """The memory of every recipe, counted without a GPU."""

    recipes: str = (
        "sana,sana-head,sd-turbo,sd-turbo-head,flux,flux-head,z-image-turbo-head,flux2-klein-4b-head,krea2-turbo-head,"
        "qwen-image-head,sd3.5-turbo-head"
    )
    """Which recipes, by commas."""
    docs: str = "docs/training.md"
    """The page whose table these lines go into; "" for none."""

    def __post_init__(self):
        for recipe in self.recipes.split(","):
            if not path_of(recipe).is_file():
                raise ValueError(f"--recipes names {recipe!r}, and there is no {path_of(recipe)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: the command line's)."""
    args: MemoryTableArguments = parse(MemoryTableArguments, PROG, __doc__, argv)
    torch.set_num_threads(1)
    print("\n".join((as_line(HEAD), as_line(["---"] * len(HEAD)))))
    for recipe in args.recipes.split(","):
        own = line(recipe)
        print(own, flush=True)
        if args.docs:
            write_between_marks(Path(args.docs), [own], HEAD, MARKS)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
