"""The method from training to scores on the embedded generator, in minutes on a CPU: `make demo`.

Trains three adapters from nothing, two at a time: a head on the embedded preference reward, and, on redness, a LoRA
hypernetwork and a direct fine-tuning with the same budget. Judges them with the exact detector, which none of them was
trained on, on held-out prompts and unseen seeds, beside the LoRA and the head that are shipped.
"""

import json
import multiprocessing
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hypernoise_core import Trainer, load_generator, load_reward
from hypernoise_core.embedded import HEAD_FILE, HYPERNOISE_FILE
from hypernoise_core.embedded.benchmark import PER_PROMPT, Result, cases, measure
from hypernoise_core.files import replacing
from hypernoise_core.hypernetworks import load_adapter
from hypernoise_core.hypernetworks.drawing import Modulation
from hypernoise_core.settings import require

from .cli import check_folders, in_arguments_of, parse, run_command
from .config import RECIPES, TrainArguments
from .evaluation.embedded import category_table, method, report, table
from .pictures import comparison_grid, curves, spread, to_images
from .run import FINAL_NAME, METRICS_NAME, Run

PROG = "python -m train.demo"

RUNS = {
    "head": "embedded-head",
    "redness-noise": "embedded-redness",
    "redness-finetune": "embedded-redness-finetune",
}
"""Folder of each run to its recipe."""

QUICK = {"head": {"batch_size": 32, "max_steps": 60}}
"""What a run takes instead of its recipe's, to be done in two minutes."""

ROWS = {
    "base": (None, 1),
    "LoRA, shipped": (str(HYPERNOISE_FILE), 1),
    "head": ("head", 1),
    "head, 3 readings": ("head", 3),
    "head, shipped, 5 readings": (str(HEAD_FILE), 5),
    "redness HyperNoise": ("redness-noise", 1),
    "redness fine-tuned": ("redness-finetune", 1),
}
"""Row of the table to (file, or run that left one; readings)."""

SHOWN = "head, 3 readings"
"""What the picture and the last line are about."""

WORKERS = 2
"""Processes, each of `--threads`."""


@dataclass(kw_only=True)
class DemoArguments:
    """Train and score on the embedded generator."""

    save_dir: str = "outputs/demo"
    """Folder for report.json, comparison.png, curves.png and hypernoise.safetensors. Existing files are replaced."""
    n: int = 480
    """Images per method; a multiple of 60."""
    scale: float = 1.0
    """Scale of the number of training steps: 0.1 for a quick look."""
    threads: int = 1
    """CPU threads of each of the two processes."""

    def __post_init__(self):
        cases(self.n)
        check_folders(self, "save_dir")
        require(self, ("scale",), lambda v: 0 < v <= 10, "a number in (0, 10]")
        require(self, ("threads",), lambda v: v >= 1, "at least 1")


@in_arguments_of(DemoArguments)
def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: those of the command line).

    Raises:
        ValueError: an argument is wrong; nothing has been written.
    """
    args: DemoArguments = parse(DemoArguments, PROG, __doc__, argv)
    torch.set_num_threads(args.threads)
    folder, begun = Path(args.save_dir), time.perf_counter()
    with _workers(args.threads) as pool:
        training = {pool.submit(_train, name, args.scale, folder / name, i): name for i, name in enumerate(RUNS)}
        judging = {}

        def judge(run: str | None) -> None:
            """Queue the rows of a run, or of no run: no process waits for the longest training."""
            for row, (own, readings) in ROWS.items():
                if run == (own if own in RUNS else None):
                    file = folder / run / FINAL_NAME if run else own
                    judging[row] = pool.submit(_judge, file, readings, args.n)

        judge(None)
        for future in as_completed(training):
            future.result()
            judge(training[future])
        trained = time.perf_counter() - begun
        with replacing(folder / FINAL_NAME) as temporary:
            shutil.copyfile(folder / "head" / FINAL_NAME, temporary)
        results = {row: judging[row].result() for row in ROWS}
    _show(folder, results, trained)


@contextmanager
def _workers(threads: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end with the block, however it ends."""
    pool = ProcessPoolExecutor(WORKERS, multiprocessing.get_context("spawn"), torch.set_num_threads, (threads,))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _train(name: str, scale: float, folder: Path, line: int) -> None:
    """Train by a recipe into `folder`, emptied first; the bar is on its own line of the screen."""
    shutil.rmtree(folder, ignore_errors=True)
    args: TrainArguments = parse(TrainArguments, PROG, "", [], str(RECIPES / f"{RUNS[name]}.yaml"))
    prompts, reward = args.load_prompts(), args.load_rewards()
    config = replace(args.training_config(sum(prompts.sizes)), **QUICK.get(name, {}))
    config = replace(
        config,
        max_steps=max(2, round(scale * config.max_steps)),
        warm_start_pictures=round(scale * config.warm_start_pictures),
    )
    trainer = Trainer(load_generator("embedded"), reward, prompts, config)
    Run(trainer, folder, spread(prompts.texts, 8), args, title=name, line=line).train()
    if not trainer.finished:
        raise KeyboardInterrupt


def _judge(file: str | Path | None, readings: int, n: int) -> Result:
    """Pictures of one row, judged."""
    generator, reward = load_generator("embedded"), load_reward("embedded")
    adapter = None if file is None else load_adapter(generator, file)
    return measure(generator, reward, method(generator, adapter, how=Modulation(iterations=readings)), cases(n))


def _show(folder: Path, results: dict[str, Result], training_seconds: float) -> None:
    """Write report.json, comparison.png, redness.png and curves.png, and print the table."""
    base, shown = results["base"], results[SHOWN]
    preference = report(base, shown)
    rows = {name: result.summary() for name, result in results.items()}
    content = {
        "rows": rows,
        "shown": SHOWN,
        "difference": preference["difference"],
        "interval_95": preference["interval_95"],
        "training_seconds": training_seconds,
    }
    with replacing(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    _picture(folder / "comparison.png", base, shown)
    tuned = ("fine-tuned", results["redness fine-tuned"])
    _picture(folder / "redness.png", base, results["redness HyperNoise"], tuned)
    curves(folder / "curves.png", {name: folder / name / METRICS_NAME for name in RUNS})
    low, high = preference["interval_95"]
    print(f"\n{table(rows)}\n\n{category_table(rows)}")
    print(f"\n{SHOWN} - base: {preference['difference']:+.3f}, paired 95 % interval [{low:+.3f}, {high:+.3f}]")
    print(f"{folder}/comparison.png shows the same seeds before and after; report.json holds these numbers")


def _picture(path: Path, base: Result, hypernoise: Result, *others: tuple[str, Result], shown: int = 24) -> None:
    """The first seed of evenly spread prompts, one row per method, with the detector's verdict as a frame."""
    first = range(0, len(base.cases), PER_PROMPT)
    chosen = spread(list(first), shown)
    methods = [("base", base), ("HyperNoise", hypernoise), *others]
    comparison_grid(
        path,
        [(name, to_images(result.pictures[chosen])) for name, result in methods],
        [base.cases[i].prompt.text for i in chosen],
        marks=[[bool(result.correct[i]) for i in chosen] for _, result in methods],
    )


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
