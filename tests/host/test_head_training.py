"""Train HyperNoise with a head, on models of ComfyUI's own classes."""

import json

import pytest
import torch
from PIL import Image

from host.core_models import POOLED, tiny_flux, tiny_sd, tiny_sdxl
from host.graphs import Graph, custom_sampling, ksampler, output
from host.server import ComfyError, saved
from host.test_training import adapter, curves, embedded, run_training, sampled, train
from hypernoise_core import HeadHypernetwork
from hypernoise_core.hypernetworks.head_file import read_head

HEAD = dict(hypernetwork="head", iterations=3, head_width=32, head_depth=1)
PROMPTS = ("a cat", "a red dog")
SIDE = 32
"""Pixels: the autoencoder takes most of the time."""


class HostModel:
    """A toy model of ComfyUI's own classes, with CLIP and VAE of random numbers."""

    def __init__(self, comfy, name, build, width, channels, family, dtype="default"):
        self.name, self.width, self.channels, self.family, self.dtype = name, width, channels, family, dtype
        self.file = f"head-{name}.safetensors"
        self.core = build and build(comfy.folder / "models" / "diffusion_models" / self.file)

    def loaded(self, g: Graph):
        """(model, clip, vae)"""
        if self.name == "sdxl":
            model = g.ProbeWeights(file=self.file, config="SDXL")
        elif self.name == "z-image":
            model = g.ProbeFamily(family="Z-Image")
        else:
            model = g.UNETLoader(unet_name=self.file, weight_dtype=self.dtype)
        clip = g.ProbeClipAndVae(width=self.width, pooled=POOLED, channels=self.channels)
        return model, clip, output(clip, 1)


MODELS = {
    "sd": (tiny_sd, 1024, 4, "sd-turbo"),
    "sdxl": (tiny_sdxl, 64, 4, "sdxl-turbo"),
    "flux": (tiny_flux, 64, 16, "flux"),
    "z-image": (None, 64, 16, "z-image"),
    "fp8": (tiny_flux, 64, 16, "flux", "fp8_e4m3fn"),
}


RISES = "flux"
"""The one that trains until its reward is higher."""

BY_GRADIENT = "fp8"
"""The one that a critic does not teach."""

IN_NUMPY = """
import torch
from hypernoise_core import Reward


class InNumpy(Reward):
    name, differentiable = "numpy", False

    def score(self, images, text):
        assert not images.requires_grad
        r, g, b = images.cpu().numpy().mean((2, 3)).T
        return torch.from_numpy(r - (g + b) / 2)
"""


def numpy_reward(comfy, g: Graph):
    """Redness, by arithmetic that has no gradient."""
    folder = comfy.folder / "models" / "hypernoise_rewards"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "in_numpy.py").write_text(IN_NUMPY)
    return g.HyperNoiseLoadReward(
        reward="in_numpy:InNumpy", weights="models/hypernoise_rewards", weight=1.0, device="auto"
    )


SLOW = ("flux", "sdxl")


def listed(name):
    return pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name


@pytest.fixture(scope="module", params=map(listed, MODELS))
def host_model(request, comfy):
    return HostModel(comfy, request.param, *MODELS[request.param])


