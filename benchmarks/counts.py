"""Arithmetic, files and memory of hypernetworks on full-size models, counted on tensors without data.

python -m benchmarks.counts                     # every family, into docs/models.md; a quarter of an hour of one core
python -m benchmarks.counts --models sana,flux  # these lines alone

No GPU and no weights are needed. One image at the model's own size, bfloat16, the paper's rank and optimizer, redness
as the reward, all activations recomputed (`--use_checkpoint`). The head has its default size. A training step is the
trainer's own, with the gradient through decoder and reward.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hypernoise_core import NoiseHypernetwork, RewardEnsemble, Trainer, TrainingConfig, load_reward
from hypernoise_core.files import replacing
from hypernoise_core.generators import DiffusersGenerator
from hypernoise_core.hypernetworks.head import HeadHypernetwork
from hypernoise_core.planning.counter import Counter
from hypernoise_core.planning.models import build, countable
from hypernoise_core.planning.without_data import without_data
from hypernoise_core.training.teachers import Lesson
from train.cli import parse, run_command

from .full_size_models import MODELS, Model

PROG = "python -m benchmarks.counts"

GIB = 2**30

MARKS = ("<!-- counts: written by python -m benchmarks.counts -->", "<!-- end of counts -->")
"""What the table stands between in the docs."""

KINDS = ("lora", "head")


@dataclass(frozen=True)
class Row:
    """What a kind of hypernetwork costs on a model."""

    calls: float
    """Arithmetic of f, in calls of the denoiser."""
    own: float
    """Of it, what is f's alone: without the denoiser's call that it reads."""
    coarse_calls: float
    """As `calls`, where it sees 2x2 latent cells as one."""
    parameters: int
    weights: int
    """Bytes of denoiser, decoder and hypernetwork."""
    peak: int
    """Bytes that a training step needs at most, the weights among them."""
    step: int
    """Floating-point operations of a training step."""


def made(model: Model, name: str) -> DiffusersGenerator:
    """The model in bfloat16, without what reads images; inside `without_data` it takes no memory."""
    generator = countable(build(model, name, torch.bfloat16))
    del generator.autoencoder.encoder
    return generator


def flops(work: Callable[[], object]) -> int:
    with Counter() as counter:
        work()
    return counter.flops


def counted(model: Model, name: str) -> dict[str, Row]:
    """Every kind of hypernetwork on one model."""
    with without_data():
        generator = made(model, name)
        return {kind: row(model, generator, kind) for kind in KINDS}


def row(model: Model, generator: DiffusersGenerator, kind: str) -> Row:
    trainer = Trainer(generator, RewardEnsemble([(load_reward("redness"), 1.0)]), [""], training(model, kind))
    f, x0, conditioning = trainer.adapter, generator.noise(1), generator.encode([""])
    call, own = call_and_head(f) if isinstance(f, HeadHypernetwork) else (denoiser_call(generator), 0)
    with torch.no_grad():
        calls = call + own if own else flops(lambda: f(x0, conditioning))
        small = coarsened(f)
        coarse = flops(lambda: small(x0, conditioning))
    frozen = [*generator.denoiser.parameters(), *generator.autoencoder.parameters()]
    counter = Counter([*frozen, *f.network.parameters(), *f.network.buffers()])
    weights = counter.now
    training_step(trainer, counter)
    parameters = sum(p.numel() for p in trainer.parameters)
    return Row(calls / call, own / call, coarse / call, parameters, weights, counter.peak, counter.flops)


@torch.no_grad()
def denoiser_call(generator: DiffusersGenerator) -> int:
    """Operations of one call, at the model's own size."""
    x0, conditioning = generator.noise(1), generator.encode([""])
    return flops(lambda: generator.first_call(generator.denoiser, x0, conditioning))


@torch.no_grad()
def call_and_head(head: HeadHypernetwork) -> tuple[int, int]:
    """Operations of the denoiser's call that a head reads, and of the head itself."""
    x0, conditioning = head.generator.noise(1), head.generator.encode([""])
    readings = []
    call = flops(lambda: readings.append(head.generator.read(x0, conditioning)))
    return call, flops(lambda: head.network(x0, readings[0]))


