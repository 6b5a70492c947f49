"""The processes of one run, as started by `accelerate launch -m train`, and the trackers that it reports to."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

Tracker = Literal["tensorboard", "wandb", "trackio"]


SHARDING = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
}
"""Environment variables that `accelerate launch` sets for sharding, and their names."""


def join_processes(device: str) -> str:
    """Join the other processes, if there are any. Returns this process's device, such as `cuda:1` for `cuda`.

    Raises:
        ValueError: the launcher is set to split the model over the processes.
    """
    for variable, name in SHARDING.items():
        if os.environ.get(variable, "").lower() in ("true", "1"):
            raise ValueError(
                f"accelerate is set to {name}, which is not supported: every process holds the whole frozen model. Use "
                "accelerate launch --multi_gpu --num_processes N -m train … or torchrun --nproc_per_node N -m train …; "
                "where memory is short, --dtype bfloat16, --use_checkpoint, --micro_batch_size 1, --offload"
            )
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return device
    from accelerate import PartialState

    return str(PartialState(cpu=device == "cpu").device)


def unused_precision() -> str | None:
    """The mixed precision that accelerate was told to use, or None. Nothing here follows it."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    return None if precision in ("", "no") else precision


def leave_processes() -> None:
    """Leave the process group, so that no other process waits for this one."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        from accelerate import PartialState

        PartialState().destroy_process_group()


class Trackers:
    """Sends a run's metrics to TensorBoard, wandb or trackio. Only the first process writes.

    Args:
        names: trackers; may be empty.
        folder: of the run. TensorBoard writes into `tensorboard/` there.
        first_step: hide later steps in an earlier log of the same run; a resumed run makes them again.
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
        raise ValueError(f"--trackers names {name}, which is not installed: pip install {name}, or leave it out")
