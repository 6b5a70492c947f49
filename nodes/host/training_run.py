"""A training run inside ComfyUI: where it writes, what it shows, and how it resumes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import comfy.model_management
import folder_paths
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hypernoise_core.files import replacing
from hypernoise_core.noise import added_noise
from hypernoise_core.settings import Message
from hypernoise_core.training import (
    Checkpoint,
    Checkpoints,
    DivergedError,
    Event,
    Notice,
    StepDone,
    StepSkipped,
    Trainer,
    WarmStart,
    load_trainer_state,
    trainer_state,
)

from .differentiation import each_with_mutations
from .folders import ADAPTERS, told
from .generator import HostGenerator
from .pictures import GAP, legible, to_pil

CHECKPOINTS = "checkpoints"
RUNS = "hypernoise_training"
"""Folder in ComfyUI's output folder. Each run has a folder there with checkpoints and previews."""

SAVE_EVERY = 100
"""Steps between checkpoints, which is what a crash can cost. A cancelled run is saved at its current step."""

PREVIEWS = 4
"""Images in the preview."""

PREVIEW_SEED = 12_345
"""Seed of the first preview image. It is the same in every run and at every step."""

INPUTS = {
    "scores": "scores_file",
    "max_steps": "steps",
    "steps": "denoiser_steps",
    "generator": "model",
    "rewards": "reward",
}
"""Settings of the core that the Train node's inputs call otherwise."""

CURVES = ("loss", "reward", "kl")
SUMMARY = {"reward": "reward", "kl": "KL"}
"""Curves that the node tells, and what it calls them."""
TITLES = ("base", "HyperNoise")


def called(setting: str) -> str:
    """The node's name of a setting of the core's."""
    return INPUTS.get(setting, setting)


@dataclass(frozen=True)
class Place:
    """Where a run writes, and the checkpoint that it resumes from."""

    adapter: Path
    folder: Path
    checkpoint: Checkpoint | None = None


def find_place(name: str, resume: bool) -> Place:
    """A new place under `name`, numbered as ComfyUI numbers saved files; or the newest existing one, to resume it."""
    root = Path(folder_paths.get_folder_paths(ADAPTERS)[0])
    runs = Path(folder_paths.get_output_directory()) / RUNS
    folder, stem, counter, subfolder, _ = folder_paths.get_save_image_path(name, str(root))
    if resume:
        for run in sorted((runs / subfolder).glob(f"{escape(stem)}_[0-9][0-9][0-9][0-9][0-9]_"), reverse=True):
            if checkpoint := Checkpoints(run / CHECKPOINTS).newest():
                return Place(Path(folder) / f"{run.name}.safetensors", run, checkpoint)
    while (run := runs / subfolder / f"{stem}_{counter:05}_").exists():
        counter += 1
    return Place(Path(folder) / f"{run.name}.safetensors", run)


