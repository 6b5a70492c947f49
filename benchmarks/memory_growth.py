"""Measure whether memory grows in a long training run: resident memory over its steps, on real prompts, with everything
that a run writes.

python -m benchmarks.memory_growth --prompts t2i-compbench,abc-6k --prompts_dir FOLDER
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import psutil
import torch

from train import __main__ as command
from train.run import Run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", default="embedded")
    parser.add_argument("--prompts_dir", default=None)
    parser.add_argument("--steps", type=int, default=1200)
    args = parser.parse_args()
    torch.set_num_threads(1)
    measured: list[tuple[int, float]] = []
    process, save_if_due = psutil.Process(), Run._save_if_due

    def measure(run: Run, event) -> None:
        save_if_due(run, event)
        if event.step and event.step % 10 == 0:
            measured.append((event.step, process.memory_info().rss / 2**20))

    Run._save_if_due = measure
    with tempfile.TemporaryDirectory() as folder:
        command.main(
            [
                *("--rewards=redness", "--batch_size=2", "--lora_rank=4", "--warm_start_pictures=0"),
                *("--save_every=100", "--log_every=100", "--validate_every=200", "--diagnostics_every=100"),
                *(f"--prompts={args.prompts}", f"--max_steps={args.steps}", f"--save_dir={Path(folder) / 'run'}"),
                *([f"--prompts_dir={args.prompts_dir}"] if args.prompts_dir else []),
            ]
        )
    report(measured)


def report(measured: list[tuple[int, float]]) -> None:
    """The slope after the first fifth, in which everything is allocated once."""
    steps, rss = np.array(measured[len(measured) // 5 :]).T
    slope = np.polyfit(steps, rss, 1)[0]
    print(f"RSS {measured[0][1]:.0f} MB at step {measured[0][0]}, {rss[0]:.0f} at {steps[0]:.0f}, ", end="")
    print(f"{rss[-1]:.0f} at {steps[-1]:.0f}; highest {max(r for _, r in measured):.0f}")
    print(f"slope from step {steps[0]:.0f} on: {1000 * slope:+.2f} MB per 1,000 steps")


if __name__ == "__main__":
    main()
