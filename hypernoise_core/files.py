"""Write files so that a reader never finds half of one, and know what lies there in place of one."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` to write to. If the block succeeds, it is flushed and renamed to `path`;
    otherwise it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        flush(temporary)
        temporary.chmod(0o666 & ~umask())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Flush to the disk. A folder (its list of names) only where the system supports it; Windows does not."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def umask() -> int:
    """The permission bits that this process does not give new files."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


STAND_INS = {
    b"version https://git-lfs": "a pointer of git-lfs: run git lfs pull in its folder, or download the file itself",
    b"<!doctype html": "a web page: download the file itself",
    b"<html": "a web page: download the file itself",
}
"""How a file begins that is not what its name says: what it is, and what to do."""


def stand_in(path: Path) -> str | None:
    """What `path` is if it only stands for the file that its name promises, or None."""
    try:
        with open(path, "rb") as file:
            begins = file.read(64).lstrip().lower()
    except OSError:
        return None
    return next((told for start, told in STAND_INS.items() if begins.startswith(start)), None)
