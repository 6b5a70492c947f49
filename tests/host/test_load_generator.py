"""Load HyperNoise Generator: every family of the core's from a folder that diffusers saved, and what it refuses."""

import re

import pytest
import torch
from tiny_pipelines import BUILDERS, PROMPTS, tiny_pipeline

from host.family_table import SETTINGS
from host.graphs import Graph, custom_sampling, output
from host.server import ComfyError, saved
from host.test_heads import random_head
from hypernoise_core import load_generator, load_hypernetwork

STEPS = {"flux2-klein": 1, "sd3": 1, "sdxl-turbo": 1, "sana-sprint": 1}
"""Where not 2: beyond one, their own schedules depend on the size of the picture, or their samplers are not euler."""
SIDE = 64


QUICK = ("sdxl-turbo", "z-image")
"""Those that differ most; the others take long."""


@pytest.fixture(scope="module")
def folders(comfy):
    """Where toy pipelines lie."""
    root = comfy.folder / "models" / "diffusers"
    tiny_pipeline("flux").save_pretrained(root / "flux")
    return root


@pytest.mark.parametrize("families", [QUICK, pytest.param(tuple({*BUILDERS} - {*QUICK}), marks=pytest.mark.slow)])
@torch.no_grad()
def test_families_draw_and_encode_what_the_core_does(comfy, folders, families):
    g = Graph()
    for family in families:
        tiny_pipeline(family).save_pretrained(folders / family)
        model = g.HyperNoiseLoadGenerator(model=family)
        positive = g.CLIPTextEncode(clip=output(model, 1), text=PROMPTS[1])
        latent = g.EmptyLatentImage(width=SIDE, height=SIDE, batch_size=2)
        samples = custom_sampling(g, model, positive, g.RandomNoise(noise_seed=3), latent, STEPS.get(family, 2))
        image = g.VAEDecode(samples=samples, vae=output(model, 2))
        g.ProbeSave(image=image)
        g.ProbeSave(latent=g.VAEEncode(pixels=image, vae=output(model, 2)))
    tensors = [tensor for tensor, _ in saved(comfy, comfy.run(g.nodes))]
    for family, picture, encoded in zip(families, tensors[::2], tensors[1::2], strict=True):
        generator = load_generator(str(folders / family))
        x0, conditioning = generator.noise(2, SIDE, SIDE, seed=3), generator.encode([PROMPTS[1]]).repeat(2)
        expected = generator.generate(x0, conditioning, STEPS.get(family, 2))
        assert (picture.movedim(-1, 1) - expected).abs().max() < 2e-3, family
        assert picture.std() > 0.01, family
        raw = generator.encode_pictures(picture.movedim(-1, 1))
        raw = raw / generator.latent_scaling + (generator.autoencoder.config.get("shift_factor") or 0.0)
        assert (encoded - raw).abs().max() < 2e-3 * raw.abs().max(), family


@torch.no_grad()
def test_heads_of_the_core_move_its_noise(comfy, folders):
    """FLUX's denoiser does not say how large its tokens are; the core does."""
    generator = load_generator(str(folders / "flux"))
    f = random_head(generator)
    f.save(comfy.folder / "models" / "hypernoise" / "tiny-flux.safetensors", text_length=8)
    g = Graph()
    model = g.HyperNoiseLoadGenerator(model="flux")
    clip, vae = output(model, 1), output(model, 2)
    positive = g.CLIPTextEncode(clip=clip, text=PROMPTS[1])
    latent = g.EmptyLatentImage(width=SIDE, height=SIDE, batch_size=2)
    noise = g.HyperNoiseModulateNoise(
        noise=g.RandomNoise(noise_seed=3), model=model, conditioning=positive, strength=1.0, iterations=2,
        hypernoise=g.HyperNoiseLoraLoader(file="tiny-flux.safetensors"),
    )  # fmt: skip
    g.ProbeSave(image=g.VAEDecode(samples=custom_sampling(g, model, positive, noise, latent), vae=vae))
    ((picture, _),) = saved(comfy, comfy.run(g.nodes))
    x0, conditioning = generator.noise(2, SIDE, SIDE, seed=3), generator.encode([PROMPTS[1]]).repeat(2)
    moved = f.modulate(x0, conditioning, iterations=2)
    assert (picture.movedim(-1, 1) - generator.generate(moved, conditioning)).abs().max() < 2e-3
    assert (moved - x0).abs().max() > 0.01
    told = "tiny-flux.safetensors was trained with texts of 8 tokens, and this CLIP gives 16"
    assert comfy.log.read_text().count(told) == 1