def test_a_head_is_trained_and_does_the_same_in_training_and_in_sampling(comfy, host_model):
    """Base bit-equal, NOISE and MODEL the same, nothing moved without strength or iterations, and a file that the
    core's model of the same family takes."""

    def prompt():
        g = Graph()
        loaded = host_model.loaded(g)
        return g, loaded, g.RandomNoise(noise_seed=3), [g.ProbeEncode(clip=loaded[1], text=text) for text in PROMPTS]

    def base_pictures():
        g, (model, _, vae), noise, (text, _) = prompt()
        g.ProbeSave(image=sampled(g, model, text, vae, noise, batch=4, side=SIDE))
        ((pictures, _),) = saved(comfy, comfy.run(g.nodes))
        return pictures

    before, file = base_pictures(), f"head-{host_model.name}_00001_.safetensors"
    g, (model, clip, vae), noise, texts = prompt()
    rises = host_model.name == RISES
    length = dict(steps=8, lr=1e-2) if rises else dict(steps=2, lr=3e-2)  # two move all of a head's weights
    by_gradient = host_model.name == BY_GRADIENT
    teacher = {"teacher": "gradient"} if by_gradient else {"teacher": "critic", "critic_warm_up": 32 if rises else 4}
    hypernoise = train(
        g, model, clip, vae, f"head-{host_model.name}", prompts="\n".join(PROMPTS), temperature=1e-4,
        gradient_checkpointing="all", width=SIDE, height=SIDE, reward=None if by_gradient else numpy_reward(comfy, g),
        **length, **teacher, **HEAD,
    )  # fmt: skip

    def modulated(text, strength=1.0, iterations=3):
        return g.HyperNoiseModulateNoise(
            noise=noise, model=model, conditioning=text, hypernoise=hypernoise, strength=strength, iterations=iterations
        )

    latent = g.EmptyLatentImage(width=SIDE, height=SIDE, batch_size=2)
    g.ProbeSave(image=sampled(g, model, texts[0], vae, modulated(texts[0]), batch=4, side=SIDE))
    g.ProbeSave(latent=custom_sampling(g, model, texts[0], modulated(texts[0]), latent))
    by_model = g.HyperNoiseModulateModel(model=model, hypernoise=hypernoise, strength=1.0, iterations=3)
    g.ProbeSave(latent=ksampler(g, by_model, texts[0], texts[0], latent, seed=3))
    (trained, _), (by_noise, _), (by_model, _) = saved(comfy, comfy.run(g.nodes))
    assert torch.equal(before, base_pictures())
    assert torch.equal(by_noise, by_model)
    assert len(curves(comfy, f"head-{host_model.name}_00001_")["reward"]) == length["steps"]
    red, green, blue = (trained - before).mean((0, 1, 2))
    assert not rises or red - (green + blue) / 2 > 0.01  # measured 0.04
    latent = g.ProbeEmptyLatent(model=model, latent=latent)
    g.ProbeSave(
        latent=g.ProbeModulated(
            model=model, clip=clip, vae=vae, noise=noise, latent=latent, prompts="|".join(PROMPTS), file=file,
            iterations=3,
        )
    )  # fmt: skip
    still = [modulated(texts[0], strength=0.0), modulated(texts[0], iterations=0)]
    for drawn in (*map(modulated, texts), noise, *still):
        g.ProbeSave(latent=g.ProbeDraw(noise=drawn, latent=latent))
    *_, (both, _), (cat, _), (dog, _), (x0, _), (weak, _), (never, _) = saved(comfy, comfy.run(g.nodes))
    assert torch.allclose(both, torch.stack([cat[0], dog[1]]), atol=1e-4)
    assert (both - x0).abs().max() > 0.01
    assert torch.equal(x0, weak)
    assert torch.equal(x0, never)
    _, info, _ = read_head(adapter(comfy, f"head-{host_model.name}_00001_"))
    assert (info.family, info.iterations) == (host_model.family, 3)
    if host_model.core:
        HeadHypernetwork.load(host_model.core, adapter(comfy, f"head-{host_model.name}_00001_"))


def test_a_head_goes_on_after_it_was_cut_short(comfy):
    """What was trained before there were kinds is a LoRA: tests/host/test_training.py leaves all of this out."""
    run_training(comfy, "head", steps=2, **HEAD)
    shown = run_training(comfy, "head", steps=3, resume=True, **HEAD)["text"][0]
    assert "resumed from step 2" in shown
    assert len(curves(comfy, "head_00001_")["reward"]) == 3


