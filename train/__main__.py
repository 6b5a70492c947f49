"""Train a HyperNoise LoRA without ComfyUI.

python -m train                                          # the embedded generator, minutes on one CPU core
python -m train --rewards redness=100 --max_steps 100    # another reward
python -m train --model sana --prompts prompts.txt       # the paper's settings (train/recipes), on a GPU
python -m train --print_config > mine.yaml               # every setting, to be edited and given to --config
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
import yaml

from hypernoise_core.training import NonFiniteError, Trainer

from .cli import option, parse, run_command
from .config import TrainArguments, default_recipe
from .memory import peak_memory
from .pictures import spread
from .run import FINAL_NAME, Run

PROG = "python -m train"


def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: the command line's).

    Raises:
        ValueError: something given is wrong; nothing has been written.
    """
    args: TrainArguments = parse(TrainArguments, PROG, __doc__, argv, _recipe(argv))
    torch.set_num_threads(args.threads)
    prompts = args.load_prompts()
    config = args.training_config(len(prompts))
    reward = args.load_rewards().to(args.device)
    generator = args.load_generator()
    trainer = Trainer(generator, reward, prompts, config)
    folder = Path(args.save_dir or f"outputs/train-{time.strftime('%Y%m%d-%H%M%S')}")
    run = Run(trainer, folder, spread(prompts, 8), args.log_every, args.save_every)
    (folder / "config.yaml").write_text(yaml.safe_dump(vars(args), sort_keys=False))
    try:
        finished = run.train()
    except NonFiniteError as error:
        trainer.save(folder / FINAL_NAME)
        raise ValueError(
            f"stopped at step {trainer.step}: {error}; what was trained is in {folder / FINAL_NAME}"
        ) from error
    print(f"{'trained' if finished else 'stopped'} at step {trainer.step}: {folder / FINAL_NAME}")
    if peak := peak_memory(args.device):
        print(f"most memory used on {args.device}: {peak / 2**30:.2f} GiB")


def _recipe(argv: Sequence[str] | None) -> str | None:
    """What stands behind the line: `--config` if given, else the model's own recipe where there is one. Read before
    the rest, since the rest is laid over it."""
    return None if option(argv, "config") else default_recipe(option(argv, "model") or TrainArguments.model)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
