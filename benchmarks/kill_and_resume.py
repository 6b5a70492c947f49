"""Kill a training run with SIGKILL many times, restart it each time, and compare it with an uninterrupted run.

python -m benchmarks.kill_and_resume                # 20 kills at random moments, every second one inside a write
python -m benchmarks.kill_and_resume --kills 50 --seed 1
python -m benchmarks.kill_and_resume --processes 2  # two gloo processes train together, and all of them are killed
python -m benchmarks.kill_and_resume --kind head    # a head on its own iterates in place of a LoRA

Runs are forked, so a kill costs the training and not the imports. POSIX systems only.
"""

import argparse
import os
import random
import signal
import socket
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from hypernoise_core.training import Checkpoints
from train.__main__ import main as train

RUN = [
    *("--rewards=redness", "--batch_size=2", "--accumulation_steps=2", "--optim=adamw", "--lr=1e-3", "--ema_decay=0.9"),
    *("--diagnostics_every=20", "--validate_every=15", "--save_every=1", "--log_every=1000", "--trackers="),
    "--resume=auto",
]
KINDS = {
    "lora": ["--lora_rank=4", "--warm_start_pictures=4"],
    "head": ["--hypernetwork=head", "--head_width=32", "--head_depth=1", "--iterations=3"],
    "critic": [
        *("--hypernetwork=head", "--head_width=32", "--head_depth=1", "--teacher=critic", "--critic_width=32"),
        *("--critic_depth=1", "--critic_warm_up=4", "--replay=16", "--score_share=0.5"),
    ],
}
PROMPTS = ["a photo of a square", "two crosses", "a red triangle", "a blue cross", "three squares"]


@dataclass(frozen=True)
class Outcome:
    kills: int
    half_written: int
    """Kills that left a checkpoint half written."""
    state_equal: bool
    metrics_equal: bool
    adapter_equal: bool

    @property
    def exact(self) -> bool:
        return self.state_equal and self.metrics_equal and self.adapter_equal


def kill_and_resume(
    folder: Path, kills: int, steps: int, seed: int = 0, processes: int = 1, kind: str = "lora"
) -> Outcome:
    """Train in `folder`/whole without a kill and in `folder`/broken with `kills` of them, and compare. With several
    processes a kill takes all of them, in any order. `kind` is one of `KINDS`."""
    (folder / "train.txt").write_text("\n".join(PROMPTS))
    (folder / "validation.txt").write_text("four squares")
    rng, whole, broken = random.Random(seed), folder / "whole", folder / "broken"
    _wait(_start(folder, whole, steps, processes, kind))
    done = half_written = 0
    while done < kills:
        goal = round(steps * rng.uniform(done, done + 1) / (kills + 1))
        run = _start(folder, broken, steps, processes, kind)
        _wait_to_kill(run, broken, goal, rng, in_write=done % 2 == 1)
        for process in rng.sample(run, len(run)):
            os.kill(process, signal.SIGKILL)
        for process in run:
            os.waitpid(process, 0)
        done += 1
        half = bool(list((broken / "checkpoints").glob(".step-*")))
        half_written += half
        newest = Checkpoints(broken / "checkpoints").newest()
        print(f"kill {done}: newest complete is {newest.path.name if newest else 'none'}" + ", one half written" * half)
    _wait(_start(folder, broken, steps, processes, kind))
    return _compare(whole, broken, done, half_written)


def _start(folder: Path, save_dir: Path, steps: int, processes: int, kind: str) -> list[int]:
    """A training run; the ids of its processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    own = [*KINDS[kind], f"--max_steps={steps}", f"--save_dir={save_dir}"]
    return [_fork(folder, own, rank, processes, port) for rank in range(processes)]


def _fork(folder: Path, arguments: list[str], rank: int, processes: int, port: int) -> int:
    run = os.fork()
    if run:
        return run
    code = 1
    try:
        together = {"WORLD_SIZE": processes, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in together.items()}, MASTER_ADDR="127.0.0.1")
        AcceleratorState._reset_state(reset_partial_state=True)  # what the parent has been: a process on its own
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        log = os.open(folder / f"stderr-{rank}.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(log, 2)
        prompts = [f"--prompts={folder / 'train.txt'}", f"--validation_prompts={folder / 'validation.txt'}"]
        train([*RUN, *prompts, *arguments])
        code = 0
    finally:
        os._exit(code)


def _wait(run: list[int]) -> None:
    codes = [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in run]
    assert not any(codes), f"a run ended with exit codes {codes}"


def _wait_to_kill(run: list[int], folder: Path, goal: int, rng: random.Random, in_write: bool) -> None:
    """Until some moment after the checkpoint of step `goal`, or within the writing of one after it."""
    checkpoints = Checkpoints(folder / "checkpoints")
    while goal and ((newest := checkpoints.newest()) is None or newest.step < goal):
        assert all(os.waitpid(process, os.WNOHANG) == (0, 0) for process in run), "a run ended before it was killed"
        time.sleep(0.05)
    if not in_write:
        time.sleep(rng.uniform(0, 0.5))
        return
    while not any((folder / "checkpoints").glob(".step-*")):
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.02))


def _compare(whole: Path, broken: Path, kills: int, half_written: int) -> Outcome:
    newest = [Checkpoints(run / "checkpoints").newest().path for run in (whole, broken)]
    return Outcome(
        kills,
        half_written,
        state_equal=_equal(*(load_file(path / "state.safetensors") for path in newest)),
        metrics_equal=(whole / "metrics.jsonl").read_bytes() == (broken / "metrics.jsonl").read_bytes(),
        adapter_equal=_equal(*(load_file(run / "hypernoise.safetensors") for run in (whole, broken))),
    )


def _equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--kind", choices=KINDS, default="lora")
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_and_resume(Path(folder), args.kills, args.steps, args.seed, args.processes, args.kind)
    print(f"{outcome.kills} kills, {outcome.half_written} of them left a checkpoint half written")
    print(f"all state tensors bit for bit equal to the run that was left alone: {outcome.state_equal}")
    print(f"metrics.jsonl byte for byte equal: {outcome.metrics_equal}")
    print(f"final adapter bit for bit equal: {outcome.adapter_equal}")
    sys.exit(not outcome.exact)


if __name__ == "__main__":
    main()
