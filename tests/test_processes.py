"""Two gloo processes on a CPU train as one does: the same gradients, numbers and weights, also after a resume."""

import os
import signal
import socket
import time

import forks
import processes_worker
import pytest
import torch
from tiny_pipelines import tiny_generator

from hypernoise_core import Trainer, TrainingConfig
from hypernoise_core.training import processes
from train.__main__ import PROG
from train.__main__ import main as train
from train.cli import run_command


@pytest.fixture(scope="module")
def generator():
    return tiny_generator("sana-sprint")


@pytest.fixture(scope="module")
def left_behind(tmp_path_factory):
    """What each of two processes saved."""
    folder = tmp_path_factory.mktemp("two")
    logs = [folder / f"log-{rank}.txt" for rank in (0, 1)]
    workers = [forks.start(logs[rank], processes_worker.main, folder, rank) for rank in (0, 1)]
    codes = [forks.wait(worker) for worker in workers]
    assert codes == [0, 0], [log.read_text() for log in logs]
    files = folder.glob("*/*.pt")
    return {f"{file.parent.name}/{file.stem}": torch.load(file, weights_only=True) for file in files}


@pytest.mark.parametrize("kind", processes_worker.KINDS)
def test_gradients_and_metrics_equal_one_process(generator, left_behind, kind):
    metrics, gradients = processes_worker.first_step(generator, kind)
    assert all(gradient.abs().max() > 0 for gradient in gradients)
    norm = metrics[0]["grad_norm"]
    for rank in (0, 1):
        got = left_behind[f"{kind}/first-{rank}"]
        assert got["metrics"][0] == pytest.approx(metrics[0], rel=1e-4, abs=1e-6)
        for a, b in zip(got["gradients"], gradients, strict=True):
            assert (a - b).abs().max() <= 1e-6 * norm


@pytest.mark.parametrize("kind", processes_worker.KINDS)
def test_both_processes_hold_the_same_and_resume_bit_for_bit(left_behind, kind):
    first, second = (left_behind[f"{kind}/resumed-{rank}"] for rank in (0, 1))
    (unbroken, resumed), (other, _) = first["weights"], second["weights"]
    assert len(first["metrics"]) == 2
    for a, b, c in zip(unbroken, resumed, other, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_processes_learn_one_critic_of_their_shares_of_the_scores(left_behind):
    first, second = (left_behind[f"critic/{rank}"] for rank in (0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first["weights"], second["weights"], strict=True))
    assert min(first["added"], second["added"]) > 0
    assert first["added"] + second["added"] == (8 + 3 * 2 * 4) * 0.5  # warm-up, three steps of two batches of four
    assert first["told"] == ["replay is not in the checkpoint: critic_warm_up, 8 images, is made again first"]


@pytest.mark.parametrize("sharding", ["FSDP", "DEEPSPEED"])
def test_a_launcher_that_splits_the_model_is_refused(sharding, monkeypatch):
    monkeypatch.setenv(f"ACCELERATE_USE_{sharding}", "true")
    with pytest.raises(ValueError, match="every process holds the whole frozen model"):
        train(["--max_steps=1"])


def test_a_batch_that_cannot_be_shared_is_refused(generator, redness, prompts, monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    with pytest.raises(ValueError, match="batch_size is 4, which 3 processes cannot share"):
        Trainer(generator, redness, prompts, TrainingConfig(rank=4, batch_size=4))


def test_a_process_that_dies_ends_the_others_in_words_and_one_alone_goes_on(toy_model, tmp_path):
    """They see each other by address only, as two machines do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = ["--max_steps=100000", "--batch_size=2", "--lora_rank=2", "--rewards=redness", "--warm_start_pictures=0"]
    line += ["--diagnostics_every=0", "--save_every=5", f"--save_dir={tmp_path / 'run'}"]
    logs = [tmp_path / f"log-{rank}.txt" for rank in (0, 1)]
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    run = [
        forks.start(logs[rank], run_command_and_exit, line, **place, RANK=str(rank), LOCAL_RANK="0") for rank in (0, 1)
    ]
    while not list(tmp_path.glob("run/checkpoints/step-000005")):
        assert all(map(forks.running, run)), [log.read_text() for log in logs]
        time.sleep(0.05)
    os.kill(run[1], signal.SIGKILL)
    killed = time.monotonic()
    assert forks.wait(run[1]) == -signal.SIGKILL
    assert forks.wait(run[0]) == 2
    assert time.monotonic() - killed < 60
    last = logs[0].read_text().splitlines()[-1]
    assert "another process of this run has ended" in last
    assert f"--resume {tmp_path / 'run'}" in last
    step = max(int(path.name[5:]) for path in tmp_path.glob("run/checkpoints/step-*"))
    train([f"--resume={tmp_path / 'run'}", f"--max_steps={step + 2}"])
    assert (tmp_path / "run" / "checkpoints" / f"step-{step + 2:06d}").is_dir()


def run_command_and_exit(line):
    raise SystemExit(run_command(train, PROG, line))
