"""A training step of the LoRA beside the head's, by the gradient and by a critic, on one small SANA-Sprint pipeline.

Weights are random.

python -m benchmarks.step_by_kind                     # one CPU thread, half a minute
python -m benchmarks.step_by_kind --batch_size 16 --repeats 21

Kinds take turns in one run, forwards and backwards, and the time is this process's own: other work on the machine falls
on all alike. The head is as wide against this denoiser as its default is against SANA-Sprint 0.6B.
"""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import AutoencoderDC

from hypernoise_core import RewardEnsemble, Trainer, TrainingConfig, load_reward
from hypernoise_core.generators import DiffusersGenerator
from hypernoise_core.planning.counter import Counter
from hypernoise_core.planning.models import build
from hypernoise_core.planning.released import Configuration, sana_pipeline, sana_transformer
from hypernoise_core.training.teachers import CriticTeacher
from train.cli import parse, run_command

from .training_step import SavedMemory

PROG = "python -m benchmarks.step_by_kind"

KINDS = {
    "LoRA": {"hypernetwork": "lora"},
    "LoRA, f recomputed": {"hypernetwork": "lora", "gradient_checkpointing": "hypernetwork"},
    "head": {"hypernetwork": "head"},
    "LoRA by the critic": {"hypernetwork": "lora", "teacher": "critic"},
    "head by the critic": {"hypernetwork": "head", "teacher": "critic"},
    "head, critic, recomputed": {"hypernetwork": "head", "teacher": "critic", "gradient_checkpointing": True},
}
"""Rows, and what is set for each."""


@dataclass(kw_only=True)
class StepByKindArguments:
    """A training step of the LoRA beside the head's."""

    batch_size: int = 2
    """Images per training step."""
    rank: int = 32
    """Of the LoRA."""
    head_width: int = 64
    """Of the head's layers, and of the critic's."""
    repeats: int = 11
    """Steps of each kind that are timed."""


@dataclass(frozen=True)
class Memory:
    kept: int
    """Most bytes that autograd keeps for the backward pass at a time."""
    peak: int
    """Most bytes of all tensors: weights, gradients and optimizer state too."""


def small_autoencoder(channels: tuple[int, ...] = (32, 64, 128, 128)) -> AutoencoderDC:
    blocks = "ResBlock", "ResBlock", "ResBlock", "EfficientViTBlock"
    return AutoencoderDC(
        latent_channels=32,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=(1,) * 4,
        decoder_layers_per_block=(1,) * 4,
        encoder_qkv_multiscales=((), (), (), (5,)),
        decoder_qkv_multiscales=((), (), (), (5,)),
        scaling_factor=0.41407,
    )


SMALL = Configuration(lambda: sana_transformer(8, 8, 4), small_autoencoder, sana_pipeline, ())
"""16x16 latents for images of 128 pixels, eight layers of width 256."""


def small_generator() -> DiffusersGenerator:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        generator = build(SMALL, "small-sana")
    del generator.autoencoder.encoder
    return generator


def trainers(args: StepByKindArguments) -> dict[str, Trainer]:
    """One for each row, each on a generator of its own with the same weights: recomputing is switched on there."""
    reward = RewardEnsemble([(load_reward("redness"), 1.0)])
    shared = {
        "rank": args.rank,
        "alpha": 2 * args.rank,
        "head_width": args.head_width,
        "critic_width": args.head_width,
        "critic_warm_up": 0,
        "replay": 16 * args.batch_size,
        "batch_size": args.batch_size,
        "max_steps": 10**6,
        "height": 128,
        "width": 128,
        "diagnostics_every": 0,
    }
    return {
        name: Trainer(small_generator(), reward, ["a prompt"], TrainingConfig(**shared, **settings))
        for name, settings in KINDS.items()
    }


def memory_of(trainer: Trainer) -> Memory:
    """Of the second and third step: the first makes the optimizer's state, and what a critic learns from."""
    trainer._next_event()
    kept = SavedMemory()
    with kept():
        trainer._next_event()
    generator = trainer.generator
    weights = [*generator.denoiser.parameters(), *generator.autoencoder.parameters()]
    state = [value for values in trainer.optimizer.state.values() for value in values.values()]
    if isinstance(trainer.teacher, CriticTeacher):
        critic = trainer.teacher.parameters
        state += [*critic, *(p.grad for p in critic)]
        state += [value for values in trainer.teacher.optimizer.state.values() for value in values.values()]
    counter = Counter([*weights, *trainer.parameters, *(p.grad for p in trainer.parameters), *state])
    with counter:
        trainer._next_event()
    return Memory(kept.peak, counter.peak)


def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: the command line's)."""
    args: StepByKindArguments = parse(StepByKindArguments, PROG, __doc__, argv)
    torch.set_num_threads(1)
    rows = trainers(args)
    memory = {name: memory_of(trainer) for name, trainer in rows.items()}
    seconds = {name: [] for name in rows}
    for repeat in range(args.repeats):
        for name in list(rows)[:: 1 if repeat % 2 else -1]:
            begun = time.process_time()
            rows[name]._next_event()
            seconds[name].append(time.process_time() - begun)
    print(f"\n{'':26}{'ms a step':>10}{'ratio':>7}{'kept MB':>10}{'ratio':>7}{'peak MB':>10}{'ratio':>7}")
    base = next(iter(rows))
    for name in rows:
        numbers = [1000 * statistics.median(seconds[name]), memory[name].kept / 2**20, memory[name].peak / 2**20]
        first = [1000 * statistics.median(seconds[base]), memory[base].kept / 2**20, memory[base].peak / 2**20]
        print(f"{name:26}" + "".join(f"{n:10.1f}{n / one:7.2f}" for n, one in zip(numbers, first, strict=True)))


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
