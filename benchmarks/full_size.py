"""Time and memory of hypernetworks on full-size models with random weights: no download, the real shapes.

python -m benchmarks.full_size --model sd-turbo                  # one CPU thread, 8 minutes, 11 GiB
python -m benchmarks.full_size --model sana
python -m benchmarks.full_size --model flux-two-blocks           # FLUX's true width, one block of each kind
python -m benchmarks.full_size --model z-image-three-blocks --size 128   # and so the modern families
python -m benchmarks.full_size --model flux --device cuda --dtype bfloat16 --size 512 --steps 5   # a GPU, all of FLUX
"""

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from hypernoise_core import RewardEnsemble, Trainer, TrainingConfig, load_reward
from hypernoise_core.files import replacing
from hypernoise_core.generators import DiffusersGenerator
from hypernoise_core.planning.models import build as build_generator
from hypernoise_core.training import StepDone
from train.cli import parse, run_command
from train.memory import peak_memory

from .full_size_models import MODELS, Model

PROG = "python -m benchmarks.full_size"

GIB = 2**30


@dataclass(kw_only=True)
class FullSizeArguments:
    """Time and memory of hypernetworks on full-size models with random weights."""

    model: str = "sana"
    """The model whose shapes to use: sd-turbo, sdxl-turbo, sana, sana-1.6b, flux; or one block of each kind at the true
    width: flux-two-blocks, z-image-three-blocks, flux2-klein-two-blocks, krea2-three-blocks, qwen-image-one-block."""
    size: int = 256
    """Side of the images, in pixels. The paper trains SANA at 1024, the others at 512."""
    batch_size: int = 1
    """Images per training step."""
    steps: int = 1
    """Training steps. The time is that of the last step; the first also creates the optimizer's state."""
    use_checkpoint: bool = True
    """Recompute activations in the backward pass."""
    device: str = "cpu"
    """Device, such as cuda."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """dtype of the frozen model."""
    threads: int = 1
    """CPU threads."""
    save_dir: str = "outputs/full-size"
    """Folder for <model>.json."""

    def __post_init__(self):
        if self.model not in MODELS:
            raise ValueError(f"--model is {self.model!r}: choose from {', '.join(MODELS)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: those of the command line)."""
    args: FullSizeArguments = parse(FullSizeArguments, PROG, __doc__, argv)
    torch.set_num_threads(args.threads)
    model = MODELS[args.model]
    generator = build(args, model)
    report = measure(args, model, generator)
    with replacing(Path(args.save_dir) / f"{args.model}.json") as temporary:
        temporary.write_text(json.dumps({**vars(args), **report}, indent=1))
    for name, value in report.items():
        print(f"{name:42}{value:10.2f}")


def build(args: FullSizeArguments, model: Model) -> DiffusersGenerator:
    """The model with random weights and random conditionings."""
    torch.manual_seed(0)
    generator = build_generator(model, args.model, getattr(torch, args.dtype), args.device)
    del generator.autoencoder.encoder
    return generator


def measure(args: FullSizeArguments, model: Model, generator: DiffusersGenerator) -> dict[str, float]:
    """One-step pictures without and with an adapter, then training steps: times in seconds, memory in GiB."""
    frozen = [*generator.denoiser.parameters(), *generator.autoencoder.parameters()]
    report = {
        "denoiser, million parameters": count(generator.denoiser.parameters()) / 1e6,
        "frozen weights, GiB": bytes_of(frozen) / GIB,
        "most memory while building, GiB": (peak_memory(args.device) or 0) / GIB,
    }
    start = time.perf_counter()
    trainer = Trainer(generator, RewardEnsemble([(load_reward("redness"), 1.0)]), ["a prompt"], training(args, model))
    adapter = trainer.adapter
    report["seconds to make the adapter"] = time.perf_counter() - start
    report["adapter, million parameters"] = count(adapter.parameters()) / 1e6
    report["frozen weights and adapter, GiB"] = bytes_of([*frozen, *adapter.network.parameters()]) / GIB

    conditioning, x0 = generator.encode(["a prompt"]), generator.noise(1, args.size, args.size)
    with torch.no_grad():
        base = report_time(report, "seconds a picture, base", lambda: generator.generate(x0, conditioning))
        same = report_time(report, "seconds a picture, HyperNoise", lambda: adapter.generate(x0, conditioning))
    assert torch.equal(base, same), "a new hypernetwork must leave the picture as it is"
    report["most memory while making pictures, GiB"] = (peak_memory(args.device) or 0) / GIB

    events = trainer.events()
    for _ in range(args.steps):
        event = report_time(report, "seconds a training step", lambda: next(events))
        assert isinstance(event, StepDone), event
    with torch.no_grad():
        assert adapter(x0, conditioning).abs().max() > 0, "a training step must move the hypernetwork"
    state = [value for values in trainer.optimizer.state.values() for value in values.values()]
    tensors = [*frozen, *adapter.network.parameters(), *(t for t in state if isinstance(t, Tensor))]
    tensors += [p.grad for p in trainer.parameters if p.grad is not None]  # a last block's text may go nowhere
    report["weights, gradients, optimizer state, GiB"] = bytes_of(tensors) / GIB
    report["most memory, GiB"] = (peak_memory(args.device) or 0) / GIB
    return report


def training(args: FullSizeArguments, model: Model) -> TrainingConfig:
    """The paper's settings that affect time and memory."""
    return TrainingConfig(
        rank=model.rank,
        alpha=model.alpha,
        optimizer=model.optimizer,
        lr=1e-4,
        batch_size=args.batch_size,
        max_steps=args.steps,
        warmup_steps=0,
        height=args.size,
        width=args.size,
        gradient_checkpointing=args.use_checkpoint,
        diagnostics_every=0,
    )


def report_time(report: dict[str, float], name: str, work: Callable):
    """Do the work, and note its seconds."""
    start = time.perf_counter()
    result = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    report[name] = time.perf_counter() - start
    return result


def count(parameters: Iterable[Tensor]) -> int:
    return sum(p.numel() for p in parameters)


def bytes_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of their storages, each counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
