"""Heads in the real ComfyUI, on its own SD 2.x, SDXL and FLUX, without diffusers and peft: they do what they do in the
core on the diffusers models of the same weights."""

import pytest
import torch
from conftest import randomized

from host.core_models import POOLED, random_text, tiny_flux, tiny_sd, tiny_sdxl
from host.graphs import Graph, custom_sampling, ksampler
from host.server import ComfyError, saved
from hypernoise_core import HeadHypernetwork, LoraHypernetwork
from hypernoise_core.hypernetworks.critic import Critic
from hypernoise_core.hypernetworks.critic_network import CriticNetwork


class Case:
    """A model in the host, with a head for it and the same in the core."""

    def __init__(self, server, name, build, width):
        models = server.folder / "models"
        self.name, self.width = name, width
        self.file, self.head = f"{name}-for-head.safetensors", f"head-{name}.safetensors"
        self.generator = build(models / "diffusion_models" / self.file)
        self.f = random_head(self.generator)
        self.f.save(models / "hypernoise" / self.head)

    def loaded(self, g, batch=1):
        """(model, conditioning, latent)"""
        if self.name == "sdxl":
            model = g.ProbeWeights(file=self.file, config="SDXL")
        else:
            model = g.UNETLoader(unet_name=self.file, weight_dtype="default")
        conditioning = g.ProbeConditioning(width=self.width, pooled=POOLED, seed=0)
        return model, conditioning, g.EmptyLatentImage(width=64, height=64, batch_size=batch)

    def modulated(self, g, noise, model, conditioning, strength=1.0, iterations=1):
        return g.HyperNoiseModulateNoise(
            noise=noise, model=model, conditioning=conditioning, strength=strength, iterations=iterations,
            hypernoise=g.HyperNoiseLoraLoader(file=self.head),
        )  # fmt: skip


def random_head(generator, **options):
    """One whose residuals are not zero."""
    head = HeadHypernetwork.new(generator, width=32, depth=1, iterations=3, **options)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for layer in (head.network.out, head.network.told):
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=random) * 0.1)
    return head


@pytest.fixture(scope="module", params=["sd", "sdxl", "flux"])
def case(request, plain_comfy):
    setting = {"sd": (tiny_sd, 1024), "sdxl": (tiny_sdxl, 64), "flux": (tiny_flux, 64)}[request.param]
    return Case(plain_comfy, request.param, *setting)


def test_the_moved_noise_is_the_cores_own(plain_comfy, case):
    g = Graph()
    model, conditioning, latent = case.loaded(g, batch=2)
    latent = g.ProbeEmptyLatent(model=model, latent=latent)
    noise = g.RandomNoise(noise_seed=9)
    g.ProbeSave(latent=g.ProbeDraw(noise=noise, latent=latent))
    runs = [(1.0, 1), (0.5, 1), (1.0, 3)]
    for strength, iterations in runs:
        moved = case.modulated(g, noise, model, conditioning, strength, iterations)
        g.ProbeSave(latent=g.ProbeDraw(noise=moved, latent=latent))
    (x0, _), *moved = saved(plain_comfy, plain_comfy.run(g.nodes))
    for (found, _), (strength, iterations) in zip(moved, runs, strict=True):
        with torch.no_grad():
            expected = case.f.modulate(x0, random_text(2, case.width), strength, iterations)
        assert (expected - x0).abs().max() > 0.01
        assert torch.allclose(found, expected, atol=1e-4)


def test_noise_and_model_agree_nothing_moves_without_strength_or_iterations_and_the_base_stays(plain_comfy, case):
    def run(seed):
        g = Graph()
        model, conditioning, latent = case.loaded(g)
        noise, head = g.RandomNoise(noise_seed=seed), g.HyperNoiseLoraLoader(file=case.head)
        samples = [custom_sampling(g, model, conditioning, noise, latent)]
        moved = case.modulated(g, noise, model, conditioning, 1.0, 2)
        samples.append(custom_sampling(g, model, conditioning, moved, latent))
        for strength, iterations in ((1.0, 2), (0.0, 2), (1.0, 0)):
            by_model = g.HyperNoiseModulateModel(model=model, hypernoise=head, strength=strength, iterations=iterations)
            samples.append(ksampler(g, by_model, conditioning, conditioning, latent, seed))
        for strength, iterations in ((0.0, 2), (1.0, 0)):
            still = case.modulated(g, noise, model, conditioning, strength, iterations)
            samples.append(custom_sampling(g, model, conditioning, still, latent))
        for latents in samples:
            g.ProbeSave(latent=latents, model=model)
        return saved(plain_comfy, plain_comfy.run(g.nodes))

    rounds = [run(seed) for seed in [3, 4] * 2]
    for number, results in enumerate(rounds):
        (base, by_noise, by_model, *still), states = zip(*results, strict=True)
        assert torch.equal(base, rounds[number % 2][0][0])
        assert torch.equal(by_noise, rounds[number % 2][1][0])
        assert torch.equal(by_noise, by_model)
        assert all(torch.equal(base, latents) for latents in still)
        assert not torch.allclose(base, by_noise, atol=1e-3)
        assert all(state["patched forwards"] == state["backups"] == 0 for state in states)


