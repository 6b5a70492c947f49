"""Train HyperNoise in the real ComfyUI: what it learns, that Cancel keeps it, and that the model stays as it was."""

import json
import time
import uuid

import pytest
import torch

from host.core_models import tiny_flux, tiny_sd
from host.graphs import Graph, custom_sampling, output
from host.server import ComfyError, saved
from hypernoise_core.hypernetworks.adapter_file import read_adapter
from hypernoise_core.hypernetworks.adapter_fit import fit_adapter

PROMPTS = "a photo of a red square\na photo of three squares\na photo of a blue cross"
SETTINGS = dict(
    prompts=PROMPTS, prompts_file="none", steps=12, batch_size=2, rank=16, alpha=32.0, lr=1e-3, temperature=0.002,
    width=64, height=64, seed=0, resume=False, preview_every=1000, denoiser_steps=1, optimizer="adamw",
    reward_grad_clip=0.0, gradient_checkpointing="off", micro_batch_size=0,
)  # fmt: skip


def embedded(g: Graph):
    model = g.HyperNoiseLoadGenerator(model="embedded")
    return model, output(model, 1), output(model, 2)


def redness(g: Graph):
    return g.HyperNoiseLoadReward(reward="redness", weights="models/hypernoise_rewards", weight=1.0, device="auto")


def train(g: Graph, model, clip, vae, name, reward=None, **changes):
    settings = SETTINGS | changes
    return g.HyperNoiseTrain(model=model, clip=clip, vae=vae, reward=reward or redness(g), name=name, **settings)


def sampled(g: Graph, model, conditioning, vae, noise, batch=1, side=64):
    """Pictures that are in no cache."""
    latent = g.EmptyLatentImage(width=side, height=side, batch_size=batch)
    latent = g.ProbeStamp(latent=latent, stamp=uuid.uuid4().hex)
    return g.VAEDecode(samples=custom_sampling(g, model, conditioning, noise, latent), vae=vae)


def base_picture(comfy):
    """One of the embedded generator, by the very MODEL that was trained for."""
    g = Graph()
    model, clip, vae = embedded(g)
    conditioning = g.CLIPTextEncode(clip=clip, text="a photo of a red square")
    picture = sampled(g, model, conditioning, vae, g.RandomNoise(noise_seed=4))
    g.ProbeSave(image=picture, model=model)
    ((picture, state),) = saved(comfy, comfy.run(g.nodes))
    assert state["patched forwards"] == 0
    return picture


def run_training(comfy, name, **changes):
    """(what the node shows, by kind; the run's folder)"""
    g = Graph()
    node = train(g, *embedded(g), name, **changes)
    return comfy.run(g.nodes)[node[0]]


def curves(comfy, run):
    newest = max((comfy.folder / "output" / "hypernoise_training" / run / "checkpoints").glob("step-*"))
    return json.loads((newest / "state.json").read_text())["curves"]


def adapter(comfy, run):
    return comfy.folder / "models" / "hypernoise" / f"{run}.safetensors"


def start_and_cancel(comfy, name, **changes):
    """Begin a long run and press Cancel as soon as it has learnt something."""
    g = Graph()
    train(g, *embedded(g), name, steps=100_000, preview_every=3, **changes)
    preview = comfy.folder / "output" / "hypernoise_training" / f"{name}_00001_" / "preview.png"
    running = comfy.queue(g.nodes)
    seen = set()
    while len(seen) < 3:
        if preview.exists():
            seen.add(preview.stat().st_mtime_ns)
        assert running not in comfy.get(f"/history/{running}"), comfy.log.read_text()[-3000:]
        time.sleep(0.1)
    comfy.post("/interrupt", {})
    with pytest.raises(ComfyError, match="interrupted"):
        comfy.wait(running)


def test_the_reward_rises_and_the_adapter_is_usable_at_once_and_the_base_stays_bit_equal(comfy):
    before = base_picture(comfy)
    g = Graph()
    model, clip, vae = embedded(g)
    hypernoise = train(g, model, clip, vae, "red")
    g.LossGraphNode(loss=output(hypernoise, 1), filename_prefix="loss")
    g.ProbeSave(image=output(hypernoise, 2))
    conditioning = g.CLIPTextEncode(clip=clip, text="a photo of three squares")
    noise = g.RandomNoise(noise_seed=99)
    moved = g.HyperNoiseModulateNoise(
        noise=noise, model=model, conditioning=conditioning, hypernoise=hypernoise, strength=1.0
    )
    for drawn in (noise, moved):
        g.ProbeSave(image=sampled(g, model, conditioning, vae, drawn, batch=8))
    outputs = comfy.run(g.nodes)
    (grid, _), (base, _), (trained, _) = saved(comfy, outputs)
    red, green, blue = (trained - base).mean((0, 1, 2))
    assert red - (green + blue) / 2 > 0.01  # measured 0.05
    assert grid.shape[0] == 1
    assert "saved as models/hypernoise/red_00001_.safetensors" in outputs[hypernoise[0]]["text"][0]
    assert "weights, gradients and optimizers take 0.0" in outputs[hypernoise[0]]["text"][0]
    assert len(curves(comfy, "red_00001_")["loss"]) == SETTINGS["steps"]
    _, info = read_adapter(adapter(comfy, "red_00001_"))
    assert (info.family, info.generator, info.kind) == ("sana-sprint", "embedded", "noise")
    assert info.training["steps_trained"] == str(SETTINGS["steps"])
    assert torch.equal(before, base_picture(comfy))


