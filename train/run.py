"""One training run: turn a trainer's events into a progress bar, metrics, sample grids, checkpoints and a report."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL.Image import Image
from tqdm import tqdm

from hypernoise_core.hypernetworks import Adapter
from hypernoise_core.hypernetworks.drawing import Modulation, draw_in_parts
from hypernoise_core.training import (
    Checkpoints,
    Diagnosed,
    DivergedError,
    EarlyStop,
    Event,
    NonFiniteError,
    Notice,
    StepDone,
    StepSkipped,
    Trainer,
    TrainerState,
    Validated,
    WarmStart,
    processes,
    trainer_state,
)

from .cli import reworded
from .launch import Trackers
from .pictures import comparison_grid, curves, to_images
from .report import write_report
from .resume import CHECKPOINTS

if TYPE_CHECKING:
    from .config import TrainArguments

SAMPLE_SEED = 12_345
"""First seed of the sample grids: the same noise in every run and at every step."""

FINAL_NAME = "hypernoise.safetensors"
METRICS_NAME = "metrics.jsonl"


class Run:
    """Drives a `Trainer` and writes into `folder`: metrics.jsonl, tensorboard/, samples/, curves.png, checkpoints/, the
    adapter with its model card (README.md), report.md. With several processes, only the first writes.

    Args:
        sample_prompts: what the sample grids show, base above trained: after one reading, and after all that it is
            trained for.
        args: how often things are written.
        resumed: the checkpoint that the trainer was loaded from, and what was in it.
        title: of the progress bar.
        line: of the screen that the bar is on, where several runs share it.
    """

    def __init__(
        self,
        trainer: Trainer,
        folder: Path,
        sample_prompts: list[str],
        args: TrainArguments,
        resumed: Path | None = None,
        state: TrainerState | None = None,
        title: str | None = None,
        line: int | None = None,
    ):
        self._title, self._line = title, line
        self.trainer, self.folder, self.prompts, self.args = trainer, folder, sample_prompts, args
        self.writes = processes.rank() == 0
        self.metrics_file, self.adapter_file = folder / METRICS_NAME, folder / FINAL_NAME
        self._checkpoints = Checkpoints(folder / CHECKPOINTS, args.keep_checkpoints)
        self._saved = self._position() if resumed and resumed.parent.parent == folder else None
        if self.writes:
            folder.mkdir(parents=True, exist_ok=True)
            self._samples = _Samples(trainer, sample_prompts)
            self._rewind_metrics(resumed, state)
            self._trackers = Trackers(args.tracker_names, folder, trainer.step)

    @property
    def last_checkpoint(self) -> Path | None:
        """The newest one of this run."""
        newest = self._checkpoints.newest()
        return newest and newest.path

    def train(self) -> None:
        """Train to the end, and save. Ctrl-C or SIGTERM, to any process, finishes the step and saves too.

        Raises:
            DivergedError: the weights are of no use any more. They are not saved; the adapter is the last checkpoint's.
        """
        try:
            self._train()
        except DivergedError:
            self._go_back()
            raise

    def _train(self) -> None:
        trainer = self.trainer
        steps = {"total": trainer.config.max_steps, "initial": trainer.step}
        bar = tqdm(**steps, dynamic_ncols=True, disable=not self.writes, position=self._line)
        kind = "hypernetwork" if trainer.config.train_type == "noise" else "fine-tuning"
        bar.set_description(self._title or kind)
        with _stop_requested() as stop, bar:
            try:
                for event in trainer.events():
                    if self.writes:
                        self._tell(event, bar)
                    self._save_if_due(event)
                    if any(processes.gather(stop())):
                        break
            except DivergedError:
                raise
            except BaseException as error:
                if processes.count() == 1 or isinstance(error, NonFiniteError):  # else the others do not know of it
                    self._finish()
                raise
        self._finish()

    def _tell(self, event: Event, bar: tqdm) -> None:
        if isinstance(event, WarmStart):
            bar.set_postfix_str(f"{event.what} {event.done}/{event.total}")
            return
        if isinstance(event, Notice):
            bar.write(reworded(event.text, type(self.args)))
            return
        with open(self.metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(_row(event)) + "\n")
        if isinstance(event, StepSkipped):
            bar.write(f"step {event.step} skipped: {reworded(event.reason, type(self.args))}")
        elif isinstance(event, EarlyStop):
            bar.write(f"early stop at step {event.step}: {reworded(event.reason, type(self.args))}")
        else:
            self._trackers.log(event.metrics, event.step)
        if isinstance(event, Validated):
            bar.write(f"step {event.step}: " + _numbers(event.metrics) + (" (best)" if event.best else ""))
        if isinstance(event, StepDone):
            bar.update()
            shown = (key for key in ("reward", "distill_error", "kl") if key in event.metrics)
            bar.set_postfix({key: f"{event.metrics[key]:.3g}" for key in shown})
            if event.step % self.args.log_every == 0:
                self._grid(self.folder / "samples" / f"step-{event.step:06d}.png")

    def _save_if_due(self, event: Event) -> None:
        regular = isinstance(event, StepDone) and event.step % self.args.save_every == 0
        if regular or (isinstance(event, Validated) and event.best):
            self._save_checkpoint()

    def _save_checkpoint(self) -> None:
        """Save once per position, however often this is called."""
        if self._saved == self._position():
            return
        if fault := self.trainer.fault():
            raise DivergedError(fault)
        state = trainer_state(self.trainer)
        if self.writes:
            size = self.metrics_file.stat().st_size if self.metrics_file.exists() else 0
            state.values["metrics_bytes"] = size
            self._checkpoints.save(state, self.trainer.save)
        self._saved = self._position()

    def _position(self) -> tuple[int, ...]:
        """A tuple that differs between any two events."""
        trainer = self.trainer
        warm_up = (trainer.teacher.watched, trainer.warm_start_done)
        return (trainer.step, *warm_up, trainer.diagnosed, trainer.validated, trainer.skipped_in_a_row)

    def _rewind_metrics(self, resumed: Path | None, state: TrainerState | None) -> None:
        """Cut metrics.jsonl to its length at the checkpoint. The run will write the later part again."""
        self.metrics_file.touch()
        if resumed is None:
            self.metrics_file.write_text("")
            return
        told = resumed.parent.parent / METRICS_NAME
        if told != self.metrics_file and told.is_file():
            shutil.copyfile(told, self.metrics_file)
        with open(self.metrics_file, "r+b") as file:
            file.truncate(min(state.values["metrics_bytes"], self.metrics_file.stat().st_size))

    def _go_back(self) -> None:
        if not self.writes:
            return
        self._trackers.close()
        self._checkpoints.put_back(self.adapter_file)

    def _finish(self) -> None:
        self._save_checkpoint()
        if not self.writes:
            return
        self._trackers.close()
        if self.trainer.has_trained:
            self.trainer.save(self.adapter_file)
        if self.trainer.step == 0:
            return
        self._grid(self.folder / "samples" / "last.png")
        curves(self.folder / "curves.png", {self.trainer.config.train_type: self.metrics_file})
        write_report(self.folder, self.trainer, self.metrics_file, self.adapter_file.name)

    def _grid(self, path: Path) -> None:
        config = self.trainer.config
        name = "HyperNoise" if config.train_type == "noise" else "fine-tuned"
        trained = Modulation.trained_for(config)
        how = {name: trained}
        if config.iterations > 1:
            how = {"1 reading": replace(trained, iterations=1), f"{config.iterations} readings": trained}
        with self.trainer.averaged() as adapter:
            rows = [(title, self._samples.make(adapter, own)) for title, own in how.items()]
        base = ("base", self._samples.make(None, trained))
        comparison_grid(path, [base, *rows], self.prompts)


class _Samples:
    def __init__(self, trainer: Trainer, prompts: list[str]):
        self.generator, self.steps = trainer.generator, trainer.config.steps
        self.conditioning = self.generator.encode(prompts)
        self.seeds = range(SAMPLE_SEED, SAMPLE_SEED + len(prompts))
        self.x0 = torch.cat([self.generator.noise(1, seed=seed) for seed in self.seeds])

    @torch.no_grad()
    def make(self, adapter: Adapter | None, how: Modulation) -> list[Image]:
        drawn = draw_in_parts(self.generator, adapter, self.x0, self.conditioning, self.steps, self.seeds, how)
        return to_images(drawn[1])


def _numbers(metrics: dict[str, float]) -> str:
    return ", ".join(f"{name.removeprefix('validation/')} {value:.4g}" for name, value in metrics.items())


def _row(event: StepDone | StepSkipped | Diagnosed | Validated | EarlyStop) -> dict:
    if isinstance(event, StepSkipped):
        return {"step": event.step, "skipped": event.reason}
    if isinstance(event, EarlyStop):
        return {"step": event.step, "early_stop": event.reason}
    return {"step": event.step, **{key: float(f"{value:.6g}") for key, value in event.metrics.items()}}


@contextmanager
def _stop_requested() -> Iterator:
    """A function that says whether SIGINT or SIGTERM has arrived. A second signal interrupts at once."""
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
