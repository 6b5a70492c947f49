"""A training step by each teacher on full-size models, counted on tensors without data: memory and arithmetic.

python -m benchmarks.teacher_counts                     # every line, into docs/models.md; minutes of one core
python -m benchmarks.teacher_counts --models sana       # these lines alone

No GPU and no weights are needed. bfloat16, redness as the reward (its models come on top of every line alike), all
activations recomputed (`--use_checkpoint`), head and critic of their default sizes, AdamW.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hypernoise_core import RewardEnsemble, Trainer, TrainingConfig, load_reward
from hypernoise_core.planning.count import CRITIC, DECODER, DENOISER, HYPERNETWORK, count_step
from hypernoise_core.planning.without_data import without_data
from train.cli import parse, run_command

from .counts import GIB, as_line, made, write_between_marks
from .full_size_models import MODELS, Model

PROG = "python -m benchmarks.teacher_counts"

MARKS = ("<!-- teachers: written by python -m benchmarks.teacher_counts -->", "<!-- end of teachers -->")

HEAD = ("", "images a step", "weights, GiB", "at most, GiB", "beside the weights, GiB", "TFLOP")

LINES = {
    "LoRA by the gradient": ("lora", "gradient"),
    "head by the gradient": ("head", "gradient"),
    "LoRA by the critic": ("lora", "critic"),
    "head by the critic": ("head", "critic"),
}

PICTURES = {"sana": (3, 18), "sana-1.6b": (3,), "sd-turbo": (3,), "sdxl-turbo": (1,), "flux": (1,)}
"""Images a step; the larger number for the critic alone."""


@dataclass(frozen=True)
class Step:
    weights: int
    """Bytes of denoiser, decoder, hypernetwork and critic."""
    peak: int
    """Bytes at most, these among them."""
    flops: int


def step(model: Model, name: str, kind: str, teacher: str, pictures: int) -> Step:
    """One step of the trainer, but for what looks at values."""
    with without_data():
        config = TrainingConfig(
            hypernetwork=kind,
            teacher=teacher,
            rank=model.rank,
            alpha=model.alpha,
            batch_size=pictures,
            gradient_checkpointing=True,
            replay=2 * pictures,
            diagnostics_every=0,
        )
        generator = made(model, name)
        trainer = Trainer(generator, RewardEnsemble([(load_reward("redness"), 1.0)]), [""], config)
        found = count_step(trainer, pictures, every_picture=True)
    weights = sum(found.parts[DENOISER][kind] for kind in (DENOISER, DECODER, HYPERNETWORK, CRITIC))
    return Step(weights, found.peak, found.flops)


def line(model: Model, name: str, title: str, pictures: int) -> str:
    found = step(model, name, *LINES[title], pictures)
    gib = [found.weights / GIB, found.peak / GIB, (found.peak - found.weights) / GIB]
    return as_line([f"{model.title}, {title}, {pictures}", str(pictures), *(f"{n:.1f}" for n in gib), tflop(found)])


def tflop(found: Step) -> str:
    return f"{found.flops / 1e12:.0f}"


@dataclass(kw_only=True)
class TeacherCountsArguments:
    """A training step by each teacher on full-size models, counted without a GPU."""

    models: str = ",".join(PICTURES)
    """Which models, by commas."""
    docs: str = "docs/models.md"
    """The page whose table these lines go into; "" for none."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: the command line's)."""
    args: TeacherCountsArguments = parse(TeacherCountsArguments, PROG, __doc__, argv)
    names = args.models.split(",")
    if unknown := [name for name in names if name not in PICTURES]:
        raise ValueError(f"no model {unknown[0]!r} in models: choose from {', '.join(PICTURES)}")
    torch.set_num_threads(1)
    print("\n".join((as_line(HEAD), as_line(["---"] * len(HEAD)))))
    for name in names:
        first, *more = PICTURES[name]
        todo = [(title, first) for title in LINES] + [("head by the critic", count) for count in more]
        for title, pictures in todo:
            own = line(MODELS[name], name, title, pictures)
            print(own, flush=True)
            if args.docs:
                write_between_marks(Path(args.docs), [own], HEAD, MARKS)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