def test_its_critic_chooses_the_noise_that_the_cores_does(plain_comfy, case):
    """And climbs to where the core's does, by NOISE and by MODEL alike. The base stays bit-equal; a head without a
    critic is refused."""
    g = Graph()
    model, conditioning, latent = case.loaded(g, batch=2)
    g.ProbeSave(latent=custom_sampling(g, model, conditioning, g.RandomNoise(noise_seed=9), latent))
    ((before, _),) = saved(plain_comfy, plain_comfy.run(g.nodes))
    torch.manual_seed(2)
    case.f.critic = Critic(CriticNetwork(case.f.info.shape).requires_grad_(False), case.generator.read)
    file = f"critic-{case.head}"
    case.f.save(plain_comfy.folder / "models" / "hypernoise" / file)
    g = Graph()
    model, conditioning, latent = case.loaded(g, batch=2)
    empty, noise = g.ProbeEmptyLatent(model=model, latent=latent), g.RandomNoise(noise_seed=9)
    g.ProbeSave(latent=g.ProbeDraw(noise=noise, latent=empty))
    how = dict(hypernoise=g.HyperNoiseLoraLoader(file=file), candidates=4, strength=1.0)
    for iterations in (0, 2):
        moved = g.HyperNoiseModulateNoise(
            noise=noise, model=model, conditioning=conditioning, iterations=iterations, **how
        )
        g.ProbeSave(latent=g.ProbeDraw(noise=moved, latent=empty))
    g.ProbeSave(latent=custom_sampling(g, model, conditioning, moved, latent))
    by_model = g.HyperNoiseModulateModel(model=model, iterations=2, **how)
    g.ProbeSave(latent=ksampler(g, by_model, conditioning, conditioning, latent, 9))
    climbed = g.HyperNoiseModulateNoise(
        noise=noise, model=model, conditioning=conditioning, iterations=2, refine=2, **how
    )
    g.ProbeSave(latent=g.ProbeDraw(noise=climbed, latent=empty))
    g.ProbeSave(latent=custom_sampling(g, model, conditioning, climbed, latent))
    by_model = g.HyperNoiseModulateModel(model=model, iterations=2, refine=2, **how)
    g.ProbeSave(latent=ksampler(g, by_model, conditioning, conditioning, latent, 9))
    g.ProbeSave(latent=custom_sampling(g, model, conditioning, noise, latent))
    (x0, _), (chosen, _), (moved, _), (by_noise, _), (by_model, _), *refined, (after, _) = saved(
        plain_comfy, plain_comfy.run(g.nodes)
    )
    assert torch.equal(before, after)
    text = random_text(2, case.width)
    with torch.no_grad():
        expected = case.f.critic.choose(x0, text, 4).noise
        assert not torch.equal(expected, x0)
        assert torch.allclose(chosen, expected, atol=1e-6)
        expected = case.f.modulate(expected, text, 1.0, 2)
        assert torch.allclose(moved, expected, atol=1e-4)
    (climbed, _), (climbed_by_noise, _), (climbed_by_model, _) = refined
    assert torch.allclose(climbed, case.f.critic.refine(expected, text, 2).noise, atol=1e-3)
    assert (climbed - expected).abs().max() > 0.01
    assert torch.equal(climbed_by_noise, climbed_by_model)
    assert torch.equal(by_noise, by_model)
    g = Graph()
    model, conditioning, latent = case.loaded(g)
    how["hypernoise"] = g.HyperNoiseLoraLoader(file=case.head)
    by_model = g.HyperNoiseModulateModel(model=model, iterations=2, **how)
    g.ProbeSave(latent=ksampler(g, by_model, conditioning, conditioning, latent, 9))
    with pytest.raises(ComfyError, match=r"candidates: 4 asks a critic, and .* was saved without one"):
        plain_comfy.run(g.nodes)


