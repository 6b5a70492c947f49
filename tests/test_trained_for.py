"""A file that was trained for other readings, or other noise between steps, than it is used with: one line says so."""

import pytest
from conftest import randomized

from hypernoise_core import LoraHypernetwork, Trainer, TrainingConfig, load_hypernetwork
from train import convert, evaluate, generate

TRAINED = "a.safetensors was trained for "
SMALL = dict(rank=4, alpha=8, batch_size=2, max_steps=1, warmup_steps=0, diagnostics_every=0)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_lora_says_what_it_was_trained_for(generator, redness, prompts, capsys):
    config = TrainingConfig(**SMALL, iterations=3, steps=2, between_steps="keep-moved")
    Trainer(generator, redness, prompts[:1], config).save("a.safetensors")
    f = load_hypernetwork(generator, "a.safetensors")
    assert (f.iterations, f.training["between_steps"]) == (3, "keep-moved")
    f.save("b.safetensors")
    assert load_hypernetwork(generator, "b.safetensors").iterations == 3
    convert.main(["--adapter=b.safetensors"])
    assert "trained for 3" in capsys.readouterr().out
    f.iterations = 0
    f.save("b.safetensors")
    with pytest.raises(ValueError, match="damaged HyperNoise header"):
        load_hypernetwork(generator, "b.safetensors")


def lines(capsys):
    return [line for line in capsys.readouterr().out.splitlines() if "was trained for" in line]


CASES = [
    ("", f"{TRAINED}--iterations 3; it is used with the default --iterations 1"),  # nothing is between one step
    (
        "--steps=2",
        f"{TRAINED}--iterations 3 --between_steps keep; it is used with the default --iterations 1 --between_steps "
        "fresh",
    ),
    (
        "--steps=2 --iterations=1",
        f"{TRAINED}--between_steps keep; it is used with the default --between_steps fresh",
    ),
    ("--steps=2 --between_steps=fresh", f"{TRAINED}--iterations 3; it is used with the default --iterations 1"),
    ("--steps=2 --between_steps=keep --iterations=3", None),
    ("--steps=2 --between_steps=fresh --iterations=1", None),
]


@pytest.mark.parametrize(("given", "expected"), CASES)
def test_commands_say_what_is_used_where_the_user_does_not(toy_model, capsys, given, expected):
    f = randomized(LoraHypernetwork(toy_model, rank=4, alpha=8))
    f.iterations = 3
    f.save("a.safetensors", between_steps="keep")
    common = ["--adapter=a.safetensors", *given.split()]
    generate.main([*common, "--prompt=crosses", "--n=1", "--save_dir=out"])
    evaluate.main([*common, "--n=60"])
    assert lines(capsys) == ([expected] * 2 if expected else [])


def test_a_configuration_file_counts_as_given(folder, toy_model, capsys):
    f = LoraHypernetwork(toy_model, rank=4, alpha=8)
    f.iterations = 3
    f.save("a.safetensors", between_steps="\nnever heard of")
    (folder / "mine.yaml").write_text("iterations: 1\n")
    line = ["--adapter=a.safetensors", "--prompt=crosses", "--n=1", "--save_dir=out", "--steps=2"]
    generate.main([*line, "--config=mine.yaml"])
    assert lines(capsys) == []
    generate.main(line)
    assert lines(capsys) == [CASES[0][1]]
