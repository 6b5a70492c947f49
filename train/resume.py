"""Find the folder that a run writes into, and the checkpoint that it resumes from."""

import time
from dataclasses import dataclass
from pathlib import Path

from hypernoise_core.training import Checkpoint, Checkpoints, find_checkpoint

CHECKPOINTS = "checkpoints"
CONFIG = "config.yaml"
"""File in a run's folder with the arguments that it was started with, except `save_dir` and `resume`."""


@dataclass(frozen=True)
class Start:
    """Where a run begins."""

    folder: Path
    checkpoint: Checkpoint | None = None


def find_start(resume: str | None, save_dir: str | None) -> Start:
    """The folder to write into, and the checkpoint to resume from.

    Raises:
        ValueError: the folder belongs to another run, or there is nothing to resume.
    """
    if resume is None:
        return Start(_unused(save_dir or f"outputs/train-{time.strftime('%Y%m%d-%H%M%S')}"))
    if resume == "auto":
        if not save_dir:
            raise ValueError("--resume auto looks for checkpoints in --save_dir: give that folder too")
        newest = Checkpoints(Path(save_dir) / CHECKPOINTS).newest()
        begun = newest or (Path(save_dir) / CONFIG).is_file()  # stopped before its first checkpoint: from nothing
        return Start(Path(save_dir) if begun else _unused(save_dir), newest)
    checkpoint = find_checkpoint(resume) or Checkpoints(Path(resume) / CHECKPOINTS).newest()
    if checkpoint is None:
        raise ValueError(
            f"--resume is {resume!r}, without a complete checkpoint: give a run's folder or one of its checkpoints"
        )
    run = checkpoint.path.parent.parent
    if save_dir and Path(save_dir).resolve() != run.resolve():
        return Start(_unused(save_dir), checkpoint)
    if checkpoint != (newest := Checkpoints(run / CHECKPOINTS).newest()):
        raise ValueError(
            f"--resume: {checkpoint.path} is older than {newest.path.name} of its run: give a new --save_dir to branch "
            "off"
        )
    return Start(run, checkpoint)


def config_behind(resume: str | None, save_dir: str | None) -> str | None:
    """The settings of the run that is resumed, if it has any."""
    if resume is None:
        return None
    places = [save_dir] if resume == "auto" else [resume, Path(resume).parent.parent]
    found = (Path(place) / CONFIG for place in places if place)
    return next((str(path) for path in found if path.is_file()), None)


def _unused(folder: str) -> Path:
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(
            f"--save_dir is {folder!r}, which is not empty: give a new folder, or resume that run with --resume auto"
        )
    return path
