"""Kill a training run again and again, start it again each time, and compare it with one that was left alone.

python -m benchmarks.kill_and_resume                       # 20 kills, half of them while a checkpoint is being written
python -m benchmarks.kill_and_resume --processes 2         # the same with two gloo processes
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from hypernoise_core.training import Checkpoints

RUN = [
    *("--rewards=redness", "--lora_rank=4", "--batch_size=4", "--accumulation_steps=2", "--optim=adamw", "--lr=1e-3"),
    *("--ema_decay=0.9", "--warm_start_pictures=16", "--diagnostics_every=25", "--validate_every=50", "--save_every=1"),
    *("--log_every=1000", "--trackers=", "--resume=auto"),
]


def start(folder: Path, steps: int, processes: int) -> subprocess.Popen:
    """The command, in a process group of its own."""
    launch = ["-m", "accelerate.commands.launch", "--cpu", f"--num_processes={processes}", "--mixed_precision=no"]
    launch += ["--num_machines=1", "--dynamo_backend=no", "--main_process_port=0"]
    command = [sys.executable, *(launch if processes > 1 else []), "-m", "train", *RUN]
    command += [f"--max_steps={steps}", f"--save_dir={folder}"]
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, env={**os.environ}
    )


def kill(process: subprocess.Popen) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def wait_for(process: subprocess.Popen, folder: Path, steps: int, rng: random.Random, in_write: bool) -> bool:
    """Until a moment to kill at: a random step, or a checkpoint that is being written after it. False if it ended."""
    newest = Checkpoints(folder / "checkpoints").newest()
    begun = newest.step if newest else 0
    goal = min(steps - 1, begun + rng.randint(0, 6))
    while process.poll() is None:
        newest = Checkpoints(folder / "checkpoints").newest()
        if (newest.step if newest else 0) >= goal:
            if not in_write:
                time.sleep(rng.uniform(0, 0.5))
                return process.poll() is None
            if any((folder / "checkpoints").glob(".step-*")):
                time.sleep(rng.uniform(0, 0.01))
                return True
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        whole, broken = Path(name) / "whole", Path(name) / "broken"
        finish(start(whole, args.steps, args.processes))
        kills = half_written = 0
        while kills < args.kills:
            process = start(broken, args.steps, args.processes)
            if not wait_for(process, broken, args.steps, rng, in_write=kills % 2 == 1):
                finish(process)
                break
            kill(process)
            kills += 1
            left = list((broken / "checkpoints").glob(".step-*"))
            half_written += bool(left)
            newest = Checkpoints(broken / "checkpoints").newest()
            print(f"kill {kills}: newest complete {newest.path.name if newest else 'none'}, half written {len(left)}")
        finish(start(broken, args.steps, args.processes))
        report(whole, broken, kills, half_written)


def finish(process: subprocess.Popen) -> None:
    _, error = process.communicate()
    assert process.returncode == 0, error.decode()


def report(whole: Path, broken: Path, kills: int, half_written: int) -> None:
    states = [
        load_file(Checkpoints(run / "checkpoints").newest().path / "state.safetensors") for run in (whole, broken)
    ]
    equal = states[0].keys() == states[1].keys() and all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    rows = [(run / "metrics.jsonl").read_bytes() for run in (whole, broken)]
    adapters = [(run / "hypernoise.safetensors").read_bytes() for run in (whole, broken)]
    print(f"{kills} kills, {half_written} of them left half a checkpoint")
    print(f"all {len(states[0])} state tensors equal: {equal}")
    print(f"metrics.jsonl ({len(rows[0].splitlines())} rows) byte for byte equal: {rows[0] == rows[1]}")
    print(f"adapter file byte for byte equal: {adapters[0] == adapters[1]}")
    sys.exit(not (equal and rows[0] == rows[1] and adapters[0] == adapters[1]))


if __name__ == "__main__":
    main()
