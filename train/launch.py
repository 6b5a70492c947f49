"""The processes of one run, as `accelerate launch -m train` starts them, and the trackers that it reports to."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

Tracker = Literal["tensorboard", "wandb", "trackio"]


def join_processes(device: str) -> str:
    """Join the other processes, if there are any; returns the device of this one, such as `cuda:1` for `cuda`."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    from accelerate import PartialState

    return str(PartialState(cpu=device == "cpu").device)


def leave_processes() -> None:
    """Let the others go, so that none waits for this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()


class Trackers:
    """A run's numbers to TensorBoard, wandb or trackio; only the first process writes.

    Args:
        names: which; none is fine.
        folder: of the run; TensorBoard writes into `tensorboard/` there.
        first_step: what an earlier log of the same run holds after it was undone by a stop, and is hidden.
    """

    def __init__(self, names: Sequence[Tracker], folder: Path, first_step: int = 0):
        from accelerate import tracking

        self._trackers = []
        for name in names:
            if name == "tensorboard":
                purge = {"purge_step": first_step + 1} if first_step else {}
                tracker = tracking.TensorBoardTracker("tensorboard", folder, **purge)
            else:
                kind = {"wandb": tracking.WandBTracker, "trackio": tracking.TrackioTracker}[name]
                tracker = kind("hypernoise", name=folder.name)
            tracker.start()
            self._trackers.append(tracker)

    def log(self, metrics: dict[str, float], step: int) -> None:
        for tracker in self._trackers:
            tracker.log(metrics, step=step)

    def close(self) -> None:
        for tracker in self._trackers:
            tracker.finish()


def check_installed(name: Tracker) -> None:
    """
    Raises:
        ValueError: the tracker's package is not installed.
    """
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"tracker {name} is not installed: pip install {name}, or leave it out of --trackers")
