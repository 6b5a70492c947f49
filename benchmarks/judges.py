"""The memory of the rewards that are vision-language models, counted on tensors without data, into docs/rewards.md.

python -m benchmarks.judges                                # two minutes of one core
python -m benchmarks.judges --judges hpsv3 --side 512

One image is scored under one prompt of 128 tokens. `peak` is weights and activations. Weights of 8 and 4 bits are
arithmetic: those of linears, but for the layer that writes words, take 1 byte, or 4 bits and a float32 scale for each
64 of them (`--rewards_quantize`). Their peak adds the activations and, with 4 bits, the largest linear's weights in 16
bits, which are made anew for each multiplication.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hypernoise_core.planning.counter import Counter
from hypernoise_core.planning.judges import JUDGES, CountedJudge, quantized_bytes, qwen2_vl_7b
from hypernoise_core.planning.models import default_dtype
from hypernoise_core.planning.rewards import tensors_of
from hypernoise_core.planning.without_data import without_data
from train.cli import parse, run_command

from .counts import GIB, as_line, write_between_marks

PROG = "python -m benchmarks.judges"

MARKS = ("<!-- judges: written by python -m benchmarks.judges -->", "<!-- end of judges -->")

HEAD = ("model", "parameters", "weights, GiB", "peak, GiB", "TFLOP an image", "peak in int8, GiB", "peak in nf4, GiB")

INT8, NF4 = 8.0, 4.5
"""Bits of a weight."""

HPSV3 = "hpsv3"


def line(name: str, side: int) -> str:
    """One judge in bfloat16, and in fewer bits."""
    with without_data():
        with default_dtype(torch.bfloat16):
            judge = CountedJudge(HPSV3, qwen2_vl_7b()) if name == HPSV3 else CountedJudge("vqa", JUDGES[name]())
        counter = Counter(tensors_of(judge))
        weights, images, text = counter.now, torch.rand(1, 3, side, side), judge.encode_text(["one"])
        with counter:
            judge.score(images, text)
        activations = counter.peak - weights
        largest = max(m.weight.numel() for m in judge.model.model.modules() if isinstance(m, nn.Linear))
        peaks = (
            counter.peak,
            quantized_bytes(judge.model, INT8) + activations,
            quantized_bytes(judge.model, NF4) + activations + 2 * largest,
        )
        parameters = sum(p.numel() for p in judge.model.parameters())
    cells = [f"`{name}`", f"{parameters / 1e9:.2f} B", f"{weights / GIB:.1f}", f"{peaks[0] / GIB:.1f}"]
    return as_line([*cells, f"{counter.flops / 1e12:.1f}", *(f"{peak / GIB:.1f}" for peak in peaks[1:])])


@dataclass(kw_only=True)
class JudgeArguments:
    """The memory of the rewards that are vision-language models, counted without a GPU."""

    judges: str = ",".join((*JUDGES, HPSV3))
    """Which of them, by commas."""
    side: int = 1024
    """Of the image, in pixels."""
    docs: str = "docs/rewards.md"
    """The page whose table these lines go into; "" for none."""

    def __post_init__(self):
        for name in self.judges.split(","):
            if name not in (*JUDGES, HPSV3):
                raise ValueError(f"--judges names {name!r}: choose from {', '.join((*JUDGES, HPSV3))}")
        if self.side < 64:
            raise ValueError(f"--side is {self.side}: give at least 64")


def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: the command line's)."""
    args: JudgeArguments = parse(JudgeArguments, PROG, __doc__, argv)
    torch.set_num_threads(1)
    print("\n".join((as_line(HEAD), as_line(["---"] * len(HEAD)))))
    for name in args.judges.split(","):
        own = line(name, args.side)
        print(own, flush=True)
        if args.docs:
            write_between_marks(Path(args.docs), [own], HEAD, MARKS)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
