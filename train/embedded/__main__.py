"""Make the embedded world again from nothing: draw, train, save, score.

python -m train.embedded                  # every stage; continues where a stopped one left off (hours on one core)
python -m train.embedded --work outputs/mine --install false     # leaves the shipped weights alone
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hypernoise_core import load_generator, load_reward
from hypernoise_core.embedded import GENERATOR_FOLDER, HYPERNOISE_FILE, REWARD_FOLDER
from hypernoise_core.embedded.benchmark import cases, measure
from hypernoise_core.settings import require

from ..__main__ import main as train_hypernoise
from ..cli import check_folders, in_arguments_of, parse, run_command
from ..evaluation.embedded import category_table, method, table
from ..run import FINAL_NAME
from . import autoencoder, generator, pipeline, reward

PROG = "python -m train.embedded"


@dataclass(kw_only=True)
class EmbeddedArguments:
    """Train the embedded generator, its reward and its HyperNoise LoRA."""

    work: str = "outputs/embedded"
    """Folder for checkpoints and data (about 300 MB). Finished stages there are not repeated."""
    install: bool = True
    """Replace the shipped weights with the new ones."""
    files: int = 60
    """Number of files with 2000 pairs of noise and image each."""
    threads: int = 1
    """CPU threads."""

    def __post_init__(self):
        check_folders(self, "work")
        require(self, ("files", "threads"), lambda v: v >= 1, "at least 1")


@in_arguments_of(EmbeddedArguments)
def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: those of the command line).

    Raises:
        ValueError: an argument is wrong; nothing has been written.
    """
    args: EmbeddedArguments = parse(EmbeddedArguments, PROG, __doc__, argv)
    torch.set_num_threads(args.threads)
    work = Path(args.work)
    coder = autoencoder.train(work)
    print(f"autoencoder: {autoencoder.reconstruction_score(coder):.3f} of pictures keep all their things")
    sprinter = generator.train(work, coder, generator.make_pairs(work, coder, args.files))
    folders = (GENERATOR_FOLDER, REWARD_FOLDER) if args.install else (work / "pipeline", work / "reward-model")
    pipeline.save(folders[0], coder, sprinter)
    reward.save(reward.train(work, coder), folders[1])

    loaded, judge_reward = load_generator(str(folders[0])), load_reward("embedded", str(folders[1]))
    rows = {
        f"base, {steps} step(s)": measure(loaded, judge_reward, method(loaded, steps=steps), cases(900)).summary()
        for steps in (1, 2, 4)
    }
    print(f"{table(rows)}\n{category_table(rows)}")
    if args.install:
        train_hypernoise([f"--save_dir={work / 'hypernoise'}", f"--threads={args.threads}"])
        (work / "hypernoise" / FINAL_NAME).replace(HYPERNOISE_FILE)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
