"""The method from training to scores on the embedded generator, in minutes on a CPU: `make demo`.

Trains three adapters from zero: a noise hypernetwork on the embedded preference reward and, on redness, a noise
hypernetwork and direct fine-tuning with the same budget. Scores them with the exact detector, which none of them was
trained on, on held-out prompts and unseen seeds.
"""

import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hypernoise_core import Generator, Trainer, load_generator, load_reward
from hypernoise_core.embedded.benchmark import PER_PROMPT, Result, cases, measure
from hypernoise_core.files import replacing
from hypernoise_core.hypernetworks import Adapter
from hypernoise_core.settings import require

from .cli import check_folders, in_arguments_of, parse, run_command
from .config import RECIPES, TrainArguments
from .evaluation.embedded import adapter_method, base_method, category_table, report, table
from .pictures import comparison_grid, curves, spread, to_images
from .run import FINAL_NAME, METRICS_NAME, Run

PROG = "python -m train.demo"

RUNS = {
    "preference": "embedded",
    "redness-noise": "embedded-redness",
    "redness-finetune": "embedded-redness-finetune",
}
"""Folder of each run to its recipe."""

TITLES = dict(zip(RUNS, ("HyperNoise", "redness HyperNoise", "redness fine-tuned"), strict=True))


@dataclass(kw_only=True)
class DemoArguments:
    """Train and score on the embedded generator."""

    save_dir: str = "outputs/demo"
    """Folder for report.json, comparison.png, curves.png and hypernoise.safetensors. Existing files are replaced."""
    n: int = 900
    """Images per method; a multiple of 60."""
    scale: float = 1.0
    """Scale of the number of training steps: 0.1 for a quick look."""
    threads: int = 1
    """CPU threads. 2 are about 1.5 times as fast on an idle machine."""

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
    generator, judge_reward = load_generator("embedded"), load_reward("embedded")

    adapters = {name: _train(generator, recipe, args.scale, folder / name) for name, recipe in RUNS.items()}
    trained = time.perf_counter() - begun
    with replacing(folder / FINAL_NAME) as temporary:
        shutil.copyfile(folder / "preference" / FINAL_NAME, temporary)

    todo = cases(args.n)
    base = measure(generator, judge_reward, base_method(generator), todo)
    results = {
        TITLES[name]: measure(generator, judge_reward, adapter_method(adapter), todo)
        for name, adapter in adapters.items()
    }
    _show(folder, base, results, trained)


def _train(generator: Generator, recipe: str, scale: float, folder: Path) -> Adapter:
    """Train by a recipe into `folder`, which is emptied first. Returns the adapter with its averaged weights."""
    shutil.rmtree(folder, ignore_errors=True)
    args: TrainArguments = parse(TrainArguments, PROG, "", [], str(RECIPES / f"{recipe}.yaml"))
    prompts, reward = args.load_prompts(), args.load_rewards()
    config = args.training_config(sum(prompts.sizes))
    config = replace(
        config,
        max_steps=max(2, round(scale * config.max_steps)),
        warm_start_pictures=round(scale * config.warm_start_pictures),
    )
    trainer = Trainer(generator, reward, prompts, config)
    Run(trainer, folder, spread(prompts.texts, 8), args).train()
    if not trainer.finished:
        raise KeyboardInterrupt
    return type(trainer.adapter).load(generator, folder / FINAL_NAME)


def _show(folder: Path, base: Result, results: dict[str, Result], training_seconds: float) -> None:
    """Write report.json, comparison.png and curves.png, and print the table."""
    preference = report(base, results["HyperNoise"])
    rows = {"base": base.summary()} | {name: result.summary() for name, result in results.items()}
    content = {
        "preference": {"base": rows["base"], "hypernoise": rows["HyperNoise"]},
        "preference_difference": {key: preference[key] for key in ("difference", "interval_95")},
        "redness": {
            "base": rows["base"],
            "hypernoise": rows["redness HyperNoise"],
            "finetune": rows["redness fine-tuned"],
        },
        "training_seconds": training_seconds,
    }
    with replacing(folder / "report.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1))
    _picture(folder / "comparison.png", base, results["HyperNoise"])
    _picture(folder / "redness.png", base, results["redness HyperNoise"], ("fine-tuned", results["redness fine-tuned"]))
    curves(folder / "curves.png", {name: folder / name / METRICS_NAME for name in RUNS})
    low, high = preference["interval_95"]
    print(f"\n{table(rows)}\n\n{category_table(rows)}")
    print(f"\nHyperNoise - base: {preference['difference']:+.3f}, paired 95 % interval [{low:+.3f}, {high:+.3f}]")
    print(f"{folder}/comparison.png shows the same seeds before and after; report.json has these numbers")


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
