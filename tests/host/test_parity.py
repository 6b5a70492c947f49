"""Z-Image, FLUX.2 klein, Qwen-Image, Krea 2 and SD3 on both sides: diffusers' models here and ComfyUI's own, with the
same weights. One file of an adapter moves noise alike."""

import pytest
import torch
from conftest import randomized

from host.family_table import SETTINGS
from host.graphs import Graph, custom_sampling, output
from host.modern_models import MODERN, comfy_model, modern_generator, modern_text
from host.server import saved
from host.test_heads import random_head
from hypernoise_core import LoraHypernetwork, load_hypernetwork

SHORT = SETTINGS | dict(steps=2, batch_size=1, iterations=1, teacher="gradient")
"""What is trained is tested elsewhere."""


class Case:
    """A model in the host, and the same in the core."""

    def __init__(self, server, name):
        self.server, self.name, self.models = server, name, server.folder / "models"
        self.file = f"both-{name}.safetensors"
        self.generator = modern_generator(name, self.models / "diffusion_models" / self.file)

    def loaded(self, g):
        """(model, conditioning, empty latent)"""
        model, conditioning = comfy_model(g, self.name, self.file)
        width, height = MODERN[self.name].size
        latent = g.EmptyLatentImage(width=width, height=height, batch_size=2)
        return model, conditioning, g.ProbeEmptyLatent(model=model, latent=latent)

    def moved(self, hypernoise):
        """(noise as drawn, the same moved in the host by `hypernoise`, a file's name), both [2, C, h, w]."""
        g = Graph()
        model, conditioning, latent = self.loaded(g)
        noise = g.RandomNoise(noise_seed=9)
        moved = g.HyperNoiseModulateNoise(
            noise=noise, model=model, conditioning=conditioning, strength=1.0,
            hypernoise=g.HyperNoiseLoraLoader(file=hypernoise),
        )  # fmt: skip
        for drawn in (noise, moved):
            g.ProbeSave(latent=g.ProbeDraw(noise=drawn, latent=latent))
        return [_still(latents) for latents, _ in saved(self.server, self.server.run(g.nodes))]

    def check(self, f, hypernoise):
        x0, found = self.moved(hypernoise)
        with torch.no_grad():
            expected = f.modulate(x0, modern_text(self.name, 2))
        assert (expected - x0).abs().max() > 0.01
        assert torch.allclose(found, expected, atol=1e-4), (found - expected).abs().max()

    def made_here(self, kind):
        if kind == "head":
            return random_head(self.generator)
        return randomized(LoraHypernetwork(self.generator, rank=4, alpha=8), scale=0.1)

    def made_there(self, kind):
        """The name of a file that was trained in the host."""
        g = Graph()
        model, _ = comfy_model(g, self.name, self.file)
        reward = g.HyperNoiseLoadReward(
            reward="redness", weights="models/hypernoise_rewards", weight=1.0, device="auto"
        )
        g.HyperNoiseTrain(
            model=model, clip=output(model, 1), vae=output(model, 2), reward=reward, width=64, height=64,
            name=f"both-{kind}-{self.name}", hypernetwork=kind, **SHORT,
        )  # fmt: skip
        self.server.run(g.nodes)
        return f"both-{kind}-{self.name}_00001_.safetensors"


def _still(latents):
    return latents[:, :, 0] if latents.dim() == 5 else latents


@pytest.fixture(scope="module", params=MODERN)
def case(request, comfy):
    return Case(comfy, request.param)


def test_both_denoisers_predict_the_same(comfy, case):
    g = Graph()
    model, conditioning, latent = case.loaded(g)
    noise = g.RandomNoise(noise_seed=9)
    g.ProbeSave(latent=g.ProbeDraw(noise=noise, latent=latent))
    g.ProbeSave(latent=g.ProbeUnit(model=model, latent=custom_sampling(g, model, conditioning, noise, latent)))
    x0, found = (_still(latents) for latents, _ in saved(comfy, comfy.run(g.nodes)))
    with torch.no_grad():
        expected = case.generator.read(x0, modern_text(case.name, 2)).prediction
    assert (expected - x0).abs().max() > 0.1
    assert torch.allclose(found, expected, atol=1e-4), (found - expected).abs().max()


@pytest.mark.parametrize("kind", ["head", "lora"])
def test_a_file_that_was_made_headless_moves_noise_alike_in_comfyui(case, kind):
    f, file = case.made_here(kind), f"core-{kind}-{case.name}.safetensors"
    f.save(case.models / "hypernoise" / file)
    case.check(f, file)


@pytest.mark.parametrize("kind", ["head", "lora"])
def test_a_file_that_was_made_in_comfyui_moves_noise_alike_headless(case, kind):
    file = case.made_there(kind)
    case.check(load_hypernetwork(case.generator, case.models / "hypernoise" / file), file)
