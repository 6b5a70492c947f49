"""Checkpoints on disk: one folder each, either complete or not there at all.

A folder is written under a temporary name and every file is flushed; the marker that lists the files comes last; then
the folder is renamed. If the process is killed at any moment, the earlier checkpoints are unchanged.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..files import flush, replacing, umask
from .state import TrainerState

ADAPTER_NAME = "hypernoise.safetensors"
"""The adapter at that step, ready to use."""

TENSORS_NAME, VALUES_NAME, MARKER_NAME = "state.safetensors", "state.json", "complete.json"

_NAME = re.compile(r"step-(\d{6,})(?:-(\d+))?")


@dataclass(frozen=True, order=True)
class Checkpoint:
    """A complete checkpoint. Checkpoints sort by age."""

    step: int
    serial: int
    path: Path

    def load(self) -> TrainerState:
        """The saved state.

        Raises:
            ValueError: a file is damaged in spite of the marker.
        """
        try:
            with safe_open(self.path / TENSORS_NAME, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no dict
            return TrainerState(tensors, json.loads((self.path / VALUES_NAME).read_text("utf-8")))
        except (OSError, SafetensorError, ValueError) as error:
            raise ValueError(f"checkpoint {self.path} is damaged ({error}): resume from another one") from error


def find_checkpoint(path: str | Path) -> Checkpoint | None:
    """The checkpoint at `path`, or None if there is no complete one."""
    path = Path(path)
    match = _NAME.fullmatch(path.name)
    if not match:
        return None
    try:
        sizes = json.loads((path / MARKER_NAME).read_text("utf-8"))
        complete = all((path / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError):
        return None
    return Checkpoint(int(match[1]), int(match[2] or 1), path) if complete else None


class Checkpoints:
    """The checkpoints of one run, in `folder`.

    Args:
        keep: how many of the latest to keep. The best one is kept in addition.
    """

    def __init__(self, folder: str | Path, keep: int = 2):
        self.folder, self.keep = Path(folder), keep

    def all(self) -> list[Checkpoint]:
        """The complete checkpoints, oldest first."""
        return sorted(filter(None, map(find_checkpoint, self.folder.glob("step-*"))))

    def newest(self) -> Checkpoint | None:
        return max(self.all(), default=None)

    def put_back(self, adapter: Path) -> None:
        """Make the newest one's adapter the file `adapter`, where there is one."""
        if newest := self.newest():
            with replacing(adapter) as temporary:
                shutil.copyfile(newest.path / ADAPTER_NAME, temporary)

    def save(self, state: TrainerState, save_adapter: Callable[[Path], None]) -> Path:
        """Write `state`, and the adapter with `save_adapter`; then remove the checkpoints that are not kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        step = state.values["step"]
        for left_over in self.folder.glob(".step-*"):  # of a process that was killed
            shutil.rmtree(left_over, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(dir=self.folder, prefix=f".step-{step:06d}-"))
        try:
            save_file({name: _own(tensor) for name, tensor in state.tensors.items()}, temporary / TENSORS_NAME)
            (temporary / VALUES_NAME).write_text(json.dumps(state.values, indent=1), "utf-8")
            save_adapter(temporary / ADAPTER_NAME)
            sizes = {file.name: file.stat().st_size for file in sorted(temporary.iterdir())}
            for name in sizes:
                flush(temporary / name)
            (temporary / MARKER_NAME).write_text(json.dumps(sizes), "utf-8")
            flush(temporary / MARKER_NAME)
            flush(temporary)
            temporary.chmod(0o777 & ~umask())
            path = self._free_name(step)
            temporary.rename(path)
            flush(self.folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._prune(state)
        return path

    def _free_name(self, step: int) -> Path:
        """A new name, always: a checkpoint of the same step is replaced only once the new one is complete."""
        serial, path = 1, self.folder / f"step-{step:06d}"
        while path.exists():
            serial += 1
            path = self.folder / f"step-{step:06d}-{serial}"
        return path

    def _prune(self, state: TrainerState) -> None:
        every = self.all()
        newest_of_step = {checkpoint.step: checkpoint for checkpoint in every}
        best = (state.values["validation"] or {}).get("best_step")
        kept = sorted(newest_of_step.values())[-self.keep :] + [c for s, c in newest_of_step.items() if s == best]
        for checkpoint in every:
            if checkpoint not in kept:
                (checkpoint.path / MARKER_NAME).unlink()  # half removed must not look complete
                shutil.rmtree(checkpoint.path)


def _own(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().cpu().contiguous()
