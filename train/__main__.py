"""Train a HyperNoise LoRA without ComfyUI.

python -m train                                          # the embedded generator, minutes on one CPU core
python -m train --rewards redness=100 --max_steps 100    # train on another reward
python -m train --model sana --prompts prompts.txt       # the paper's settings (train/recipes), on a GPU
python -m train --resume outputs/train-20260101-120000   # resume a run; it ends as if it had not been stopped
accelerate launch --num_processes 4 -m train --model sana --device cuda …   # four GPUs, the same batch size
python -m train --model flux --estimate                  # how much memory it would need; loads nothing
python -m train --print_config > mine.yaml               # write every setting to a file, to edit and pass to --config
"""

import sys
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import yaml

from hypernoise_core.device import check_device
from hypernoise_core.files import replacing
from hypernoise_core.prompt_sets import PromptMix
from hypernoise_core.training import (
    DivergedError,
    LostProcessError,
    NonFiniteError,
    OutOfMemoryError,
    Trainer,
    TrainerState,
    load_trainer_state,
    processes,
)

from .cli import in_arguments_of, option, parse, reworded, run_command
from .config import TrainArguments, default_recipe
from .estimate import estimate, fitted, free_memory
from .launch import join_processes, leave_processes, unused_precision
from .lock import check_free, holding
from .memory import peak_memory
from .pictures import spread
from .resume import CONFIG, Start, config_behind, find_start
from .run import Run

PROG = "python -m train"

UNSTORED = ("save_dir", "resume", "estimate", "fit")
"""Arguments that are of one call, not of the run."""


@in_arguments_of(TrainArguments)
def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: those of the command line).

    Raises:
        ValueError: an argument is wrong; nothing has been written.
    """
    args: TrainArguments = parse(TrainArguments, PROG, __doc__, argv, _recipe(argv))
    torch.set_num_threads(args.threads)
    if args.estimate:
        estimate(args, print, called)
        return
    device = join_processes(args.device)
    if precision := unused_precision():
        _say(f"accelerate's mixed_precision {precision} is ignored: --dtype is {args.dtype}")
    torch.manual_seed(args.seed + processes.rank())  # nothing here draws from it, but a user's reward may
    try:
        # Only the first process looks: names hold the time, and folders may change meanwhile.
        start = processes.gather(_find_start(args) if processes.rank() == 0 else None)[0]
        _train(args, device, start)
    except LostProcessError as error:
        raise ValueError(f"{error.args[0]}, before the first step: start all of them again") from error
    finally:
        leave_processes()


def _find_start(args: TrainArguments) -> Start:
    start = find_start(args.resume, args.save_dir)
    if told := check_free(start.folder):
        _say(told)
    return start


def called(text: str) -> str:
    """Text of the core's, in the names of the command line."""
    return reworded(text, TrainArguments)


def _train(args: TrainArguments, device: str, start: Start) -> None:
    prompts, validation_prompts = _prompts(args)
    config = args.training_config(sum(prompts.sizes))
    check_device(device)
    if (free := free_memory(device)) is not None:
        args = fitted(args, free, _say, called)
        config = args.training_config(sum(prompts.sizes))
    elif args.fit:
        raise ValueError(f"--fit chooses settings for a GPU, and --device is {device}: leave it out")
    reward = args.load_rewards().to(device)
    generator = args.load_generator(device)
    scored = args.load_scores(generator)
    trainer = Trainer(generator, reward, prompts, config, validation_prompts, args.cache_dir, scored)
    state = start.checkpoint.load() if start.checkpoint else None
    if state:
        _say(f"resuming from {start.checkpoint.path}")
        for change in load_trainer_state(trainer, state):
            _say(f"changed: {reworded(change, TrainArguments)}")
        if trainer.finished and not trainer.stop_reason:
            _say(f"nothing is left to do: step {trainer.step} is done, and --max_steps is {config.max_steps}")
    with holding(start.folder) if processes.rank() == 0 else nullcontext():
        _run(trainer, args, start, spread(prompts.texts, 8), state)
    if peak := peak_memory(device):
        _say(f"peak memory on {device}: {peak / 2**30:.2f} GiB")


def _run(trainer: Trainer, args: TrainArguments, start: Start, samples: list[str], state: TrainerState | None) -> None:
    """Train, and say what came of it."""
    run = Run(trainer, start.folder, samples, args, start.checkpoint and start.checkpoint.path, state)
    if processes.rank() == 0:
        stored = {
            key: value for key, value in vars(args).items() if key not in ("save_dir", "resume", "fit", "estimate")
        }
        with replacing(start.folder / CONFIG) as temporary:
            temporary.write_text(yaml.safe_dump(stored, sort_keys=False))
    try:
        run.train()
    except (NonFiniteError, OutOfMemoryError, LostProcessError) as error:
        why = reworded(error.args[0], TrainArguments)
        raise ValueError(f"stopped at step {trainer.step}: {why}; {_what_is_left(error, run)}") from error
    verb = "trained" if trainer.finished else "stopped"
    early = f" ({reworded(trainer.stop_reason, TrainArguments)})" if trainer.stop_reason else ""
    saved = run.adapter_file if trainer.has_trained else "there is nothing to save yet"
    _say(f"{verb} at step {trainer.step}{early}: {saved}")
    if not trainer.finished:
        _say(f"resume with {PROG} --resume {start.folder}")


def _what_is_left(error: Exception, run: Run) -> str:
    if isinstance(error, LostProcessError):
        return f"go on from the last checkpoint, with any number of processes: --resume {run.folder}"
    if not isinstance(error, DivergedError):
        return f"what was trained is in {run.folder}: resume it with --resume"
    if not run.last_checkpoint:
        return "no checkpoint was saved before that: start again"
    return f"{run.last_checkpoint} is from before that: go on from it with --resume {run.folder}"


def _prompts(args: TrainArguments) -> tuple[PromptMix, list[str]]:
    """The prompts to train on and those to validate on. Prompts in both sets are reported, and removed if asked for."""
    prompts, validation = args.load_prompts(), args.load_validation_prompts()
    for what, found in {"duplicates": prompts.duplicates(), "validation prompts": prompts.overlap(validation)}.items():
        if found:
            remedy = "removed" if args.drop_duplicates else "remove them with --drop_duplicates"
            _say(f"{len(found)} of {sum(prompts.sizes)} prompts are {what}, such as {found[0]!r}: {remedy}")
    return (prompts.without(validation) if args.drop_duplicates else prompts), validation


def _say(line: str) -> None:
    if processes.rank() == 0:
        print(line)


def _recipe(argv: Sequence[str] | None) -> str | None:
    """The defaults for the command line: `--config` if given, else the settings of the run that is resumed, else the
    model's recipe, if there is one. It is read first, because the other arguments override it."""
    if option(argv, "config"):
        return None
    behind = config_behind(option(argv, "resume"), option(argv, "save_dir"))
    return behind or default_recipe(option(argv, "model") or TrainArguments.model, option(argv, "hypernetwork"))


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
