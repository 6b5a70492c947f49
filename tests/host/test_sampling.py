"""Train samples as KSampler does: by any of its samplers, with its cfg and guidance, from the same noise."""

import json

import pytest
import torch

from host.graphs import Graph, ksampler, output
from host.server import ComfyError, saved
from host.test_optimize import optimized
from host.test_training import train

SEED, STEPS = 5, 3
CASES = [
    ("SDXL", {"sampler_name": "euler"}),
    ("SDXL", {"sampler_name": "lcm"}),
    ("SDXL", {"sampler_name": "dpmpp_2m", "scheduler": "karras", "cfg": 2.5, "negative_prompt": "ugly"}),
    ("SDXL", {"sampler_name": "euler_ancestral", "scheduler": "sgm_uniform"}),
    ("Z-Image", {"sampler_name": "auto"}),
    ("Z-Image", {"sampler_name": "lcm"}),
    ("Z-Image", {"sampler_name": "res_multistep"}),
    ("Z-Image", {"sampler_name": "dpmpp_2m_sde"}),
    ("FLUX.1 dev", {"sampler_name": "euler", "guidance": 1.5}),
    ("Qwen-Image", {"sampler_name": "heun", "cfg": 3.0}),
    ("SD3", {"sampler_name": "ddim", "scheduler": "beta"}),
]


def loaded(g: Graph, family):
    """(model, clip, vae, latent)"""
    model = g.ProbeFamily(family=family)
    latent = g.ProbeEmptyLatent(model=model, latent=g.EmptyLatentImage(width=64, height=64, batch_size=2))
    return model, output(model, 1), output(model, 2), latent


@pytest.mark.parametrize(("family", "sampling"), CASES, ids=lambda value: str(value))
def test_pictures_are_ksamplers(comfy, family, sampling):
    g = Graph()
    model, clip, vae, latent = loaded(g, family)
    made = g.ProbeGenerator(
        model=model, clip=clip, vae=vae, noise=g.RandomNoise(noise_seed=SEED), latent=latent, prompts="a cat|a cat",
        steps=STEPS, seed=SEED, sampling=json.dumps(sampling),
    )  # fmt: skip
    g.ProbeSave(image=made)
    positive = g.ProbeEncode(clip=clip, text="a cat")
    if "guidance" in sampling:
        positive = g.FluxGuidance(conditioning=positive, guidance=sampling["guidance"])
    negative = g.ProbeEncode(clip=clip, text=sampling.get("negative_prompt", ""))
    name = {"auto": "euler"}.get(sampling["sampler_name"], sampling["sampler_name"])
    how = dict(seed=SEED, steps=STEPS, sampler=name, cfg=sampling.get("cfg", 1.0))
    samples = ksampler(g, model, positive, negative, latent, **how, scheduler=sampling.get("scheduler", "simple"))
    g.ProbeSave(image=g.VAEDecode(samples=samples, vae=vae))
    (mine, _), (theirs, _) = saved(comfy, comfy.run(g.nodes))
    assert torch.allclose(mine, theirs.view(mine.shape), atol=1e-4)
    assert (mine[0] - mine[1]).abs().max() > 1e-2


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_the_gradient_passes_through_every_step(comfy, sampler):
    """It is the same if it is recomputed, and along a direction it is what the pictures change by."""
    g = Graph()
    model, clip, vae, latent = loaded(g, "Z-Image")
    noise, sampling = g.RandomNoise(noise_seed=SEED), json.dumps({"sampler_name": sampler})
    how = dict(model=model, clip=clip, vae=vae, latent=latent, prompts="a cat|a cat", steps=STEPS, seed=SEED)
    made = g.ProbeGenerator(noise=noise, sampling=sampling, **how)
    moved = [g.ProbeGenerator(noise=g.ProbeShiftedNoise(noise=noise, by=by), sampling=sampling, **how) for by in BY]
    for picture in (*moved, output(made, 0)):
        g.ProbeSave(image=picture)
    for i in (1, 2):
        g.ProbeSave(latent=output(made, i))
    less, more, _, kept, again = (tensor for tensor, _ in saved(comfy, comfy.run(g.nodes)))
    assert torch.allclose(kept, again, rtol=1e-4, atol=1e-5 * kept.abs().max())
    change = (more.double().square().sum() - less.double().square().sum()) / (BY[1] - BY[0])
    assert change.item() == pytest.approx(kept.double().sum().item(), rel=0.02, abs=0.02)


BY = (-0.01, 0.01)
"""What is added to every cell of the noise."""


def train_on(comfy, family, **changes):
    g = Graph()
    model, clip, vae, _ = loaded(g, family)
    settings = dict(steps=2, rank=2, width=64, height=64, batch_size=2, head_width=16, head_depth=1)
    node = train(g, model, clip, vae, f"sampled-{len(g.nodes)}", **settings, **changes)
    return comfy.run(g.nodes)[node[0]]


def test_a_critic_learns_from_pictures_of_any_sampler_and_cfg(comfy):
    how = dict(sampler_name="uni_pc", scheduler="normal", cfg=2.0, negative_prompt="ugly", denoiser_steps=3)
    shown = train_on(comfy, "Z-Image", hypernetwork="head", teacher="critic", critic_warm_up=4, iterations=1, **how)
    assert "step 2 of 2" in shown["text"][0]


def test_a_sampler_without_a_gradient_is_refused_by_name(comfy):
    words = "sampler_name: uni_pc is not differentiable"
    with pytest.raises(ComfyError, match=words) as refused:
        train_on(comfy, "Z-Image", teacher="gradient", sampler_name="uni_pc")
    assert refused.value.node_type == "HyperNoiseTrain"
    g = Graph()
    model, clip, vae, latent = loaded(g, "Z-Image")
    noise = g.RandomNoise(noise_seed=SEED)
    found = optimized(g, noise, model, clip, vae, latent, "redness", sampler_name="uni_pc")
    g.ProbeSave(image=output(found, 1))
    with pytest.raises(ComfyError, match=words) as refused:
        comfy.run(g.nodes)
    assert refused.value.node_type == "HyperNoiseOptimizeNoise"


def test_a_schedule_that_does_not_exist_is_refused(comfy):
    with pytest.raises(ComfyError, match=r"scheduler: kl_optimal has no schedule for 1 step .* \[nan"):
        train_on(comfy, "Z-Image", scheduler="kl_optimal", sampler_name="euler")
    train_on(comfy, "Z-Image", scheduler="kl_optimal", sampler_name="euler", denoiser_steps=2)


def test_a_text_encoder_of_another_model_and_a_size_that_is_too_small_are_told(comfy):
    g = Graph()
    model, _, vae, latent = loaded(g, "Qwen-Image")
    clip = g.ProbeClipAndVae(width=48, pooled=32, channels=16)
    train(g, model, clip, vae, "other-clip", steps=2)
    with pytest.raises(ComfyError, match="clip: QwenImage cannot be run on what this text encoder gives"):
        comfy.run(g.nodes)
    g = Graph()
    model, _, vae, latent = loaded(g, "FLUX.1")
    clip = g.ProbeClipAndVae(width=48, pooled=32, channels=16)
    found = optimized(g, g.RandomNoise(noise_seed=1), model, clip, vae, latent, "redness")
    g.ProbeSave(image=output(found, 1))
    with pytest.raises(ComfyError, match="conditioning: its text encoder gives 48 numbers"):
        comfy.run(g.nodes)
    with pytest.raises(ComfyError, match="width and height: PixArt cannot make pictures as small as 64 pixels"):
        train_on(comfy, "PixArt-Σ")
