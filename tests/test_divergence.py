"""A training that runs away: it stops, names the settings, and keeps what was good."""

import math

import pytest
import torch
from conftest import randomized
from toy_world import ToyGenerator

from hypernoise_core import Trainer, TrainingConfig
from hypernoise_core.hypernetworks.adapter_file import read_adapter
from hypernoise_core.training import Checkpoints, DivergedError
from hypernoise_core.training.divergence import runaway
from train import __main__ as train_command
from train.cli import run_command

RUN = [
    *("--rewards=redness", "--prompts=p.txt", "--batch_size=2", "--lora_rank=4", "--trackers=", "--warmup_steps=0"),
    *("--log_every=100", "--save_every=1", "--diagnostics_every=0", "--warm_start_pictures=0", "--temperature=0.01"),
]
TOO_HIGH = ["--optim=adamw", "--lr=1e4"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a red square\na blue cross\n")
    return tmp_path


def train(capsys, *argv):
    """(exit code, the line on stderr, stdout) of a command."""
    capsys.readouterr()
    code = run_command(train_command.main, "train", [*RUN, *argv])
    shown = capsys.readouterr()
    return code, next((row for row in shown.err.splitlines() if row.startswith("train: error")), ""), shown.out


def test_it_goes_back_to_the_last_good_checkpoint(folder, toy_model, capsys):
    code, _, _ = train(capsys, "--save_dir=run", "--max_steps=2", "--optim=adamw", "--lr=1e-4")
    assert code == 0
    good, _ = read_adapter("run/checkpoints/step-000002/hypernoise.safetensors")

    code, line, _ = train(capsys, "--resume=run", "--max_steps=9", *TOO_HIGH)
    assert code == 2
    assert "lower --lr from 10000, such as to 3333.33, or raise --temperature from 0.01" in line
    assert "run/checkpoints/step-000002 is from before that: go on from it with --resume run" in line
    assert "reward" not in line
    assert [checkpoint.step for checkpoint in Checkpoints("run/checkpoints").all()] == [1, 2]
    kept, _ = read_adapter("run/hypernoise.safetensors")
    assert all(torch.equal(kept[name], weight) for name, weight in good.items())

    code, _, _ = train(capsys, "--resume=run", "--max_steps=3", "--lr=1e-4")
    assert code == 0
    assert Checkpoints("run/checkpoints").newest().step == 3


@pytest.mark.parametrize("train_type", ["noise", "finetune"])
@pytest.mark.parametrize("lr", ["1e4", "1e30"])
def test_without_a_good_checkpoint_nothing_is_saved(folder, toy_model, capsys, lr, train_type):
    code, line, _ = train(
        capsys, "--save_dir=run", "--max_steps=9", "--optim=adamw", f"--lr={lr}", f"--train_type={train_type}"
    )
    assert code == 2
    assert "lower --lr" in line
    assert "no checkpoint was saved before that: start again" in line
    assert "reward" not in line
    assert not list(folder.rglob("*.safetensors"))


def test_the_bound_is_in_norms_of_the_noise():
    for reduction, unit in (("sum", 100), ("mean", 1)):
        config = TrainingConfig(kl_reduction=reduction)
        assert runaway(7.9 * unit, 100, config) is None
        for kl in (8.1 * unit, math.inf, math.nan):
            assert "lower lr" in runaway(kl, 100, config)


def test_sound_weights_have_no_fault_and_others_do(redness):
    config = TrainingConfig(rank=4, alpha=8, batch_size=2)
    t = Trainer(ToyGenerator(), redness, ["a red square"], config)
    randomized(t.adapter)
    before = t.random.get_state()
    assert t.fault() is None
    assert torch.equal(t.random.get_state(), before)
    with torch.no_grad():
        t.parameters[-1].fill_(1e6)
    assert "the weights have grown up to 1e+06" in t.fault()
    with pytest.raises(DivergedError, match="outgrown the noise"):
        list(t.events())
    assert t.step == 0
    with torch.no_grad():
        t.parameters[-1].fill_(math.nan)
    assert "the weights have grown up to nan" in t.fault()


def test_fewer_steps_than_are_done_is_said(folder, toy_model, capsys):
    train(capsys, "--save_dir=run", "--max_steps=3")
    code, _, out = train(capsys, "--resume=run", "--max_steps=2")
    assert code == 0
    assert "nothing is left to do: step 3 is done, and --max_steps is 2" in out
    code, _, out = train(capsys, "--resume=run", "--max_steps=4")
    assert code == 0
    assert "nothing is left" not in out