def test_the_first_prompt_for_the_whole_picture_is_read(plain_comfy, case):
    g = Graph()
    model, conditioning, _ = case.loaded(g)
    latent = g.ProbeEmptyLatent(model=model, latent=g.EmptyLatentImage(width=128, height=128, batch_size=1))
    other = g.ProbeConditioning(width=case.width, pooled=POOLED, seed=5)
    part = g.ConditioningSetArea(conditioning=other, width=64, height=64, x=0, y=0, strength=1.0)
    later = g.ConditioningSetTimestepRange(conditioning=other, start=0.5, end=1.0)
    noise = g.RandomNoise(noise_seed=9)

    def drawn(conditioning):
        moved = case.modulated(g, noise, model, conditioning)
        g.ProbeSave(latent=g.ProbeDraw(noise=moved, latent=latent))

    drawn(conditioning)
    for first in (part, later):
        drawn(g.ConditioningCombine(conditioning_1=first, conditioning_2=conditioning))
    (alone, _), *with_others = saved(plain_comfy, plain_comfy.run(g.nodes))
    assert len(with_others) == 2
    assert all(torch.equal(alone, moved) for moved, _ in with_others)


@pytest.mark.parametrize("kind", ["head", "lora"])
def test_where_no_prompt_applies_nothing_moves(plain_comfy, case, kind):
    g = Graph()
    model, conditioning, _ = case.loaded(g)
    latent = g.ProbeEmptyLatent(model=model, latent=g.EmptyLatentImage(width=128, height=128, batch_size=1))
    area = g.ConditioningSetArea(conditioning=conditioning, width=64, height=128, x=64, y=0, strength=1.0)
    left = g.MaskComposite(
        destination=g.SolidMask(value=0.0, width=128, height=128), source=g.SolidMask(value=1.0, width=64, height=128),
        x=0, y=0, operation="add",
    )  # fmt: skip
    mask = g.ConditioningSetMask(conditioning=conditioning, mask=left, strength=1.0, set_cond_area="default")
    noise = g.RandomNoise(noise_seed=9)
    file = case.head
    if kind == "lora":
        file = f"lora-{case.name}.safetensors"
        lora = randomized(LoraHypernetwork(case.generator, rank=4, alpha=8), scale=0.1)
        lora.save(plain_comfy.folder / "models" / "hypernoise" / file)
    kept = {"area": "left", "mask": "right", "later": "all", "later area": "all", "both": "none"}
    later = dict(start=0.5, end=1.0)
    prompts = {
        "area": area,
        "mask": mask,
        "later": g.ConditioningSetTimestepRange(conditioning=conditioning, **later),
        "later area": g.ConditioningSetTimestepRange(conditioning=area, **later),
        "both": g.ConditioningCombine(conditioning_1=area, conditioning_2=mask),
    }
    g.ProbeSave(latent=g.ProbeDraw(noise=noise, latent=latent))
    for prompt in prompts.values():
        moved = g.HyperNoiseModulateNoise(
            noise=noise, model=model, conditioning=prompt, hypernoise=g.HyperNoiseLoraLoader(file=file), strength=1.0
        )
        g.ProbeSave(latent=g.ProbeDraw(noise=moved, latent=latent))
    (x0, _), *found = saved(plain_comfy, plain_comfy.run(g.nodes))
    middle = x0.shape[-1] // 2
    for name, (moved, _) in zip(prompts, found, strict=True):
        still = [torch.equal(moved[..., side], x0[..., side]) for side in (slice(0, middle), slice(middle, None))]
        assert still == [kept[name] in ("left", "all"), kept[name] in ("right", "all")], name
        if kind == "head":  # which keeps the norm
            assert torch.allclose(moved.norm(), x0.norm(), rtol=1e-4), name


def test_sides_that_are_no_whole_tokens(plain_comfy, case):
    g = Graph()
    model, conditioning, _ = case.loaded(g)
    latent = g.ProbeEmptyLatent(model=model, latent=g.EmptyLatentImage(width=72, height=40, batch_size=1))
    for noise in (g.RandomNoise(noise_seed=9), case.modulated(g, g.RandomNoise(noise_seed=9), model, conditioning)):
        g.ProbeSave(latent=g.ProbeDraw(noise=noise, latent=latent))
    (x0, _), (moved, _) = saved(plain_comfy, plain_comfy.run(g.nodes))
    assert x0.shape == moved.shape == (1, case.generator.latent_channels, 5, 9)
    assert not torch.allclose(x0, moved, atol=1e-3)


def test_wrong_pairs_are_told_at_the_node(plain_comfy, case):
    g = Graph()
    model, conditioning, latent = case.loaded(g)
    noise = g.HyperNoiseModulateNoise(
        noise=g.RandomNoise(noise_seed=0), model=model, conditioning=conditioning, strength=1.0,
        hypernoise=g.HyperNoiseLoraLoader(file="embedded head"),
    )  # fmt: skip
    g.ProbeSave(latent=custom_sampling(g, model, conditioning, noise, latent))
    with pytest.raises(ComfyError, match=r"hypernoise: embedded head was made for embedded .* its latents") as wrong:
        plain_comfy.run(g.nodes)
    assert wrong.value.node_type == "HyperNoiseModulateNoise"