class TrainingRun:
    """Drives a `Trainer` and saves what it trained, however the run ends.

    Args:
        prompts: previews show prompts from all over this list.
        preview_every: steps between previews.
        show: receives the step, a line of text, and a new preview or None. If it raises, the run ends.
    """

    def __init__(
        self,
        trainer: Trainer,
        generator: HostGenerator,
        place: Place,
        prompts: Sequence[str],
        preview_every: int,
        show: Callable[[int, str, Image.Image | None], None],
    ):
        self.trainer, self.place, self._show, self._every = trainer, place, show, preview_every
        self.curves: dict[str, list[float]] = {name: [] for name in CURVES}
        self.notes: list[str] = []
        """Notes for the user: changed settings, skipped steps."""
        self._checkpoints = Checkpoints(place.folder / CHECKPOINTS)
        self._saved: tuple[int, int] | None = None
        if place.checkpoint:
            self._resume(place.checkpoint)
        self._preview = _Preview(trainer, generator, prompts)

    def train(self) -> None:
        """Train to the end. An interrupt or any other exception is raised again after everything is saved.

        Raises:
            DivergedError: the weights are of no use any more. They are not saved; the adapter is the last checkpoint's.
        """
        started, first = time.monotonic(), self.trainer.step
        try:
            self._show(first, "base", self._preview.picture(None))
            for event in self._events():
                self._take(event)
                seconds = (time.monotonic() - started) / max(1, self.trainer.step - first)
                self._tell(event, seconds * (self.trainer.config.max_steps - self.trainer.step))
            self._save()
            self.picture = self._preview.picture(self._now())
        except DivergedError as error:
            words = Message("{}; {}", error.args[0], self._go_back())
            self._show(self.trainer.step, words.called(called), None)
            raise DivergedError(words) from error
        except BaseException:
            self._stop()
            raise

    def _events(self) -> Iterator[Event]:
        """The trainer's events, with a check for Cancel before each."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        for event in each_with_mutations(self.trainer.events()):
            yield event
            comfy.model_management.throw_exception_if_processing_interrupted()

    def _take(self, event: Event) -> None:
        """Record an event before anything can interrupt: a finished step is always in the curves."""
        if isinstance(event, StepDone):
            for name in CURVES:
                if name in event.metrics:  # a step of distillation has no reward
                    self.curves[name].append(event.metrics[name])
        elif isinstance(event, StepSkipped):
            self.notes.append(f"step {event.step} was skipped: {event.reason}")
        elif isinstance(event, Notice):
            self.notes.append(event.text.called(called) if isinstance(event.text, Message) else event.text)

    def _tell(self, event: Event, seconds_left: float) -> None:
        if isinstance(event, WarmStart):
            self._show(event.step, f"{event.what}: image {event.done} of {event.total}", None)
        if isinstance(event, StepDone):
            picture = self._preview.picture(self._now()) if event.step % self._every == 0 else None
            self._show(event.step, f"{self.summary()}, {_duration(seconds_left)} left", picture)
            if event.step % SAVE_EVERY == 0:
                self._save()

    def summary(self) -> str:
        """The step, and means over the last steps."""
        last = {name: np.mean(values[-10:]) for name, values in self.curves.items() if values}
        told = [f"{title} {last[name]:.4g}" for name, title in SUMMARY.items() if name in last]
        done, steps = self.trainer.step, self.trainer.config.max_steps
        where = f"step {done} of {steps}" if done <= steps else f"nothing is left to do, step {done} is done"
        return f"{where}: {', '.join(told) or 'nothing yet'}"

    def report(self) -> str:
        """The outcome, the rewards of the previews, and the notes."""
        base, trained = self._preview.scores
        lines = [self.summary(), f"preview: reward {base:.4g} -> {trained:.4g}", *self.notes]
        return "\n".join([*lines, f"saved as {told(self.place.adapter)}"])

    def _resume(self, checkpoint: Checkpoint) -> None:
        state = checkpoint.load()
        changes = load_trainer_state(self.trainer, state)
        curves = state.values.get("curves", {})
        self.curves = {name: list(curves.get(name, [])) for name in CURVES}
        self.notes = [
            f"resumed from step {self.trainer.step}",
            *(f"changed: {change.called(called)}" for change in changes),
        ]
        self._saved = self._position()

    def _position(self) -> tuple[int, int]:
        """Steps, and images of a critic's warm-up, that are done."""
        return self.trainer.step, self.trainer.teacher.watched

    def _save(self) -> None:
        """Write the checkpoint first, then the adapter, so that the checkpoint is never older than the adapter."""
        if self._position() != self._saved and any(self._position()):
            if fault := self.trainer.fault():
                raise DivergedError(fault)
            state = trainer_state(self.trainer)
            state.values["curves"] = self.curves
            self._checkpoints.save(state, self.trainer.save)
            self._saved = self._position()
        if self.trainer.step:
            self.trainer.save(self.place.adapter)

    def _stop(self) -> None:
        """Save and say so, without raising: ComfyUI must see the exception that ended the run, and a cancel as a
        cancel."""
        try:
            self._save()
        except DivergedError as error:
            kept = Message("{}; {}", error.args[0], self._go_back()).called(called)
        except Exception:
            logging.exception("HyperNoise: the training could not be saved")
            kept = "it could not be saved: see ComfyUI's log"
        else:
            kept = self._kept()
        words = f"stopped at {self.summary()}\n{kept}"
        logging.info("HyperNoise: %s", words)
        self._show(self.trainer.step, words, None)

    def _go_back(self) -> str:
        """Make the last checkpoint's adapter the run's; what is left, in words."""
        last = self._checkpoints.newest()
        if last is None or not last.step:
            self.place.adapter.unlink(missing_ok=True)
            return "no checkpoint was saved before that: start again"
        self._checkpoints.put_back(self.place.adapter)
        return f"{told(self.place.adapter)} is from step {last.step}, before that: set resume to go on from it"

    def _kept(self) -> str:
        """What is left of a run that was stopped."""
        if self.trainer.step:
            return f"saved as {told(self.place.adapter)}; set resume to go on"
        return "the critic's warm-up is saved; set resume to go on" if any(self._position()) else "nothing to save yet"

    def _now(self):
        """The adapter as it would be saved."""
        return self.trainer.averaged()


