"""Measure the cost of Modulate Noise in ComfyUI: base and HyperNoise in turn, on a full-size SD 2.1 with random
weights.

python -m benchmarks.comfy_overhead                      # 512 pixels, rank 16; some minutes on one CPU thread, 6 GiB
python -m benchmarks.comfy_overhead --size 256 --rounds 5

Runs on Linux. It finds ComfyUI as the host tests do: HYPERNOISE_COMFY_ROOT and HYPERNOISE_COMFY_PYTHON, else
~/comfy/ComfyUI. The first run of each kind loads the models and is not counted.
"""

import argparse
import os
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from hypernoise_core.hypernetworks.adapter_file import AdapterInfo, denoiser_fingerprint, write_adapter
from hypernoise_core.layers import lora_shapes, target_names

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from host.core_models import comfy_state_dict
from host.graphs import Graph, custom_sampling
from host.server import Comfy

SD21 = {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True}


def write_models(folder: Path, rank: int) -> int:
    """A random SD 2.1 and a random adapter for it, in float16; the bytes of the adapter in float32."""
    torch.set_default_dtype(torch.float16)
    unet = UNet2DConditionModel(sample_size=64, **SD21)
    torch.set_default_dtype(torch.float32)
    save_file(comfy_state_dict(unet), folder / "diffusion_models" / "sd21.safetensors")
    modules = dict(unet.named_modules())
    weights = {}
    for name in target_names(unet):
        a, b = lora_shapes(modules[name], rank)
        weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"] = (torch.randn(s) * 0.02 for s in (a, b))
    info = AdapterInfo("noise", "random", "sd-turbo", denoiser_fingerprint(unet), rank, rank, "conv_out")
    write_adapter(folder / "hypernoise" / "sd21.safetensors", weights, info)
    return sum(weight.numel() * 4 for weight in weights.values())


def prompt(seed: int, size: int, modulate: bool) -> dict:
    g = Graph()
    model = g.UNETLoader(unet_name="sd21.safetensors", weight_dtype="default")
    conditioning = g.ProbeConditioning(width=1024, pooled=8, seed=0)
    latent = g.EmptyLatentImage(width=size, height=size, batch_size=1)
    noise = g.RandomNoise(noise_seed=seed)
    if modulate:
        hypernoise = g.HyperNoiseLoraLoader(file="sd21.safetensors")
        noise = g.HyperNoiseModulateNoise(
            noise=noise, model=model, conditioning=conditioning, hypernoise=hypernoise, strength=1.0
        )
    g.ProbeSave(latent=custom_sampling(g, model, conditioning, noise, latent))
    return g.nodes


def measure(comfy: Comfy, seed: int, size: int, modulate: bool) -> tuple[float, int]:
    """CPU seconds, which other programs on the machine do not lengthen, and peak resident bytes of one run."""
    process = Path("/proc") / str(comfy.process.pid)
    (process / "clear_refs").write_text("5")  # resets the peak
    before = cpu_seconds(process)
    comfy.wait(comfy.queue(prompt(seed, size, modulate)), seconds=1800)
    peak = next(line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM"))
    return cpu_seconds(process) - before, int(peak.split()[1]) * 1024


def cpu_seconds(process: Path) -> float:
    user, system = (process / "stat").read_text().rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=512, help="side of the picture in pixels")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        comfy = Comfy(Path(folder), blocked=("diffusers", "peft"))
        try:
            adapter = write_models(Path(folder) / "models", args.rank)
            rounds = [[measure(comfy, seed, args.size, modulate) for modulate in (False, True)]
                      for seed in range(args.rounds + 1)][1:]  # fmt: skip
        finally:
            comfy.stop()
    base, moved = (statistics.median(pair[i][0] for pair in rounds) for i in (0, 1))
    extra = statistics.median(pair[1][0] - pair[0][0] for pair in rounds)
    memory = statistics.median(pair[1][1] - pair[0][1] for pair in rounds)
    mib = 2**20
    print(f"SD 2.1, {args.size} pixels, rank {args.rank}, medians of {args.rounds} alternating rounds, CPU seconds")
    print(f"1 step {base:.2f}, modulate + 1 step {moved:.2f}, extra {extra:.2f} = {extra / base:.2f} steps")
    print(f"adapter {adapter / mib:.0f} MiB   peak memory of modulate + 1 step over 1 step {memory / mib:+.0f} MiB")


if __name__ == "__main__":
    main()
