"""The code in the docs is run, on toy models under the real ones' names."""

import re
from pathlib import Path

import pytest
import torch
from conftest import randomized
from reference import pipeline_pictures
from tiny_pipelines import PROMPTS, autoencoder_kl, clip_text, tiny_generator, tiny_pipeline, tokenizer, unet

from hypernoise_core import FineTunedDenoiser, LoraHypernetwork
from hypernoise_core.generators import FAMILIES
from train import convert

DOCS = Path(__file__).parent.parent / "docs"


def run_blocks(page, replacements):
    """Run the page's python blocks, one after the other in one namespace."""
    namespace = {}
    for block in re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S):
        for old, new in replacements.items():
            block = block.replace(old, new)
        exec(compile(block, page, "exec"), namespace)  # noqa: S102  our own docs
    return namespace


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a toy SD-Turbo in it."""
    tiny_pipeline("sd-turbo").save_pretrained(tmp_path / "toy")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lcm():
    from diffusers import LatentConsistencyModelPipeline, LCMScheduler

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline = LatentConsistencyModelPipeline(
            autoencoder_kl(), clip_text(), tokenizer(), unet(time_cond_proj_dim=8), LCMScheduler(), None, None,
            requires_safety_checker=False,
        )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_models_page(folder):
    lcm().save_pretrained(folder / "lcm")
    names = {"stabilityai/sd-turbo": "toy", "SimianLuo/LCM_Dreamshaper_v7": "lcm", '"cuda"': '"cpu"'}
    try:
        made = run_blocks("models.md", {**names, "512": "32", "768": "48"})
    finally:
        FAMILIES.pop("LatentConsistencyModelPipeline", None)
    assert made["picture"].shape == (1, 3, 32, 48)
    generator = made["lcm"]
    assert (generator.family, generator.name) == ("lcm", "lcm")
    x0, conditioning = generator.noise(3, 32, 32, seed=1), generator.encode(PROMPTS)
    for steps in (1, 4):
        with torch.no_grad():
            expected = pipeline_pictures(generator, x0, PROMPTS, steps)
            assert (generator.generate(x0, conditioning, steps) - expected).abs().max() < 1e-5
    assert torch.count_nonzero(LoraHypernetwork(generator, rank=2)(x0, conditioning)) == 0


def test_adapters_page(folder):
    generator = tiny_generator("sd-turbo")
    f = randomized(LoraHypernetwork(generator, rank=4, alpha=8), scale=0.1)
    f.save("mine.safetensors")
    convert.main(["--adapter=mine.safetensors", "--output=mine-peft"])
    finetuned = randomized(FineTunedDenoiser(generator, rank=4, alpha=8), scale=0.1)
    finetuned.save("finetuned.safetensors")
    made = run_blocks("adapters.md", {"stabilityai/sd-turbo": "toy", "64, 64": "16, 16"})
    x0, prompt = made["x0"], ["a photo of a red square"]
    conditioning = generator.encode(prompt)
    assert torch.allclose(made["delta"], f(x0, conditioning), atol=1e-5)
    assert torch.allclose(made["picture"], f.generate(x0, conditioning), atol=1e-5)
    theirs = generator.generate(x0, conditioning, denoiser=made["pipeline"].unet)
    assert torch.allclose(theirs, finetuned.generate(x0, conditioning), atol=1e-5)
    assert made["hypernetwork"].last_layer == "conv_out"
    assert Path("theirs.safetensors").is_file()


def test_the_steps_to_train_for_are_those_of_the_results_page():
    """Each score in the advice is in the table, and those that are called the best are."""
    table = (DOCS / "results.md").read_text().split("| trained at |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    scores = {(row[0], row[1]): [cell.split(" ")[0] for cell in row[2:]] for row in rows}
    advice = (DOCS / "training.md").read_text().split("## Which steps to train for")[1].split("##")[0]
    one, two, four = (scores[name, "noise kept"] for name in ("1, –", "2, noise kept", "4, noise kept"))
    fresh = [scores[name, "fresh noise"][2] for name in ("4, fresh noise", "1, –")]
    told = [one[1], one[2], two[1], four[2], *fresh, four[3], one[3]]
    assert re.findall(r"\d\.\d+", advice) == told
    best = [max(column) for column in zip(*scores.values(), strict=True)]
    assert best[1:] == [one[1], one[2], four[3]]
    assert fresh[0] == max(own[2] for (_, used), own in scores.items() if used == "fresh noise")


@pytest.mark.parametrize("page", ["python.md", "rewards.md", "../README.md"])
def test_pages_about_the_embedded_generator(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made = run_blocks(page, {})
    if page == "python.md":
        assert made["found"].scores.mean() > made["reward"].score(made["base"], made["text"]).mean()
        assert Path("mine.safetensors").is_file()
