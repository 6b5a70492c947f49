"""The processes of one run, as `accelerate launch -m train` starts them, and the trackers that it reports to."""

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
"""What `accelerate launch` sets in the environment for what its configuration asks for."""


def join_processes(device: str) -> str:
    """Join the other processes, if there are any; returns the device of this one, such as `cuda:1` for `cuda`.

    Raises:
        ValueError: the launcher was told to split the model over them.
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
    """The mixed precision that accelerate was told to use, which nothing here follows."""
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    return None if precision in ("", "no") else precision


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
        raise ValueError(f"--trackers names {name}, which is not installed: pip install {name}, or leave it out")
