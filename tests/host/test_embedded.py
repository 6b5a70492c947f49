"""The embedded generator in the real ComfyUI: equal to diffusers, moved as the core moves it, clean at every end."""

import json
import time
from unittest import mock

import pytest
import torch
from safetensors.torch import save_file

from host.graphs import Graph, custom_sampling, ksampler, output
from host.server import ComfyError, saved
from hypernoise_core import load_generator, load_hypernetwork
from hypernoise_core.embedded import HEAD_FILE, HYPERNOISE_FILE
from hypernoise_core.hypernetworks.adapter_file import PEFT_CONFIG, PEFT_WEIGHTS, read_adapter

PROMPT = "a photo of a red square and a blue cross"


@pytest.fixture(scope="module")
def embedded():
    return load_generator("embedded")


def loaded(g: Graph, batch=1):
    """(model, positive, negative, vae, latent) of the embedded generator."""
    model = g.HyperNoiseLoadGenerator(model="embedded")
    clip, vae = output(model, 1), output(model, 2)
    positive, negative = (g.CLIPTextEncode(clip=clip, text=text) for text in (PROMPT, ""))
    return model, positive, negative, vae, g.EmptyLatentImage(width=64, height=64, batch_size=batch)


def modulated(g, noise, model, positive, strength=1.0, file="embedded", **iterations):
    hypernoise = g.HyperNoiseLoraLoader(file=file)
    return g.HyperNoiseModulateNoise(
        noise=noise, model=model, conditioning=positive, hypernoise=hypernoise, strength=strength, **iterations
    )


def pictures(comfy, build):
    """What the ProbeSaves of a graph have kept: IMAGE tensors."""
    g = Graph()
    build(g)
    return [tensor for tensor, _ in saved(comfy, comfy.run(g.nodes))]


def expected(generator, steps=1, batch=1, seed=0, hypernetwork=None, iterations=1):
    """The same pictures by the core, as IMAGE; beyond one step with the noise that ComfyUI's lcm sampler adds."""
    x0 = generator.noise(batch, seed=seed)
    conditioning = generator.encode([PROMPT]).repeat(batch)
    with torch.no_grad():
        x0 = hypernetwork.modulate(x0, conditioning, iterations=iterations) if hypernetwork else x0
        with mock.patch("hypernoise_core.noise.derive_seed", lambda seed, use, index=0: seed + 1):
            return generator.generate(x0, conditioning, steps, seed).movedim(1, -1)


def build_plain(steps, sampler, sigmas=None):
    def build(g):
        model, positive, negative, vae, latent = loaded(g)
        manual = sigmas and g.ManualSigmas(sigmas=sigmas)
        samples = custom_sampling(g, model, positive, g.RandomNoise(noise_seed=0), latent, steps, sampler, manual)
        g.ProbeSave(image=g.VAEDecode(samples=samples, vae=vae))
        if not sigmas:
            samples = ksampler(g, model, positive, negative, latent, 0, steps, sampler)
            g.ProbeSave(image=g.VAEDecode(samples=samples, vae=vae))

    return build


@pytest.mark.parametrize(
    ("steps", "sampler", "sigmas"),
    [(1, "euler", None), (1, "lcm", None), (2, "lcm", "1, 0.7827, 0"), (3, "lcm", None), (4, "lcm", None)],
)
def test_pictures_equal_the_diffusers_pipelines(comfy, embedded, steps, sampler, sigmas):
    for picture in pictures(comfy, build_plain(steps, sampler, sigmas)):
        assert (picture - expected(embedded, steps)).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("file", "path", "iterations"), [("embedded", HYPERNOISE_FILE, 1), ("embedded head", HEAD_FILE, 5)]
)
def test_modulated_pictures_equal_the_cores_by_noise_and_by_model(comfy, embedded, file, path, iterations):
    def build(g):
        model, positive, negative, vae, latent = loaded(g, batch=3)
        noise = modulated(g, g.RandomNoise(noise_seed=5), model, positive, file=file, iterations=iterations)
        by_noise = custom_sampling(g, model, positive, noise, latent)
        moved = g.HyperNoiseModulateModel(
            model=model, hypernoise=g.HyperNoiseLoraLoader(file=file), strength=1.0, iterations=iterations
        )
        by_model = ksampler(g, moved, positive, negative, latent, seed=5)
        for samples in (by_noise, by_model):
            g.ProbeSave(image=g.VAEDecode(samples=samples, vae=vae))

    by_noise, by_model = pictures(comfy, build)
    f = load_hypernetwork(embedded, path)
    moved = expected(embedded, batch=3, seed=5, hypernetwork=f, iterations=iterations)
    assert (by_noise - moved).abs().max() < 1e-3
    assert (by_noise - expected(embedded, batch=3, seed=5)).abs().max() > 0.01
    assert torch.equal(by_noise, by_model)


