"""Run the rows that do not exist yet, in worker processes with one thread each, and save each as a JSON file."""

import gc
import json
import multiprocessing
import signal
import time
from collections.abc import Callable, Sequence
from multiprocessing.pool import AsyncResult

import torch
from tqdm import tqdm

from hypernoise_core.files import replacing

from .plan import Row
from .results import Places, keys
from .rows import KINDS
from .world import World


def to_run(rows: Sequence[Row], wanted: set[str], places: Places, fresh: bool) -> list[Row]:
    """The rows of `wanted` and those they need that do not exist with the same key. Weights that are no longer in the
    work folder are made again if a row needs them."""
    known, by_name = keys(rows), {row.name: row for row in rows}
    chosen: set[str] = set()

    def ask(row: Row, for_weights: bool) -> None:
        result = None if fresh else places.read(row.name)
        current = result is not None and result.get("key") == known[row.name]
        if row.name in chosen or (current and not (for_weights and row.leaves_weights and _gone(row, places))):
            return
        chosen.add(row.name)
        for name in row.needs:
            ask(by_name[name], for_weights=True)

    for row in rows:
        if row.name in wanted:
            ask(row, for_weights=False)
    return [row for row in rows if row.name in chosen]


def _gone(row: Row, places: Places) -> bool:
    return not places.weights(row).is_file()


def run_rows(
    rows: Sequence[Row], wanted: set[str], places: Places, workers: int, fresh: bool, tell: Callable[[str], None]
) -> dict[str, str]:
    """Run rows. Returns the errors of failed rows, by name. Finished rows are kept whenever you stop."""
    missing, known = to_run(rows, wanted, places, fresh), keys(rows)
    tell(f"{len(wanted) - len({r.name for r in missing} & wanted)} of {len(wanted)} rows are there already")
    if not missing:
        return {}
    places.work.mkdir(parents=True, exist_ok=True)
    with tqdm(total=round(sum(row.seconds for row in missing)), unit="s", desc="rows", smoothing=0) as bar:

        def done(row: Row, seconds: float | None) -> None:
            bar.update(round(row.seconds))
            bar.write(f"{row.name:28} {'failed' if seconds is None else f'{seconds:.1f} s'}")

        if workers == 1:
            return _in_turn(missing, known, places, done)
        return _side_by_side(missing, known, places, workers, done)


Done = Callable[[Row, float | None], None]


def _in_turn(rows: list[Row], known: dict[str, str], places: Places, done: Done) -> dict[str, str]:
    errors: dict[str, str] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for row in rows:
            if lacking := next((name for name in row.needs if name in errors), None):
                errors[row.name] = f"needs {lacking}, which failed"
                continue
            try:
                done(row, run_row(row, known[row.name], places))
            except Exception as error:
                errors[row.name] = _described(error)
                done(row, None)
    finally:
        torch.set_num_threads(threads)
    return errors


def _side_by_side(rows: list[Row], known: dict[str, str], places: Places, workers: int, done: Done) -> dict[str, str]:
    errors: dict[str, str] = {}
    waiting = {row.name: row for row in sorted(rows, key=lambda row: -row.seconds)}
    running: dict[str, tuple[Row, AsyncResult]] = {}
    context = multiprocessing.get_context("spawn")
    with _terminable(), context.Pool(workers, _start_worker) as pool:  # leaving the block ends the workers
        while waiting or running:
            for name, (row, result) in list(running.items()):
                if not result.ready():
                    continue
                del running[name]
                try:
                    done(row, result.get())
                except Exception as error:
                    errors[name] = _described(error)
                    done(row, None)
            for row in _startable(waiting, running, errors, workers):
                del waiting[row.name]
                running[row.name] = (row, pool.apply_async(run_row, (row, known[row.name], places)))
            for name, row in list(waiting.items()):
                if lacking := next((need for need in row.needs if need in errors), None):
                    errors[name] = f"needs {lacking}, which failed"
                    del waiting[name]
            time.sleep(0.05)
    return errors


def _startable(waiting: dict[str, Row], running: dict, errors: dict[str, str], workers: int) -> list[Row]:
    """The rows that can start now, longest first. A row that must run alone waits for all others, and they wait for
    it."""
    if any(row.alone for row, _ in running.values()):
        return []
    ready = [row for row in waiting.values() if not any(n in waiting or n in running or n in errors for n in row.needs)]
    together = [row for row in ready if not row.alone][: workers - len(running)]
    if together or running:
        return together
    return ready[:1]


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends its workers
    torch.set_num_threads(1)


class _terminable:
    """Treat SIGTERM like Ctrl-C inside the block, so that no worker is left behind."""

    def __enter__(self):
        def interrupt(*_):
            raise KeyboardInterrupt

        self.old = signal.signal(signal.SIGTERM, interrupt)

    def __exit__(self, *_):
        signal.signal(signal.SIGTERM, self.old)


def run_row(row: Row, key: str, places: Places) -> float:
    """Compute a row and write its file; returns the seconds that it took.

    Each has a world of its own: a reward remembers prompts as they were first padded, and a rounding error of 1e-8
    there is a picture more or less after training.
    """
    gc.collect()  # or a cycle keeps the last row's reward, which the next would share
    needed = {name: places.read(name) for name in row.needs}
    begun, cpu = time.perf_counter(), time.process_time()
    found = KINDS[row.kind](World(places.work), row.name, row.settings, needed)
    timing = found.pop("timing", {}) | {
        "seconds": time.perf_counter() - begun,
        "cpu_seconds": time.process_time() - cpu,
    }
    content = {"name": row.name, "key": key, "kind": row.kind, "settings": row.settings, **found, "timing": timing}
    with replacing(places.file(row.name)) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False), "utf-8")
    return timing["seconds"]


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