@pytest.mark.slow
def test_it_is_trained_on(comfy, folders):
    g = Graph()
    model = g.HyperNoiseLoadGenerator(model="flux")
    clip, vae = output(model, 1), output(model, 2)
    reward = g.HyperNoiseLoadReward(reward="redness", weights="models/hypernoise_rewards", weight=1.0, device="auto")
    g.HyperNoiseTrain(
        model=model, clip=clip, vae=vae, reward=reward, width=SIDE, height=SIDE,
        **SETTINGS | dict(name="on-flux", hypernetwork="head"),
    )  # fmt: skip
    comfy.run(g.nodes)
    file = comfy.folder / "models" / "hypernoise" / "on-flux_00001_.safetensors"
    trained = load_hypernetwork(load_generator(str(folders / "flux")), file)
    assert trained.info.shape.features
    assert trained.training["text_length"] == "16"  # what the toy tokenizer takes


def refusal(comfy, **inputs):
    g = Graph()
    model = g.HyperNoiseLoadGenerator(**inputs)
    g.ProbeSave(latent=g.EmptyLatentImage(width=SIDE, height=SIDE, batch_size=1), model=model)
    with pytest.raises(ComfyError) as refused:
        comfy.run(g.nodes)
    return refused.value


def test_nothing_is_fetched_unless_the_user_says_so(comfy):
    told = refusal(comfy, model="Tongyi-MAI/Z-Image-Turbo")
    assert told.status == 400
    assert re.search(
        r"model: Tongyi-MAI/Z-Image-Turbo is not on this machine\. To fetch .* from https://\S+", str(told)
    )
    assert str(told).count("is not on this machine") == 1
    told = refusal(comfy, model="Tongyi-MAI/Z-Image-Turbo", download=True)  # the test's ComfyUI is kept from the hub
    assert told.status == 0
    assert "cannot be fetched from https://" in str(told)


def test_other_places_are_folders_that_diffusers_saved(comfy, folders, tmp_path):
    tiny_pipeline("sd-turbo").save_pretrained(tmp_path / "mine")
    g = Graph()
    model = g.HyperNoiseLoadGenerator(model=str(tmp_path / "mine"))
    g.ProbeSave(latent=g.EmptyLatentImage(width=SIDE, height=SIDE, batch_size=1), model=model)
    comfy.run(g.nodes)
    for wrong in (str(tmp_path), "../checkpoints", ""):
        assert "is no folder with a model_index.json" in str(refusal(comfy, model=wrong))


def test_pickles_pointers_and_other_pipelines_are_refused_before_the_run(comfy, folders):
    vae = folders / "flux" / "vae"
    weights = vae / "diffusion_pytorch_model.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
        told = refusal(comfy, model="flux")
        assert told.status == 400
        assert "holds no data, it is a pointer of git-lfs" in str(told)
        weights.write_bytes(kept)
        weights.rename(vae / "diffusion_pytorch_model.bin")
        assert "is a pickle, which may run code" in str(refusal(comfy, model="flux"))
    finally:
        (vae / "diffusion_pytorch_model.bin").unlink(missing_ok=True)
        weights.write_bytes(kept)
    (folders / "other").mkdir(exist_ok=True)
    (folders / "other" / "model_index.json").write_text('{"_class_name": "PixArtAlphaPipeline"}')
    assert "is a PixArtAlphaPipeline; the families known here are" in str(refusal(comfy, model="other"))