def test_two_iterations_are_two_nodes_in_a_row(comfy):
    def build(g):
        model, positive, negative, _, latent = loaded(g, batch=2)
        noise, hypernoise = g.RandomNoise(noise_seed=6), g.HyperNoiseLoraLoader(file="embedded")
        once = modulated(g, noise, model, positive, 0.75)
        twice = g.HyperNoiseModulateNoise(
            noise=noise, model=model, conditioning=positive, hypernoise=hypernoise, strength=0.75, iterations=2
        )
        for drawn in (once, modulated(g, once, model, positive, 0.75), twice):
            g.ProbeSave(latent=custom_sampling(g, model, positive, drawn, latent))
        moved = g.HyperNoiseModulateModel(model=model, hypernoise=hypernoise, strength=0.75, iterations=2)
        g.ProbeSave(latent=ksampler(g, moved, positive, negative, latent, seed=6))

    once, in_a_row, by_noise, by_model = pictures(comfy, build)
    assert torch.equal(in_a_row, by_noise)
    assert torch.equal(in_a_row, by_model)
    assert not torch.allclose(once, by_noise, atol=1e-3)


@pytest.mark.parametrize("iterations", [1, 3])
def test_the_free_reading_is_the_samplers_own_first_step(comfy, embedded, iterations):
    """Two steps of euler are the core's with the noise kept."""

    def build(g):
        model, positive, _, vae, latent = loaded(g, batch=2)
        free = g.HyperNoiseModulateModel(
            model=model, hypernoise=g.HyperNoiseLoraLoader(file="embedded head"), strength=1.0, iterations=iterations,
            free_reading=True,
        )  # fmt: skip
        sigmas = g.ManualSigmas(sigmas="1, 0.7827, 0")
        for model_ in (model, free):
            noise = g.RandomNoise(noise_seed=5)
            samples = custom_sampling(g, model_, positive, noise, latent, sampler="euler", sigmas=sigmas)
            g.ProbeSave(image=g.VAEDecode(samples=samples, vae=vae))

    base, free = pictures(comfy, build)
    f, x0 = load_hypernetwork(embedded, HEAD_FILE), embedded.noise(2, seed=5)
    conditioning = embedded.encode([PROMPT]).repeat(2)
    with torch.no_grad():
        start = f.modulate(x0, conditioning, iterations=iterations - 1, more=1)

        def first(reading):
            return f.moved(start, f.network(start, reading), x0) - start

        plain = embedded.generate(x0, conditioning, 2, between=x0)
        moved = embedded.generate(start, conditioning, 2, between=start, first=first)
    assert (base - plain.movedim(1, -1)).abs().max() < 1e-3
    assert (free - moved.movedim(1, -1)).abs().max() < 1e-3
    assert (free - base).abs().max() > 0.01


def test_the_free_reading_with_guidance_and_where_it_is_none(comfy):
    """At one step the reading is a call of its own; what cannot be read for nothing is said."""

    def sample(file="embedded head", cfg=1.0, **sampling):
        g = Graph()
        model, positive, negative, _, latent = loaded(g)
        hypernoise, samples = g.HyperNoiseLoraLoader(file=file), []
        for free in (False, True):
            moved = g.HyperNoiseModulateModel(model=model, hypernoise=hypernoise, strength=1.0, free_reading=free)
            samples.append(ksampler(g, moved, positive, negative, latent, seed=2, cfg=cfg, **sampling))
        for latents in samples:
            g.ProbeSave(latent=latents)
        return [latents for latents, _ in saved(comfy, comfy.run(g.nodes))]

    paid, free = sample()
    assert torch.equal(paid, free)
    paid, free = sample(cfg=2.0, steps=3)
    assert not torch.allclose(paid, free, atol=1e-3)
    with pytest.raises(ComfyError, match="free_reading: the sampler lcm adds fresh noise"):
        sample(steps=2, sampler="lcm")
    with pytest.raises(ComfyError, match="free_reading: only a head"):
        sample(file="embedded", steps=2)


