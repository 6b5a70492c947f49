"""The table of docs/models.md: what works on each image family of ComfyUI's, tried at toy size. `make family-table`
writes it again; tests/host/test_families.py checks every row."""

import re
import tempfile
import uuid
from pathlib import Path

import torch

from host.graphs import Graph, custom_sampling, output
from host.server import REPOSITORY, Comfy, ComfyError, saved

DOCUMENT = REPOSITORY / "docs" / "models.md"
BEGIN, END = "<!-- family table -->\n", "<!-- end of family table -->\n"
HEAD = "| family | class in ComfyUI | head | LoRA |\n|---|---|---|---|\n"
KINDS = ("head", "lora")
SETTINGS = dict(
    prompts="a cat\na red dog", prompts_file="none", steps=2, batch_size=2, rank=2, alpha=4.0, lr=1e-2,
    temperature=1e-3, seed=0, resume=False, preview_every=1000, denoiser_steps=1, optimizer="adamw",
    reward_grad_clip=0.0, gradient_checkpointing="off", micro_batch_size=0, iterations=2, head_width=16, head_depth=1,
    teacher="critic", critic_warm_up=4, between_steps="fresh", score_share=1.0, scores_file="none",
    sampler_name="auto", scheduler="simple", cfg=1.0, negative_prompt="", guidance=0.0,
)  # fmt: skip
SIDES = {"PixArt-α": 320, "PixArt-Σ": 320, "Stable Cascade C": 84}
"""Pixels, where 64 are not possible."""


def works(comfy: Comfy, family: str, kind: str, quantized: str = "") -> str:
    """`yes` if a hypernetwork of this kind is trained, saved, loaded and moves noise; else the node's own sentence.

    Raises:
        AssertionError: the base has changed, or nothing is moved.
        ComfyError: a raw exception.
    """
    name = f"family-{kind}-{re.sub('[^a-zΑ-ω0-9]+', '-', family.lower())}{quantized}"
    file = f"{name}_00001_.safetensors"
    try:
        before, trained = _pictures(comfy, family, quantized, train=dict(name=name, hypernetwork=kind))
    except ComfyError as error:
        assert re.match(r"[a-z_]+: ", str(error)), error
        return f"not possible because {error}"
    after, loaded = _pictures(comfy, family, quantized, file=file)
    assert torch.equal(before, after)
    assert torch.equal(trained, loaded)
    assert trained.isfinite().all()
    assert not torch.equal(before, trained)
    return "yes"


def _pictures(
    comfy: Comfy, family: str, quantized: str, train: dict | None = None, file: str = ""
) -> list[torch.Tensor]:
    """Latents from one noise as it is and moved by what is trained now, or by what lies in `file`."""
    g, side = Graph(), SIDES.get(family, 64)
    model = g.ProbeFamily(family=family, quantized=quantized)
    clip, vae = output(model, 1), output(model, 2)
    if train:
        reward = g.HyperNoiseLoadReward(
            reward="redness", weights="models/hypernoise_rewards", weight=1.0, device="auto"
        )
        hypernoise = g.HyperNoiseTrain(
            model=model, clip=clip, vae=vae, reward=reward, width=side, height=side, **SETTINGS, **train
        )
    else:
        hypernoise = g.HyperNoiseLoraLoader(file=file)
    text = g.ProbeEncode(clip=clip, text="a cat")
    latent = g.EmptyLatentImage(width=side, height=side, batch_size=1)
    latent = g.ProbeStamp(latent=g.ProbeEmptyLatent(model=model, latent=latent), stamp=uuid.uuid4().hex)
    noise = g.RandomNoise(noise_seed=3)
    moved = g.HyperNoiseModulateNoise(
        noise=noise, model=model, conditioning=text, hypernoise=hypernoise, strength=1.0, iterations=2
    )
    for drawn in (noise, moved):
        g.ProbeSave(latent=custom_sampling(g, model, text, drawn, latent))
    return [latents for latents, _ in saved(comfy, comfy.run(g.nodes))]


def families(comfy: Comfy) -> dict[str, str]:
    """Names to classes in `comfy.supported_models`, as the probe has them."""
    return comfy.get("/object_info")["ProbeFamily"]["input"]["required"]["family"][1]["classes"]


def row(comfy: Comfy, family: str) -> str:
    cells = [works(comfy, family, kind) for kind in KINDS]
    return f"| {family} | `{families(comfy)[family]}` | {' | '.join(cells)} |\n"


def write() -> None:
    comfy = Comfy(Path(tempfile.mkdtemp()))
    try:
        table = HEAD + "".join(row(comfy, family) for family in families(comfy))
    finally:
        comfy.stop()
    before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    write()