def test_the_noise_between_steps_can_be_kept_in_training(comfy):
    """A workflow from before there was a choice draws fresh noise."""
    ways = {"old": {}, "fresh": {"between_steps": "fresh"}, "kept": {"between_steps": "keep-moved"}}
    rewards, headers, previews = {}, {}, {}
    for name, way in ways.items():
        run = f"between-{name}_00001_"
        run_training(comfy, f"between-{name}", steps=2, denoiser_steps=2, **HEAD, **way)
        rewards[name] = curves(comfy, run)["reward"]
        headers[name] = read_head(adapter(comfy, run))[1].training.get("between_steps")
        preview = Image.open(comfy.folder / "output" / "hypernoise_training" / run / "preview.png")
        previews[name] = preview.crop((0, preview.height // 4, preview.width, preview.height // 2)).tobytes()
    assert rewards["old"] == rewards["fresh"] != rewards["kept"]
    assert headers == {"old": None, "fresh": None, "kept": "keep-moved"}
    assert previews["old"] == previews["fresh"] != previews["kept"]  # the base's own images


def test_a_head_is_saved_again(comfy):
    g = Graph()
    g.HyperNoiseSaveLora(hypernoise=g.HyperNoiseLoraLoader(file="embedded head"), filename_prefix="again-head")
    comfy.run(g.nodes)
    g = Graph()
    model, clip, _ = embedded(g)
    conditioning = g.CLIPTextEncode(clip=clip, text="a photo of two blue squares")
    latent = g.EmptyLatentImage(width=64, height=64, batch_size=2)
    for file in ("embedded head", "again-head_00001_.safetensors"):
        noise = g.HyperNoiseModulateNoise(
            noise=g.RandomNoise(noise_seed=4), model=model, conditioning=conditioning, strength=1.0, iterations=5,
            hypernoise=g.HyperNoiseLoraLoader(file=file),
        )  # fmt: skip
        g.ProbeSave(latent=custom_sampling(g, model, conditioning, noise, latent))
    (first, _), (second, _) = saved(comfy, comfy.run(g.nodes))
    assert torch.equal(first, second)


def test_a_head_learns_from_a_persons_scores_alone(comfy):
    """Kept image by image; the reward at hand is asked about previews only."""
    g = Graph()
    model, clip, vae = embedded(g)
    text = "a photo of a red square"
    conditioning = g.CLIPTextEncode(clip=clip, text=text)
    images = sampled(g, model, conditioning, vae, g.RandomNoise(noise_seed=7), batch=3)
    shown = [
        g.HyperNoiseKeepScores(image=images, prompt=text, seed=7, scores=scores, name="thumbs")
        for scores in ("1, 0, 0.5", "-2")
    ]
    outputs = comfy.run(g.nodes)
    told = sorted(outputs[node[0]]["text"][0] for node in shown)
    assert told == [f"3 added, {n} in output/hypernoise_scores/thumbs.jsonl" for n in (3, 6)]
    rows = (comfy.folder / "output" / "hypernoise_scores" / "thumbs.jsonl").read_text().splitlines()
    wanted = {"prompt": text, "seed": 7, "width": 64, "height": 64}
    assert all(json.loads(row).items() >= wanted.items() for row in rows)
    assert sorted((row["index"], row["score"]) for row in map(json.loads, rows)) == sorted(
        [(0, 1), (1, 0), (2, 0.5), (0, -2), (1, -2), (2, -2)]
    )
    g = Graph()
    model, clip, vae = embedded(g)
    how = dict(teacher="critic", critic_warm_up=4, scores_file="thumbs", steps=2)
    train(g, model, clip, vae, "thumbs", **how, **HEAD)
    comfy.run(g.nodes)
    found = curves(comfy, "thumbs_00001_")
    assert len(found["loss"]) == 2
    assert not found["reward"]
    g = Graph()
    g.HyperNoiseKeepScores(
        image=g.EmptyImage(width=64, height=64, batch_size=1, color=0), prompt="", seed=0, scores="good", name="thumbs"
    )
    with pytest.raises(ComfyError, match="scores: 'good' are no numbers"):
        comfy.run(g.nodes)