def test_strength_zero_is_the_plain_workflow_bit_for_bit(comfy):
    def build(g):
        model, positive, negative, _, latent = loaded(g)
        noise, hypernoise = g.RandomNoise(noise_seed=1), g.HyperNoiseLoraLoader(file="embedded")
        still = g.HyperNoiseModulateModel(model=model, hypernoise=hypernoise, strength=0.0)
        g.ProbeSave(latent=custom_sampling(g, model, positive, noise, latent))
        g.ProbeSave(latent=custom_sampling(g, model, positive, modulated(g, noise, model, positive, 0.0), latent))
        g.ProbeSave(latent=ksampler(g, model, positive, negative, latent, seed=1))
        g.ProbeSave(latent=ksampler(g, still, positive, negative, latent, seed=1))

    plain, by_noise, plain_ksampler, by_model = pictures(comfy, build)
    assert torch.equal(plain, by_noise)
    assert torch.equal(plain_ksampler, by_model)


def test_alternating_never_patches_and_the_base_stays_bit_equal(comfy):
    def run(seed):
        g = Graph()
        model, positive, _, _, latent = loaded(g)
        noise = g.RandomNoise(noise_seed=seed)
        g.ProbeSave(latent=custom_sampling(g, model, positive, noise, latent), model=model)
        moved = modulated(g, noise, model, positive)
        g.ProbeSave(latent=custom_sampling(g, model, positive, moved, latent), model=model)
        return saved(comfy, comfy.run(g.nodes))

    rounds = [run(seed) for seed in [3, 4] * 10]  # two seeds in turn, so that nothing comes from ComfyUI's cache
    for (base, _), (moved, _) in rounds:
        first_base, first_moved = (tensor for tensor, _ in rounds[0 if torch.equal(base, rounds[0][0][0]) else 1])
        assert torch.equal(base, first_base)
        assert torch.equal(moved, first_moved)
        assert not torch.equal(base, moved)
    states = [state for r in rounds for _, state in r]
    assert len({state["file"] for state in states}) == 40
    assert len({state["weight patches"] for state in states[1:]}) == 1  # the first modulation loads the LoRA's own
    assert all(state["patched forwards"] == state["backups"] == 0 for state in states)


def test_img2img_and_other_noises(comfy):
    """A latent that is not empty gets the noise as it was; any NOISE can be moved; a disabled one stays empty."""

    def build(g):
        model, positive, _, _, latent = loaded(g)
        noise = g.RandomNoise(noise_seed=2)
        picture = custom_sampling(g, model, positive, noise, latent)
        sigmas = g.ManualSigmas(sigmas="0.5, 0")
        moved = g.HyperNoiseModulateModel(model=model, hypernoise=g.HyperNoiseLoraLoader(file="embedded"), strength=1.0)
        for levels in (sigmas, None):  # from half of the noise, and from all of it
            for model_, noise_ in ((model, noise), (model, modulated(g, noise, model, positive)), (moved, noise)):
                g.ProbeSave(latent=custom_sampling(g, model_, positive, noise_, picture, sigmas=levels))
        flipped = g.ProbeNoise(noise=noise)
        for noise_ in (flipped, modulated(g, flipped, model, positive)):
            g.ProbeSave(latent=custom_sampling(g, model, positive, noise_, latent))
        empty = modulated(g, g.DisableNoise(), model, positive)
        g.ProbeSave(latent=custom_sampling(g, model, positive, empty, latent))
        g.ProbeSave(latent=custom_sampling(g, model, positive, g.DisableNoise(), latent))

    *on_pictures, flipped, moved, empty, disabled = pictures(comfy, build)
    for plain, by_noise, by_model in (on_pictures[:3], on_pictures[3:]):
        assert torch.equal(plain, by_noise)
        assert torch.equal(plain, by_model)
    assert not torch.allclose(flipped, moved, atol=1e-3)
    assert torch.equal(empty, disabled)


