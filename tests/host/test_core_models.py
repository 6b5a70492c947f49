"""SD 2.x and FLUX by ComfyUI's own loaders, in an environment without diffusers and peft. The adapters are made by the
core for the diffusers models of the same weights."""

import pytest
import torch
from safetensors.torch import save_file

from host.core_models import POOLED, random_text, tiny_flux, tiny_sd
from host.graphs import Graph, custom_sampling, ksampler, output
from host.server import ComfyError, saved
from hypernoise_core import LoraHypernetwork
from hypernoise_core.hypernetworks.lora_clone import lora_parameters


class Case:
    """A core model in the host, with an adapter for it and the same in the core."""

    def __init__(self, server, name, build, width, last_layer):
        models = server.folder / "models"
        self.name, self.width = name, width
        self.file, self.adapter = f"{name}.safetensors", f"hypernoise-{name}.safetensors"
        self.generator = build(models / "diffusion_models" / self.file)
        self.f = LoraHypernetwork(self.generator, rank=4, alpha=8, last_layer=last_layer)
        random = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for key, parameter in lora_parameters(self.f.network).items():
                if ".lora_B." in key:
                    parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.05)
        self.f.save(models / "hypernoise" / self.adapter)

    def loaded(self, g, batch=1):
        """(model, conditioning, latent)"""
        model = g.UNETLoader(unet_name=self.file, weight_dtype="default")
        conditioning = g.ProbeConditioning(width=self.width, pooled=POOLED, seed=0)
        return model, conditioning, g.EmptyLatentImage(width=64, height=64, batch_size=batch)

    def hypernoise(self, g):
        return g.HyperNoiseLoraLoader(file=self.adapter)

    def modulated(self, g, noise, model, conditioning, strength=1.0):
        return g.HyperNoiseModulateNoise(
            noise=noise, model=model, conditioning=conditioning, hypernoise=self.hypernoise(g), strength=strength
        )

    def conditioning(self, batch):
        return random_text(batch, self.width)


@pytest.fixture(scope="module", params=["sd", "flux"])
def case(request, plain_comfy):
    setting = {"sd": (tiny_sd, 1024, "conv_out"), "flux": (tiny_flux, 64, "proj_out")}[request.param]
    return Case(plain_comfy, request.param, *setting)


def test_the_residual_is_the_cores_own(plain_comfy, case):
    g = Graph()
    model, conditioning, latent = case.loaded(g, batch=2)
    latent = g.ProbeEmptyLatent(model=model, latent=latent)
    noise = g.RandomNoise(noise_seed=9)
    for drawn in (noise, case.modulated(g, noise, model, conditioning, 0.5)):
        g.ProbeSave(latent=g.ProbeDraw(noise=drawn, latent=latent))
    (x0, _), (moved, _) = saved(plain_comfy, plain_comfy.run(g.nodes))
    with torch.no_grad():
        expected = 0.5 * case.f(x0, case.conditioning(2))
    assert expected.abs().max() > 0.01
    assert torch.allclose(moved - x0, expected, atol=2e-5)


def test_noise_and_model_agree_and_the_base_stays_bit_equal_without_patching(plain_comfy, case):
    def run(seed):
        g = Graph()
        model, conditioning, latent = case.loaded(g)
        noise = g.RandomNoise(noise_seed=seed)
        moved = g.HyperNoiseModulateModel(model=model, hypernoise=case.hypernoise(g), strength=1.0)
        still = g.HyperNoiseModulateModel(model=model, hypernoise=case.hypernoise(g), strength=0.0)
        for samples in (
            custom_sampling(g, model, conditioning, noise, latent),
            custom_sampling(g, model, conditioning, case.modulated(g, noise, model, conditioning), latent),
            ksampler(g, moved, conditioning, conditioning, latent, seed),
            ksampler(g, still, conditioning, conditioning, latent, seed),
            ksampler(g, moved, conditioning, conditioning, latent, seed, denoise=0.5),
        ):
            g.ProbeSave(latent=samples, model=model)
        return saved(plain_comfy, plain_comfy.run(g.nodes))

    rounds = [run(seed) for seed in [3, 4] * 2]
    for number, ((base, _), (by_noise, _), (by_model, _), (still, _), _) in enumerate(rounds):
        first = rounds[number % 2]
        assert torch.equal(base, first[0][0])
        assert torch.equal(by_noise, first[1][0])
        assert torch.equal(by_noise, by_model)
        assert torch.equal(base, still)
        assert not torch.allclose(base, by_noise, atol=1e-3)
    states = [state for r in rounds for _, state in r]
    assert len({state["file"] for state in states}) == 20
    assert {state["weight patches"] for state in states} == {states[0]["weight patches"]}
    assert all(state["patched forwards"] == state["backups"] == 0 for state in states)


