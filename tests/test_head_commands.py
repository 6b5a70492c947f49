"""Heads through the command lines: trained, used, judged and printed as LoRAs are."""

import json

import pytest
import torch
from conftest import randomized_head
from PIL import Image
from tiny_pipelines import tiny_generator

from hypernoise_core import HeadHypernetwork, Trainer, TrainingConfig, load_hypernetwork
from train import __main__ as train_command
from train import convert, evaluate, generate
from train.config import TrainArguments
from train.pictures import to_images
from train.run import SAMPLE_SEED, Run

SMALL = ["--hypernetwork=head", "--head_width=32", "--head_depth=1", "--batch_size=2", "--max_steps=2", "--trackers="]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_head_is_trained_by_its_own_recipe(folder, generator):
    (folder / "p.txt").write_text("two crosses\n")
    train_command.main([*SMALL, "--rewards=redness", "--save_every=1", "--save_dir=run", "--prompts=p.txt"])
    f = load_hypernetwork(generator, folder / "run/hypernoise.safetensors")
    assert isinstance(f, HeadHypernetwork)
    assert (f.info.shape.width, f.iterations) == (32, 5)  # five readings are the recipe's
    assert f.training["steps_trained"] == "2"
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2]
    assert "load_hypernetwork" in (folder / "run/README.md").read_text()
    train_command.main(["--resume=run", "--max_steps=3"])
    again = load_hypernetwork(generator, folder / "run/hypernoise.safetensors")
    assert again.training["steps_trained"] == "3"


def test_sample_grids_show_one_reading_and_all(folder, generator, redness, monkeypatch):
    settings = dict(hypernetwork="head", head_width=32, head_depth=1, iterations=3)
    trainer = Trainer(generator, redness, ["crosses"], TrainingConfig(**settings))
    f = randomized_head(trainer.adapter)
    told = []
    monkeypatch.setattr("train.run.comparison_grid", lambda path, rows, prompts: told.append(rows))
    Run(trainer, folder / "run", ["crosses"], TrainArguments(trackers=""))._grid(folder / "grid.png")
    (rows,) = told
    x0, conditioning = generator.noise(1, seed=SAMPLE_SEED), generator.encode(["crosses"])
    with torch.no_grad():
        expected = {"base": generator.generate(x0, conditioning)}
        expected |= {t: f.generate(x0, conditioning, iterations=i) for t, i in (("1 reading", 1), ("3 readings", 3))}
    assert [title for title, _ in rows] == list(expected)
    for title, (image,) in rows:
        assert image.tobytes() == to_images(expected[title])[0].tobytes()
    assert len({image.tobytes() for _, (image,) in rows}) == 3


def test_generate_and_evaluate_take_a_head(folder, toy_model, capsys):
    head = randomized_head(HeadHypernetwork.new(toy_model, width=32, depth=1))
    head.save("a.safetensors")
    line = "--adapter a.safetensors --prompt crosses --n 1 --seed 6 --iterations 2 --save_dir out"
    generate.main(line.split())
    with torch.no_grad():
        made = head.generate(toy_model.noise(1, seed=6), toy_model.encode(["crosses"]), seed=6, iterations=2)[0]
    with Image.open(folder / "out/hypernoise/0000-6.png") as image:
        saved = torch.tensor(list(image.tobytes())).view(64, 64, 3).permute(2, 0, 1)
    assert torch.equal(saved, (made * 255).round().byte())
    evaluate.main(["--adapter=a.safetensors", "--n=60", "--save_dir=judged"])
    assert "interval_95" in json.loads((folder / "judged/evaluation.json").read_text())["steps"]["1"]
    assert "head, 1 step(s)" in capsys.readouterr().out


def test_convert_prints_a_head_and_checks_that_it_fits(folder, capsys):
    model = tiny_generator("sana-sprint")
    model.pipeline.save_pretrained(folder / "model")
    tiny_generator("flux").pipeline.save_pretrained(folder / "another")
    head = HeadHypernetwork.new(model, width=32, depth=1, iterations=3, coarsen=2)
    randomized_head(head).save("a.safetensors", rewards="redness=1")
    convert.main(["--adapter=a.safetensors", "--model=model"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "noise hypernetwork, a head" in printed
    assert "tiny-sana-sprint (sana-sprint)" in printed
    assert "4 channels at 1/4" in printed
    assert "noise, prediction, 32 features of each 1x1 latent cells" in printed
    assert "trained for 3, which see 2x2 latent cells as one" in printed
    assert "width 32, depth 1, patches of 1x1 latent cells" in printed
    assert "rewards redness=1" in printed
    with pytest.raises(ValueError, match=r"does not fit another \(flux\)"):
        convert.main(["--adapter=a.safetensors", "--model=another"])
    for output in ("peft", "b.safetensors"):
        with pytest.raises(ValueError, match="has no PEFT form"):
            convert.main(["--adapter=a.safetensors", f"--output={output}"])
    assert not (folder / "peft").exists()