def test_a_learning_rate_that_explodes_ends_in_words_and_leaves_no_file(comfy):
    words = r"lower lr from 1, such as to 0.333.*; no checkpoint was saved before that: start again"
    with pytest.raises(ComfyError, match=words):
        run_training(comfy, "wild", steps=50, lr=1.0, temperature=1e-4)
    assert not adapter(comfy, "wild_00001_").exists()


def test_cancel_cancels_and_keeps_what_was_trained_and_resume_goes_on(comfy):
    before = base_picture(comfy)
    start_and_cancel(comfy, "cut")
    assert torch.equal(before, base_picture(comfy))
    cut = curves(comfy, "cut_00001_")["loss"]
    assert len(cut) >= 3
    told = comfy.log.read_text()
    assert f"stopped at step {len(cut)} of 100000" in told
    assert "saved as models/hypernoise/cut_00001_.safetensors; set resume to go on" in told
    weights, info = read_adapter(adapter(comfy, "cut_00001_"))
    assert int(info.training["steps_trained"]) == len(cut)
    assert any(weight.any() for name, weight in weights.items() if "lora_B" in name)
    steps = len(cut) + 3
    shown = run_training(comfy, "cut", resume=True, steps=steps, lr=5e-4)["text"][0]
    assert f"resumed from step {len(cut)}" in shown
    assert f"changed: steps: 100000 -> {steps}" in shown
    assert "changed: lr: 0.001 -> 0.0005" in shown
    curve = curves(comfy, "cut_00001_")["loss"]
    assert (curve[: len(cut)], len(curve)) == (cut, steps)
    assert int(read_adapter(adapter(comfy, "cut_00001_"))[1].training["steps_trained"]) == steps
    shown = run_training(comfy, "cut", resume=True, steps=steps - 1, lr=5e-4)["text"][0]
    assert f"nothing is left to do, step {steps} is done" in shown
    with pytest.raises(ComfyError, match="rank is 8, the checkpoint has 16") as refused:
        run_training(comfy, "cut", resume=True, steps=steps + 1, rank=8)
    assert refused.value.node_type == "HyperNoiseTrain"


def test_a_new_run_of_an_old_name_has_a_place_of_its_own_and_is_the_same_again(comfy):
    for _ in range(2):
        run_training(comfy, "again", steps=2, prompts=PROMPTS + "\n" * len(list(comfy.folder.rglob("again_*"))))
    first, second = (curves(comfy, f"again_0000{i}_") for i in (1, 2))
    assert first == second
    weights, again = (read_adapter(adapter(comfy, f"again_0000{i}_"))[0] for i in (1, 2))
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": " \n"}, "write at least one"),
        ({"prompts_file": "gone.txt"}, "there is no gone.txt"),
        ({"name": "../mine"}, "is not a file name"),
        ({"steps": 1}, "steps"),
    ],
)
def test_wrong_input_is_refused_before_anything_runs(comfy, changes, words):
    with pytest.raises(ComfyError, match=words) as refused:
        run_training(comfy, **{"name": "wrong", **changes})
    assert refused.value.status == 400
    assert len(str(refused.value).splitlines()) == 2  # what failed, and why: once


def test_a_size_that_does_not_fit_is_the_nodes_error(comfy):
    with pytest.raises(ComfyError, match="multiples of 8 pixels") as refused:
        run_training(comfy, "wrong", width=60)
    assert refused.value.node_type == "HyperNoiseTrain"
    assert not adapter(comfy, "wrong_00001_").exists()


def test_prompts_come_from_a_file_as_well(comfy):
    (comfy.folder / "input" / "mine.txt").write_text("a photo of a green square\n")
    run_training(comfy, "file", prompts="", prompts_file="mine.txt", steps=2, micro_batch_size=1)
    assert adapter(comfy, "file_00001_").exists()