def test_a_peft_folder_as_the_papers_authors_release_them(comfy):
    """No header of ours, peft's prefix, the configuration beside the weights."""
    weights, info = read_adapter(HYPERNOISE_FILE)
    folder = comfy.folder / "models" / "hypernoise" / "released"
    folder.mkdir()
    save_file({f"base_model.model.{key}": weight for key, weight in weights.items()}, folder / PEFT_WEIGHTS[0])
    config = {"peft_type": "LORA", "r": info.rank, "lora_alpha": info.alpha, "target_modules": sorted(weights)}
    (folder / PEFT_CONFIG).write_text(json.dumps(config))

    def build(g):
        model, positive, _, _, latent = loaded(g)
        for file in ("embedded", "released"):
            noise = modulated(g, g.RandomNoise(noise_seed=1), model, positive, file=file)
            g.ProbeSave(latent=custom_sampling(g, model, positive, noise, latent))

    assert torch.equal(*pictures(comfy, build))


def test_live_previews_resemble_the_picture(comfy):
    def build(g):
        model, positive, _, vae, latent = loaded(g)
        samples = custom_sampling(g, model, positive, g.RandomNoise(noise_seed=1), latent)
        g.ProbeSave(image=g.ProbePreview(model=model, latent=samples))
        g.ProbeSave(image=g.VAEDecode(samples=samples, vae=vae))

    preview, picture = pictures(comfy, build)
    small = torch.nn.functional.adaptive_avg_pool2d(picture.movedim(-1, 1), 8).movedim(1, -1)
    assert torch.corrcoef(torch.stack([preview.flatten(), small.flatten()]))[0, 1] > 0.7


def test_cancel_in_the_middle_of_the_modulation_leaves_the_model_clean(comfy):
    def build(g, seed):
        model, positive, _, _, latent = loaded(g)
        slow = g.ProbeSlowModel(model=model, seconds=30.0)
        noise = modulated(g, g.RandomNoise(noise_seed=seed), slow, positive)
        g.ProbeSave(latent=custom_sampling(g, slow, positive, noise, latent), model=model)

    def base():
        return pictures(comfy, build_plain(1, "euler"))[0]

    before = base()
    g = Graph()
    build(g, 77)
    running = comfy.queue(g.nodes)
    while not comfy.get("/queue")["queue_running"]:
        time.sleep(0.02)
    time.sleep(1.5)
    assert comfy.get("/queue")["queue_running"]
    comfy.post("/interrupt", {})
    with pytest.raises(ComfyError, match="interrupted"):
        comfy.wait(running, seconds=10)
    g = Graph()
    model, positive, _, vae, latent = loaded(g)
    samples = custom_sampling(g, model, positive, g.RandomNoise(noise_seed=0), latent)
    g.ProbeSave(image=g.VAEDecode(samples=samples, vae=vae), model=model)
    ((after, state),) = saved(comfy, comfy.run(g.nodes))
    assert torch.equal(before, after)
    assert state["patched forwards"] == 0


def test_two_prompts_queued_and_models_freed(comfy):
    def build(seed):
        g = Graph()
        model, positive, _, _, latent = loaded(g)
        noise = modulated(g, g.RandomNoise(noise_seed=seed), model, positive)
        g.ProbeSave(latent=custom_sampling(g, model, positive, noise, latent))
        return g.nodes

    first, second = comfy.queue(build(11)), comfy.queue(build(12))
    ((a, _),), ((b, state),) = saved(comfy, comfy.wait(first)), saved(comfy, comfy.wait(second))
    assert not torch.equal(a, b)
    assert state["loaded"] >= 2  # the model and the adapter
    comfy.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(1.5)
    g = Graph()
    g.ProbeSave(latent=g.EmptyLatentImage(width=64, height=64, batch_size=1))
    ((_, state),) = saved(comfy, comfy.run(g.nodes))
    assert state["loaded"] == 0
    ((again, _),) = saved(comfy, comfy.run(build(11)))
    assert torch.equal(a, again)
