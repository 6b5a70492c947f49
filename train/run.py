"""One training run: a trainer's events become a progress bar, metrics, sample grids, curves and saved adapters."""

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from hypernoise_core.generators import Generator
from hypernoise_core.hypernetwork import DenoiserLora
from hypernoise_core.training import Diagnosed, StepDone, StepSkipped, Trainer, WarmStart

from .pictures import comparison_grid, curves, to_images

SAMPLE_SEED = 12_345
"""First seed of the sample grids: the same pictures in every run and at every step."""

FINAL_NAME = "hypernoise.safetensors"
METRICS_NAME = "metrics.jsonl"


class Run:
    """Drives a `Trainer` and writes into `folder`: metrics.jsonl, tensorboard/, samples/, curves.png, checkpoints/ and
    the adapter.

    Args:
        sample_prompts: what the sample grids show, base above trained.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        sample_prompts: list[str],
        log_every: int,
        save_every: int,
    ):
        self.trainer, self.folder, self.prompts = trainer, folder, sample_prompts
        self.log_every, self.save_every = log_every, save_every
        folder.mkdir(parents=True, exist_ok=True)
        self.metrics_file = folder / METRICS_NAME
        self._samples = _Samples(trainer.generator, sample_prompts)

    def train(self) -> bool:
        """Train to the end and save. Ctrl-C or SIGTERM finishes the step and saves too; returns whether it got to the
        end."""
        from torch.utils.tensorboard import SummaryWriter

        trainer, finished = self.trainer, True
        label = "hypernetwork" if trainer.config.train_type == "noise" else "fine-tuning"
        with (
            _stop_requested() as stop,
            open(self.metrics_file, "a") as metrics_file,
            SummaryWriter(str(self.folder / "tensorboard")) as board,
            tqdm(total=trainer.config.max_steps, desc=label, dynamic_ncols=True) as bar,
        ):
            for event in trainer.events():
                if isinstance(event, WarmStart):
                    bar.set_postfix_str(f"warm start {event.done}/{event.total}")
                    if stop():
                        finished = False
                        break
                    continue
                metrics_file.write(json.dumps(_row(event)) + "\n")
                metrics_file.flush()
                if isinstance(event, StepSkipped):
                    bar.write(f"step {event.step} skipped: {event.reason}")
                    continue
                for key, value in event.metrics.items():
                    board.add_scalar(key, value, event.step)
                if isinstance(event, StepDone):
                    bar.update()
                    bar.set_postfix({key: f"{event.metrics[key]:.3g}" for key in ("reward", "kl")})
                    self._after_step(event.step)
                if stop():
                    finished = trainer.step >= trainer.config.max_steps
                    break
        self._finish()
        return finished

    def _after_step(self, step: int) -> None:
        if step % self.log_every == 0:
            self._grid(self.folder / "samples" / f"step-{step:06d}.png")
        if step % self.save_every == 0 and step < self.trainer.config.max_steps:
            self.trainer.save(self.folder / "checkpoints" / f"step-{step:06d}.safetensors")

    def _finish(self) -> None:
        if self.trainer.step == 0:
            return
        self.trainer.save(self.folder / FINAL_NAME)
        self._grid(self.folder / "samples" / "last.png")
        curves(self.folder / "curves.png", {self.trainer.config.train_type: self.metrics_file})

    def _grid(self, path: Path) -> None:
        with self.trainer.averaged() as adapter:
            after = self._samples.make(adapter, self.trainer.config.steps)
        before = self._samples.make(None, self.trainer.config.steps)
        name = "HyperNoise" if self.trainer.config.train_type == "noise" else "fine-tuned"
        comparison_grid(path, [("base", before), (name, after)], self.prompts)


class _Samples:
    def __init__(self, generator: Generator, prompts: list[str]):
        self.generator = generator
        self.conditioning = generator.encode(prompts)
        self.x0 = torch.cat([generator.noise(1, seed=SAMPLE_SEED + i) for i in range(len(prompts))])

    @torch.no_grad()
    def make(self, adapter: DenoiserLora | None, steps: int):
        if adapter is None:
            return to_images(self.generator.generate(self.x0, self.conditioning, steps))
        return to_images(adapter.generate(self.x0, self.conditioning, steps))


def _row(event: StepDone | StepSkipped | Diagnosed) -> dict:
    if isinstance(event, StepSkipped):
        return {"step": event.step, "skipped": event.reason}
    return {"step": event.step, **{key: float(f"{value:.6g}") for key, value in event.metrics.items()}}


@contextmanager
def _stop_requested() -> Iterator:
    """A function that tells whether SIGINT or SIGTERM has come; a second one interrupts at once."""
    asked: list[int] = []
    old = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def note(number, frame):
        asked.append(number)
        signal.signal(number, old[number])

    for number in old:
        signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