class HostModel:
    """A toy model of ComfyUI's own classes, with CLIP and VAE of random numbers."""

    def __init__(self, comfy, name, build, width, channels, family):
        self.name, self.width, self.channels, self.family = name, width, channels, family
        self.core = build(comfy.folder / "models" / "diffusion_models" / f"{name}.safetensors")

    def loaded(self, g: Graph):
        model = g.UNETLoader(unet_name=f"{self.name}.safetensors", weight_dtype="default")
        clip = g.ProbeClipAndVae(width=self.width, pooled=32, channels=self.channels)
        return model, clip, output(clip, 1)


@pytest.fixture(scope="module", params=["sd", "flux"])
def host_model(request, comfy):
    setting = {"sd": (tiny_sd, 1024, 4, "sd-turbo"), "flux": (tiny_flux, 64, 16, "flux")}[request.param]
    return HostModel(comfy, f"train-{request.param}", *setting)


def test_the_generator_draws_comfyuis_pictures_and_recomputing_changes_no_gradient(comfy, host_model):
    """Two prompts of different lengths in one batch; two steps, as lcm makes them."""
    g = Graph()
    model, clip, vae = host_model.loaded(g)
    latent = g.ProbeEmptyLatent(model=model, latent=g.EmptyLatentImage(width=64, height=64, batch_size=2))
    noise = g.RandomNoise(noise_seed=5)
    made = g.ProbeGenerator(
        model=model, clip=clip, vae=vae, noise=noise, latent=latent, prompts="a cat|a red dog", steps=2, seed=5
    )
    g.ProbeSave(image=made)
    for i in (1, 2):
        g.ProbeSave(latent=output(made, i))
    for text in ("a cat", "a red dog"):
        conditioning = g.ProbeEncode(clip=clip, text=text)
        samples = custom_sampling(g, model, conditioning, noise, latent, steps=2, sampler="lcm")
        g.ProbeSave(image=g.VAEDecode(samples=samples, vae=vae))
    pictures, kept, again, cats, dogs = (tensor for tensor, _ in saved(comfy, comfy.run(g.nodes)))
    assert torch.allclose(pictures, torch.stack([cats[0], dogs[1]]), atol=1e-4)
    assert kept.abs().max() > 1e-3
    assert torch.allclose(kept, again, rtol=1e-4, atol=1e-5 * kept.abs().max())


def test_training_a_model_of_comfyuis_own(comfy, host_model):
    """Reward up (of the cheaper one, in 12 steps), base bit-equal, and a file that the core's diffusers model takes."""

    def prompt():
        g = Graph()
        loaded = host_model.loaded(g)
        return g, loaded, g.RandomNoise(noise_seed=3), g.ProbeEncode(clip=loaded[1], text="a cat")

    def base_pictures():
        g, (model, _, vae), noise, conditioning = prompt()
        g.ProbeSave(image=sampled(g, model, conditioning, vae, noise, batch=4, side=32))
        ((pictures, _),) = saved(comfy, comfy.run(g.nodes))
        return pictures

    before, rises = base_pictures(), host_model.family == "flux"
    g, (model, clip, vae), noise, conditioning = prompt()
    hypernoise = train(
        g, model, clip, vae, host_model.name, prompts="a cat\na red dog", steps=12 if rises else 2, rank=4, alpha=8.0,
        temperature=1e-4, gradient_checkpointing="all", width=32, height=32,
    )  # fmt: skip
    moved = g.HyperNoiseModulateNoise(
        noise=noise, model=model, conditioning=conditioning, hypernoise=hypernoise, strength=1.0
    )
    g.ProbeSave(image=sampled(g, model, conditioning, vae, moved, batch=4, side=32))
    ((trained, _),) = saved(comfy, comfy.run(g.nodes))
    assert torch.equal(before, base_pictures())
    assert not torch.equal(trained, before)
    red, green, blue = (trained - before).mean((0, 1, 2))
    assert not rises or red - (green + blue) / 2 > 0
    weights, info = read_adapter(adapter(comfy, f"{host_model.name}_00001_"))
    assert (info.family, info.generator) == (host_model.family, host_model.name)
    fit_adapter(host_model.core.denoiser, weights, info)


@pytest.mark.parametrize("host_model", ["flux"], indirect=True)  # it overwrites what the backward pass needs
def test_a_step_on_comfyuis_own_layers_is_counted_without_data_as_it_runs(comfy, host_model):
    g = Graph()
    model, clip, vae = host_model.loaded(g)
    node = g.ProbeMemory(model=model, clip=clip, vae=vae, reward=redness(g), steps=1)
    counted, real = comfy.run(g.nodes)[node[0]]["bytes"]
    assert counted == pytest.approx(real, rel=0.02)