def test_a_model_with_a_lora_of_its_own(plain_comfy, case):
    """An ordinary LoRA patches the model; the modulation sees the patched model and patches nothing."""
    layer = {"sd": "out.2", "flux": "final_layer.linear"}[case.name]
    size = {"sd": (4, 320, 3, 3), "flux": (64, 128)}[case.name]
    down, up = torch.randn(1, *size[1:]), torch.randn(size[0], 1, *[1] * (len(size) - 2))
    keys = {f"diffusion_model.{layer}.lora_down.weight": down, f"diffusion_model.{layer}.lora_up.weight": up}
    save_file(keys, plain_comfy.folder / "models" / "loras" / f"{case.name}.safetensors")
    g = Graph()
    model, conditioning, latent = case.loaded(g)
    noise = g.RandomNoise(noise_seed=3)
    other = g.LoraLoaderModelOnly(model=model, lora_name=f"{case.name}.safetensors", strength_model=1.0)
    for model_ in (model, other, model):
        g.ProbeSave(latent=custom_sampling(g, model_, conditioning, noise, latent))
        moved = case.modulated(g, noise, model_, conditioning)
        g.ProbeSave(latent=custom_sampling(g, model_, conditioning, moved, latent))
    results = [tensor for tensor, _ in saved(plain_comfy, plain_comfy.run(g.nodes))]
    assert all(tensor.isfinite().all() for tensor in results)
    assert not torch.allclose(results[0], results[2], atol=1e-3)
    assert not torch.allclose(results[2], results[3], atol=1e-3)
    assert torch.allclose(results[0], results[4], atol=1e-5)
    assert torch.allclose(results[1], results[5], atol=1e-5)


def test_a_controlnet_acts_on_the_sampling_alone(plain_comfy, case):
    g = Graph()
    model, conditioning, latent = case.loaded(g)
    latent = g.ProbeEmptyLatent(model=model, latent=latent)
    noise, controlled = g.RandomNoise(noise_seed=3), g.ProbeControl(conditioning=conditioning)
    for text in (conditioning, controlled):
        moved = case.modulated(g, noise, model, text)
        g.ProbeSave(latent=g.ProbeDraw(noise=moved, latent=latent))
        g.ProbeSave(latent=custom_sampling(g, model, text, moved, latent))
    plain, sampled, plain_again, sampled_controlled = (t for t, _ in saved(plain_comfy, plain_comfy.run(g.nodes)))
    assert torch.equal(plain, plain_again)
    if case.name == "sd":  # FLUX's blocks know no control in the middle
        assert not torch.allclose(sampled, sampled_controlled, atol=1e-3)


def test_wrong_pairs_are_told_at_the_node(plain_comfy, case):
    def sample(adapter, width):
        g = Graph()
        model, _, latent = case.loaded(g)
        conditioning = g.ProbeConditioning(width=width, pooled=POOLED, seed=0)
        noise = g.HyperNoiseModulateNoise(
            noise=g.RandomNoise(noise_seed=0), model=model, conditioning=conditioning,
            hypernoise=g.HyperNoiseLoraLoader(file=adapter), strength=1.0,
        )  # fmt: skip
        g.ProbeSave(latent=custom_sampling(g, model, conditioning, noise, latent))
        plain_comfy.run(g.nodes)

    with pytest.raises(ComfyError, match=r"hypernoise: embedded was made for embedded .* does not fit") as wrong:
        sample("embedded", case.width)
    assert wrong.value.node_type == "HyperNoiseModulateNoise"
    with pytest.raises(ComfyError, match="conditioning: its text encoder gives 48 numbers"):
        sample(case.adapter, 48)
    with pytest.raises(ComfyError, match="conditioning: its text encoder gives 48 numbers") as wrong:
        g = Graph()
        model, _, latent = case.loaded(g)
        conditioning = g.ProbeConditioning(width=48, pooled=POOLED, seed=0)
        moved = g.HyperNoiseModulateModel(model=model, hypernoise=case.hypernoise(g), strength=1.0)
        g.ProbeSave(latent=ksampler(g, moved, conditioning, conditioning, latent))
        plain_comfy.run(g.nodes)
    assert wrong.value.node_type == "KSampler"
    with pytest.raises(ComfyError, match=r"there is no gone\.safetensors in models/hypernoise") as missing:
        sample("gone.safetensors", case.width)
    assert missing.value.status == 400


def test_what_needs_diffusers_says_so_before_the_run(plain_comfy):
    g = Graph()
    model = g.HyperNoiseLoadGenerator(model="embedded")
    positive = g.CLIPTextEncode(clip=output(model, 1), text="")
    latent = g.EmptyLatentImage(width=64, height=64, batch_size=1)
    g.ProbeSave(latent=custom_sampling(g, model, positive, g.RandomNoise(noise_seed=0), latent))
    with pytest.raises(ComfyError, match=r"pip install -r requirements\.txt") as refused:
        plain_comfy.run(g.nodes)
    assert refused.value.status == 400