class _Preview:
    """Images of fixed prompts and seeds, base above HyperNoise, and their rewards."""

    def __init__(self, trainer: Trainer, generator: HostGenerator, prompts: Sequence[str]):
        config = trainer.config
        chosen = [prompts[i * len(prompts) // PREVIEWS] for i in range(PREVIEWS)]
        self._trainer, self._generator = trainer, generator
        self._conditioning, self._text = generator.encode(chosen), trainer.reward.encode_text(chosen)
        seeds = range(PREVIEW_SEED, PREVIEW_SEED + PREVIEWS)
        self._x0 = torch.cat([generator.noise(1, config.height, config.width, seed) for seed in seeds])
        self._base: Tensor | None = None
        self.scores = [0.0, 0.0]
        """Mean rewards of base and HyperNoise."""

    @torch.no_grad()
    def picture(self, averaged) -> Image.Image:
        """`averaged` is the trainer's context manager for the adapter, or None for the base alone."""
        if self._base is None:
            self._base, self.scores[0] = self._make(self._x0)
        rows = [self._base]
        if averaged is not None:
            with averaged as adapter:
                iterations = self._trainer.config.iterations
                moved = torch.cat([adapter.modulate(x, c, iterations=iterations) for x, c in self._one_by_one()])
            made, self.scores[1] = self._make(moved)
            rows.append(made)
        titles = [f"{title}  reward {score:.4g}" for title, score in zip(TITLES, self.scores, strict=True)]
        return stacked(rows, titles[: len(rows)])

    def _make(self, x0: Tensor) -> tuple[Tensor, float]:
        """From the noise `x0`, moved or not. One at a time, to use little memory."""
        config, parts = self._trainer.config, []
        between = added_noise(config.between_steps, self._x0, x0)
        for i in range(len(x0)):
            kept = None if between is None else between[i : i + 1]
            c, seed = self._conditioning.rows([i]), [PREVIEW_SEED + i]
            parts.append(self._generator.generate(x0[i : i + 1], c, config.steps, seed, between=kept))
        images = torch.cat(parts)
        total = self._trainer.reward.combine(self._trainer.reward.scores(images, self._text))
        return images.movedim(1, -1).cpu(), total.mean().item()

    def _one_by_one(self):
        return ((self._x0[i : i + 1], self._conditioning.rows([i])) for i in range(len(self._x0)))


def stacked(rows: Sequence[Tensor], titles: Sequence[str]) -> Image.Image:
    """IMAGEs [B, h, w, 3], one batch a row under its title, on white."""
    rows = [legible(images) for images in rows]
    count, height, width = rows[0].shape[:3]
    label = max(12, min(32, width // 16))
    band = label + 3 * GAP + height
    page = Image.new("RGB", (GAP + count * (width + GAP), len(rows) * band), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(label)
    for r, (images, title) in enumerate(zip(rows, titles, strict=True)):
        draw.text((GAP, r * band + GAP), title, "black", font)
        for i, image in enumerate(images):
            page.paste(to_pil(image), (GAP + i * (width + GAP), r * band + label + 2 * GAP))
    return page


def keep_picture(picture: Image.Image, path: Path) -> None:
    with replacing(path) as temporary:
        picture.save(temporary)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
