"""One training at a time in a folder: a file there names the process that writes into it."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

NAME = "running.json"


def check_free(folder: Path) -> str | None:
    """What to tell of a training that left its file behind on another machine, where nobody can ask whether it lives.

    Raises:
        ValueError: another training writes into `folder` now.
    """
    try:
        owner = json.loads((folder / NAME).read_text("utf-8"))
        pid, host, started = int(owner["pid"]), str(owner["host"]), float(owner["started"])
    except (OSError, ValueError, KeyError, TypeError):  # none, or half of one, left by a kill
        return None
    if host != socket.gethostname():
        return f"{folder} was last written by process {pid} on {host}: make sure that it has ended"
    if _started(pid) == started:
        raise ValueError(f"process {pid} on {host} is training in {folder}: wait for it, stop it, or give --save_dir")
    return None


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process inside the block; what a dead one left is taken over.

    Raises:
        ValueError: as of `check_free`.
    """
    check_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pid = os.getpid()
    (folder / NAME).write_text(json.dumps({"pid": pid, "host": socket.gethostname(), "started": _started(pid)}))
    try:
        yield
    finally:
        (folder / NAME).unlink(missing_ok=True)


def _started(pid: int) -> float | None:
    """When a process of this machine began, which tells it from a later one of the same number; None for none."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return None
