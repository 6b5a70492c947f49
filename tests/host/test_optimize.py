"""Optimize Noise (ReNO) in the real ComfyUI: the core's search, on the host's own models, from any noise."""

import pytest
import torch

from host.core_models import tiny_flux, tiny_sd
from host.graphs import Graph, custom_sampling, output
from host.server import ComfyError, saved
from hypernoise_core import LoraHypernetwork, load_generator, load_reward
from hypernoise_core.embedded import HYPERNOISE_FILE
from hypernoise_core.search import reno, search_path

PROMPT = "a photo of two crosses"


def reward_node(g: Graph, reward="embedded"):
    return g.HyperNoiseLoadReward(reward=reward, weights="models/hypernoise_rewards", weight=1.0, device="auto")


def optimized(g: Graph, noise, model, clip, vae, latent, reward="embedded", **changes):
    settings = {"prompt": PROMPT, "iterations": 2, "lr": 5.0, "denoiser_steps": 1, **changes}
    return g.HyperNoiseOptimizeNoise(
        noise=noise, model=model, clip=clip, vae=vae, latent_image=latent, reward=reward_node(g, reward), **settings
    )


def embedded(g: Graph, batch=2):
    """(model, clip, vae, conditioning, latent)"""
    model = g.HyperNoiseLoadGenerator(model="embedded")
    clip, vae = output(model, 1), output(model, 2)
    latent = g.EmptyLatentImage(width=64, height=64, batch_size=batch)
    return model, clip, vae, g.CLIPTextEncode(clip=clip, text=PROMPT), latent


@pytest.mark.parametrize("modulated", [False, True])
def test_the_search_is_the_cores_from_any_noise_and_the_sampler_draws_what_it_found(comfy, modulated):
    g = Graph()
    model, clip, vae, conditioning, latent = embedded(g)
    noise = g.RandomNoise(noise_seed=7)
    if modulated:
        hypernoise = g.HyperNoiseLoraLoader(file="embedded")
        noise = g.HyperNoiseModulateNoise(
            noise=noise, model=model, conditioning=conditioning, hypernoise=hypernoise, strength=0.75, iterations=2
        )
    found = optimized(g, noise, model, clip, vae, latent)
    samples = custom_sampling(g, model, conditioning, found, latent)
    for image in (output(found, 1), g.VAEDecode(samples=samples, vae=vae)):
        g.ProbeSave(image=image, model=model)
    outputs = comfy.run(g.nodes)
    (judged, _), (sampled, state) = saved(comfy, outputs)

    generator, reward = load_generator("embedded"), load_reward("embedded")
    encoded, text = generator.encode([PROMPT]), reward.encode_text([PROMPT])
    x0 = generator.noise(2, seed=7)
    if modulated:
        f = LoraHypernetwork.load(generator, HYPERNOISE_FILE)
        with torch.no_grad():
            x0 = f.modulate(x0, encoded.repeat(2), 0.75, iterations=2)
    searches = [reno(generator, reward, row, encoded, text, 2) for row in x0.split(1)]
    expected = torch.cat([search.images for search in searches]).movedim(1, -1)
    assert (judged - expected).abs().max() < 0.02  # every step lets rounding errors grow
    assert (sampled - judged).abs().max() < 1e-3
    assert state["patched forwards"] == 0
    lines = [line.split() for line in outputs[found[0]]["text"][0].splitlines()]
    assert lines[0] == ["before", "after"]
    assert all(float(after) > float(before) for _, before, after in lines[1:])
    assert float(lines[2][2]) == pytest.approx(searches[0].scores.item(), abs=0.01)


def test_searches_by_name_are_the_cores(comfy):
    """Along white noise; and by trying, which draws no more than it tries."""
    g = Graph()
    model, clip, vae, _, latent = embedded(g, batch=1)
    noise = g.RandomNoise(noise_seed=7)
    searches = ("reno-white", "zero-order", "random")
    found = [optimized(g, noise, model, clip, vae, latent, search=name, end_early=False) for name in searches]
    for node in found:
        g.ProbeSave(image=output(node, 1))
    pictures = [image for image, _ in saved(comfy, comfy.run(g.nodes))]
    generator, reward = load_generator("embedded"), load_reward("embedded")
    arguments = (
        generator,
        reward,
        generator.noise(1, seed=7),
        generator.encode([PROMPT]),
        reward.encode_text([PROMPT]),
    )
    for name, picture in zip(searches, pictures, strict=True):
        *_, best = search_path(name, *arguments, 2, limits=None)
        assert (picture - best.images.movedim(1, -1)).abs().max() < 0.02, name


@pytest.mark.parametrize(
    ("name", "build", "width", "channels"), [("sd", tiny_sd, 1024, 4), ("flux", tiny_flux, 64, 16)]
)
def test_models_of_comfyuis_own(comfy, name, build, width, channels):
    build(comfy.folder / "models" / "diffusion_models" / f"reno-{name}.safetensors")
    g = Graph()
    model = g.UNETLoader(unet_name=f"reno-{name}.safetensors", weight_dtype="default")
    clip = g.ProbeClipAndVae(width=width, pooled=32, channels=channels)
    latent = g.EmptyLatentImage(width=64, height=64, batch_size=1)
    noise = g.RandomNoise(noise_seed=3)
    found = optimized(g, noise, model, clip, output(clip, 1), latent, "redness", denoiser_steps=2, iterations=6)
    g.ProbeSave(image=output(found, 1))
    report = comfy.run(g.nodes)[found[0]]["text"][0]
    _, before, after = report.splitlines()[1].split()
    assert float(after) > float(before)


def test_wrong_latents_and_noises_are_named(comfy):
    def run(build):
        g = Graph()
        g.ProbeSave(latent=build(g, *embedded(g, batch=1)))
        comfy.run(g.nodes)

    def other_latent(g, model, clip, vae, conditioning, latent):
        found = optimized(g, g.RandomNoise(noise_seed=1), model, clip, vae, latent, iterations=1)
        larger = g.EmptyLatentImage(width=128, height=64, batch_size=1)
        return custom_sampling(g, model, conditioning, found, larger)

    def a_picture(g, model, clip, vae, conditioning, latent):
        noise = g.RandomNoise(noise_seed=1)
        picture = custom_sampling(g, model, conditioning, noise, latent)
        return custom_sampling(g, model, conditioning, optimized(g, noise, model, clip, vae, picture), latent)

    def no_noise(g, model, clip, vae, conditioning, latent):
        found = optimized(g, g.DisableNoise(), model, clip, vae, latent)
        return custom_sampling(g, model, conditioning, found, latent)

    def moved_twice(g, model, clip, vae, conditioning, latent):
        hypernoise = g.HyperNoiseLoraLoader(file="embedded")
        by_model = g.HyperNoiseModulateModel(model=model, hypernoise=hypernoise, strength=1.0)
        found = optimized(g, g.RandomNoise(noise_seed=1), by_model, clip, vae, latent)
        return custom_sampling(g, by_model, conditioning, found, latent)

    for build, words in (
        (moved_twice, r"model: it comes from Modulate Noise \(Model\), which would move the noise"),
        (other_latent, r"optimized for latents of \[1, 16, 8, 8\]"),
        (a_picture, "latent_image: it is not empty"),
        (no_noise, "noise: it is all zero"),
    ):
        with pytest.raises(ComfyError, match=words):
            run(build)
