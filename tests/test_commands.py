"""The command lines, called as they are, and what they leave behind."""

import json
import multiprocessing
import os
import re
import shutil
import signal
import time
from pathlib import Path

import forks
import pytest
import torch
from conftest import randomized, randomized_head
from PIL import Image
from toy_world import ToyGenerator

from hypernoise_core import HeadHypernetwork, LoraHypernetwork, reno
from hypernoise_core.embedded import HEAD_FILE, HYPERNOISE_FILE
from hypernoise_core.rewards import parse_rewards, score_images
from train import __main__ as train_command
from train import demo, evaluate, generate
from train.cli import parse
from train.config import TrainArguments

QUICK = [
    *("--max_steps=2", "--batch_size=2", "--lora_rank=4", "--warm_start_pictures=4"),
    *("--log_every=1", "--save_every=1", "--diagnostics_every=2"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_steps_leave_everything(folder, toy_model):
    train_command.main([*QUICK, "--save_dir=run"])
    run = folder / "run"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 2]
    assert {"loss", "reward", "kl", "reward/embedded", "grad_norm", "clipped", "lr"} <= set(rows[0])
    assert {"lipschitz", "kl_second_order", "noise_std"} <= set(rows[2])
    assert (run / "checkpoints/step-000001/hypernoise.safetensors").is_file()
    assert list((run / "tensorboard").iterdir())
    for picture in ("curves.png", "samples/step-000001.png", "samples/last.png"):
        assert Image.open(run / picture).width > 500
    adapter = LoraHypernetwork.load(toy_model, run / "hypernoise.safetensors")
    assert adapter.training["steps_trained"] == "2"
    assert not [p for p in run.rglob("*") if p.name.startswith(".")]
    assert "base_model: toy" in (run / "README.md").read_text()


def test_a_printed_configuration_repeats_the_run(folder, toy_model, capsys):
    with pytest.raises(SystemExit):
        train_command.main(["--print_config", *QUICK, "--rewards=redness"])
    (folder / "mine.yaml").write_text(capsys.readouterr().out)
    train_command.main(["--config=mine.yaml", "--save_dir=a"])
    train_command.main([*QUICK, "--rewards=redness", "--save_dir=b"])
    assert (folder / "a/metrics.jsonl").read_text() == (folder / "b/metrics.jsonl").read_text()


def test_a_run_goes_on_with_its_own_settings_and_tells_what_changed(folder, toy_model, capsys):
    train_command.main([*QUICK, "--rewards=redness", "--save_dir=run", "--max_steps=3", "--validate_every=2"])
    shutil.copytree("run", "other")
    Path("run/checkpoints/step-000003/complete.json").unlink()  # as if it had been killed in its last step
    capsys.readouterr()
    train_command.main(["--resume=run", "--keep_checkpoints=1"])
    out = capsys.readouterr().out
    assert "resuming from run/checkpoints/step-000002" in out
    assert "changed:" not in out
    assert (folder / "run/metrics.jsonl").read_text() == (folder / "other/metrics.jsonl").read_text()
    train_command.main(["--resume=auto", "--save_dir=other", "--max_steps=4"])
    assert "changed: --max_steps: 3 -> 4" in capsys.readouterr().out
    report, card = ((folder / "other" / name).read_text() for name in ("report.md", "README.md"))
    assert "4 of 4 steps" in report
    assert "validation/score" in report
    assert all((folder / "other" / name).is_file() for name in re.findall(r"\]\((.*?)\)", report))
    assert "base_model: toy" in card
    with pytest.raises(ValueError, match="--lora_rank is 8, the checkpoint has 4"):
        train_command.main(["--resume=other", "--lora_rank=8"])
    oldest = min(path.parent for path in Path("other/checkpoints").glob("*/complete.json"))
    with pytest.raises(ValueError, match=f"{oldest.name} is older than step-000004"):
        train_command.main([f"--resume={oldest}"])


def test_what_is_validated_on_can_be_removed_from_training(folder, toy_model, capsys):
    (folder / "p.txt").write_text("a red square\ntwo crosses\nA red  square.\na blue cross\n")
    (folder / "v.txt").write_text("Two crosses\n")
    line = [*QUICK, "--rewards=redness", "--prompts=p.txt", "--validation_prompts=v.txt", "--validate_every=2"]
    train_command.main([*line, "--save_dir=a"])
    out = capsys.readouterr().out
    assert "1 of 4 prompts are duplicates, such as 'A red  square.': remove them with --drop_duplicates" in out
    assert "1 of 4 prompts are validation prompts, such as 'two crosses'" in out
    train_command.main([*line, "--save_dir=b", "--drop_duplicates"])
    assert "2 prompts, " in (folder / "b/report.md").read_text()


def test_the_references_names_are_accepted(folder, toy_model):
    line = (
        "--model embedded --task embedded --train_type finetune --lr 1e-3 --epochs 1 --batch_size 42 --optim sgd "
        "--accumulation_steps 2 --lora_rank 4 --alpha_multiplier 2 --last_layer_name 2 --latent_type batch "
        "--use_checkpoint --memsave --enable_modulate_noise --enable_red --red_weighting 2 --save_dir run "
        "--save_every 5 --log_every 5 --seed 3"
    )
    train_command.main(line.split())
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 1
    assert "reward/redness" in rows[0]


@pytest.mark.parametrize(
    ("words", "expected"),
    [([], False), (["--use_checkpoint"], True), (["--use_checkpoint=hypernetwork"], "hypernetwork")],
)
def test_what_is_recomputed_is_a_switch_or_a_name(words, expected):
    arguments = parse(TrainArguments, "train", "", words)
    assert arguments.training_config(prompt_count=1).gradient_checkpointing == expected


@pytest.mark.parametrize("how", [{}, {"strength": 0.5, "iterations": 2}])
def test_generate_pairs_base_and_hypernoise(folder, generator, hypernetwork, how):
    hypernetwork.save(folder / "a.safetensors")
    (folder / "prompts.txt").write_text("a red square\n\ntwo crosses\n")
    line = ["--adapter", "a.safetensors", "--prompts", "prompts.txt", "--n", "2", "--seed", "5", "--save_dir", "out"]
    generate.main([*line, *(f"--{name}={value}" for name, value in how.items())])
    assert sorted(p.name for p in (folder / "out/base").iterdir()) == sorted(
        p.name for p in (folder / "out/hypernoise").iterdir()
    )
    assert json.loads((folder / "out/prompts.json").read_text()) == {"0000": "a red square", "0001": "two crosses"}
    x0, conditioning = generator.noise(1, seed=6), generator.encode(["two crosses"])
    with torch.no_grad():
        expected = (hypernetwork.generate(x0, conditioning, seed=6, **how)[0] * 255).round().byte()
    with Image.open(folder / "out/hypernoise/0001-6.png") as image:
        assert torch.equal(torch.tensor(list(image.tobytes())).view(64, 64, 3).permute(2, 0, 1), expected)


def test_best_of_n_keeps_the_best_seeds_in_order(folder, generator, capsys):
    """The order is that of scoring the same seeds' pictures as the nodes do: [B, H, W, 3] batches through a reward."""
    line = "--prompt|two crosses|--best_of|5|--n|2|--reward|embedded,redness=3|--seed|7|--save_dir|out"
    generate.main(line.split("|"))
    conditioning = generator.encode(["two crosses"])
    with torch.no_grad():
        made = [generator.generate(generator.noise(1, seed=s), conditioning, seed=s) for s in range(7, 12)]
    batch = torch.cat(made).movedim(1, -1)
    scores = score_images(parse_rewards("embedded,redness=3"), batch, "two crosses")["ensemble"]
    expected = [7 + i for i in sorted(range(5), key=lambda i: -scores[i].item())]
    written = json.loads((folder / "out/scores.json").read_text())["0000"]
    assert [row["seed"] for row in written["base"]] == expected
    assert [row["ensemble"] for row in written["base"]] == pytest.approx(sorted(scores.tolist(), reverse=True))
    for name in ("base", "hypernoise"):
        best = [f"0000-{row['seed']}.png" for row in written[name][:2]]
        assert sorted(p.name for p in (folder / "out" / name).iterdir()) == sorted(best)
    assert {"seed", "embedded", "redness", "ensemble"} == set(written["hypernoise"][0])


def test_reno_goes_on_from_the_adapters_noise(folder, generator, hypernetwork):
    """The kept pictures are those of the core's search from the modulated noise of the best seeds."""
    hypernetwork.save(folder / "a.safetensors")
    line = "--adapter a.safetensors --prompt crosses --best_of 3 --n 2 --reno 2 --reward redness --reno_lr 20"
    generate.main([*line.split(), "--save_dir=out"])
    rows = json.loads((folder / "out/scores.json").read_text())["0000"]["hypernoise"]
    assert len(rows) == 3
    conditioning, reward = generator.encode(["crosses"]), parse_rewards("redness")
    text = reward.encode_text(["crosses"])
    seed = rows[0]["seed"]
    x0 = generator.noise(1, seed=seed)
    found = reno(generator, reward, x0, conditioning, text, 2, lr=20, start=hypernetwork.modulate, seed=seed)
    assert rows[0]["ensemble"] == pytest.approx(found.scores.item(), abs=1e-6)
    assert all(row["ensemble"] >= row["before_reno"] for row in rows[:2])
    assert rows[0]["ensemble"] >= rows[1]["ensemble"]
    assert "before_reno" not in rows[2]
    kept = {path.name for path in (folder / "out/hypernoise").iterdir()}
    assert kept == {f"0000-{row['seed']}.png" for row in rows[:2]}


def test_evaluate_scores_a_pair(folder, toy_model, capsys):
    randomized(LoraHypernetwork(toy_model, rank=4, alpha=8)).save(folder / "a.safetensors")
    evaluate.main(["--adapter", "a.safetensors", "--n", "60", "--steps", "1,2", "--save_dir", "out"])
    report = json.loads((folder / "out/evaluation.json").read_text())
    assert set(report["steps"]) == {"1", "2"}
    low, high = report["steps"]["1"]["interval_95"]
    assert low <= report["steps"]["1"]["difference"] <= high
    assert "95 % interval" in capsys.readouterr().out


def test_the_demo_end_to_end_at_a_fraction_of_its_length(folder, monkeypatch, capsys):
    """With small batches, on the toy model with adapters of its own as if shipped, and in processes that have their
    imports already."""
    shipped = {str(HYPERNOISE_FILE): LoraHypernetwork(ToyGenerator(), rank=4, alpha=8)}
    shipped[str(HEAD_FILE)] = HeadHypernetwork.new(ToyGenerator(), width=32, depth=1)
    for file, f in shipped.items():
        (randomized if file == str(HYPERNOISE_FILE) else randomized_head)(f).save(folder / Path(file).name)
    rows = {name: (Path(own).name if own in shipped else own, count) for name, (own, count) in demo.ROWS.items()}
    monkeypatch.setattr(demo, "ROWS", rows)
    monkeypatch.setattr(demo, "load_generator", lambda name: ToyGenerator())
    for name in demo.RUNS.values():
        recipe = (demo.RECIPES / f"{name}.yaml").read_text()
        assert "\nbatch_size: " in recipe
        (folder / f"{name}.yaml").write_text(re.sub(r"\nbatch_size: .*", "\nbatch_size: 4", recipe))
    monkeypatch.setattr(demo, "RECIPES", folder)
    monkeypatch.setattr(demo, "QUICK", {name: row | {"batch_size": 4} for name, row in demo.QUICK.items()})
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(demo.multiprocessing, "get_context", lambda method: fork)
    demo.main(["--scale", "0.02", "--n", "60", "--save_dir", "out"])
    report = json.loads((folder / "out/report.json").read_text())
    assert set(report["rows"]) == set(demo.ROWS)
    wanted = {"detector_mean", "detector_strict", "categories", "reward", "diversity", "redness", "kl", "noise_std"}
    for row in report["rows"].values():
        assert wanted | {"seconds_per_image", "n"} <= set(row)
        assert row["n"] == 60
    for name in ("comparison.png", "redness.png", "curves.png", "hypernoise.safetensors"):
        assert (folder / "out" / name).stat().st_size > 1000
    assert "fine-tuned" in capsys.readouterr().out


def test_a_stopped_run_keeps_what_it_trained(folder):
    """Ctrl-C in the middle: the step is finished, the adapter saved."""
    (folder / "p.txt").write_text("two crosses\n")
    line = "--max_steps=10000 --save_dir=run --batch_size=2 --lora_rank=4 --rewards=redness --prompts=p.txt "
    line += "--warm_start_pictures=0"
    process = forks.start(folder / "log.txt", train_command.main, line.split())
    metrics = folder / "run/metrics.jsonl"
    while not (metrics.exists() and metrics.stat().st_size):
        assert forks.running(process), (folder / "log.txt").read_text()
        time.sleep(0.05)
    os.kill(process, signal.SIGINT)
    assert forks.wait(process) == 0
    assert "stopped at step" in (folder / "log.txt").read_text()
    assert (folder / "run/hypernoise.safetensors").is_file()