def coarsened(f: NoiseHypernetwork) -> NoiseHypernetwork:
    """A new one of the same kind that sees 2x2 cells as one."""
    if isinstance(f, HeadHypernetwork):
        return HeadHypernetwork.new(f.generator, f.info.shape.width, f.info.shape.depth, coarsen=2)
    f.coarsen = 2
    return f


def training(model: Model, kind: str) -> TrainingConfig:
    """The paper's settings for the LoRA; the head is trained by AdamW."""
    return TrainingConfig(
        hypernetwork=kind,
        rank=model.rank,
        alpha=model.alpha,
        optimizer=model.optimizer if kind == "lora" else "adamw",
        batch_size=1,
        gradient_checkpointing=True,
        diagnostics_every=0,
    )


def training_step(trainer: Trainer, counter: Counter) -> None:
    """What the trainer does in its first step, but for what looks at values: drawing, logging, the finite check."""
    x0, conditioning, text = trainer.generator.noise(1), trainer._conditioning.rows([0]), trainer._text.rows([0])
    trainer.adapter.coarsen = 1
    trainer._read_before = lambda f, part: part.x0
    one = torch.ones(1, dtype=torch.long)
    with counter:
        trainer._forward_backward(Lesson(x0, conditioning, text, [0], one - 1, one, [True]))
        nn.utils.clip_grad_norm_(trainer.parameters, 1.0)
        trainer.optimizer.step()


HEAD = (
    "",
    "f, in denoiser calls",
    "the head alone",
    "f at `--coarsen 2`",
    "parameters",
    "file",
    "weights, GiB",
    "a step at most, GiB",
    "a step, TFLOP",
)


def lines_of(model: Model, rows: dict[str, Row]) -> list[str]:
    """Markdown, a line for each kind."""
    lines = []
    for kind, r in rows.items():
        title = f"{model.title}, {'LoRA' if kind == 'lora' else 'head'}"
        million, megabytes = r.parameters / 1e6, 4 * r.parameters / 1e6  # files are float32
        cells = [title, f"{r.calls:.2f}", f"{r.own:.2%}" if r.own else "–", f"{r.coarse_calls:.2f}"]
        cells += [f"{million:.1f} M", f"{megabytes:,.0f} MB"]
        cells += [f"{r.weights / GIB:.1f}", f"{r.peak / GIB:.1f}", f"{r.step / 1e12:.0f}"]
        lines.append(as_line(cells))
    return lines


def as_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def write_between_marks(
    path: Path, lines: Sequence[str], head: Sequence[str] = HEAD, marks: tuple[str, str] = MARKS
) -> None:
    """Put lines of the table in the place of those with the same titles, or below.

    Raises:
        ValueError: the file does not have the marks.
    """
    page, (first, last) = path.read_text("utf-8"), marks
    if first not in page or last not in page:
        raise ValueError(f"{path} has no lines {first!r} and {last!r} to write between: put them where the table goes")
    before, rest = page.split(first, 1)
    old, after = rest.split(last, 1)
    kept = {line.split("|")[1]: line for line in old.strip().splitlines()[2:]}
    kept |= {line.split("|")[1]: line for line in lines}
    whole = [first, as_line(head), as_line(["---"] * len(head)), *kept.values(), last]
    with replacing(path) as temporary:
        temporary.write_text(before + "\n".join(whole) + after, "utf-8")


@dataclass(kw_only=True)
class CountsArguments:
    """Arithmetic, files and memory of hypernetworks on full-size models, counted without a GPU."""

    models: str = "sana,sana-1.6b,sd-turbo,sdxl-turbo,flux"
    """Which models, by commas."""
    docs: str = "docs/models.md"
    """The page whose table these lines go into; "" for none."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: the command line's)."""
    args: CountsArguments = parse(CountsArguments, PROG, __doc__, argv)
    names = args.models.split(",")
    if unknown := [name for name in names if name not in MODELS]:
        raise ValueError(f"no model {unknown[0]!r} in models: choose from {', '.join(MODELS)}")
    torch.set_num_threads(1)
    print("\n".join((as_line(HEAD), as_line(["---"] * len(HEAD)))))
    for name in names:
        lines = lines_of(MODELS[name], counted(MODELS[name], name))
        print("\n".join(lines), flush=True)
        if args.docs:
            write_between_marks(Path(args.docs), lines)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
