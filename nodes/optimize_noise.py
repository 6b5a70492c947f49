"""Optimize Noise (ReNO): search for a better starting noise by the reward's gradient."""

from __future__ import annotations

from dataclasses import dataclass

import comfy.model_management
import comfy.sample
import comfy.utils
import torch
from comfy_api.latest import io, ui
from torch import Tensor
from torch.autograd.graph import allow_mutation_on_saved_tensors

from hypernoise_core.search import reno_path

from .host.inputs import denoiser_steps_input, text_and_vae_inputs
from .host.packages import missing
from .host.reward import RewardType, table


@dataclass(frozen=True)
class FoundNoise:
    """A NOISE that is known already: [B, C, h, w]."""

    noise: Tensor
    seed: int

    def generate_noise(self, input_latent: dict) -> Tensor:
        """Raises ValueError where the latent is another one than the noise was found for."""
        shape = input_latent["samples"].shape
        if shape != self.noise.shape:
            raise ValueError(
                f"noise: it was optimized for latents of {list(self.noise.shape)} and the sampler has {list(shape)}: "
                "connect the same latent to Optimize Noise and to the sampler"
            )
        return self.noise


class HyperNoiseOptimizeNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseOptimizeNoise",
            display_name="Optimize Noise (ReNO)",
            category="HyperNoise",
            description="Climbs the reward from the noise that comes in, picture by picture: the search that a "
            "HyperNoise LoRA makes unnecessary, or a few steps of it on top of one. Slow: a picture and a backward "
            "pass an iteration.",
            search_aliases=["reno", "noise optimization", "test-time search", "reward gradient", "initial noise"],
            inputs=[
                io.Noise.Input("noise", tooltip="Where the search starts: RandomNoise, or Modulate Noise."),
                io.Model.Input("model", tooltip="The few-step model that will sample."),
                *text_and_vae_inputs(),
                RewardType.Input("reward", tooltip="From Load Reward: what is climbed."),
                io.Latent.Input("latent_image", tooltip="The empty latent that the sampler gets: size and batch."),
                io.String.Input("prompt", default="", tooltip="What the pictures shall show, as for the sampler."),
                io.Int.Input(
                    "iterations",
                    default=10,
                    min=1,
                    max=1000,
                    tooltip="ReNO's paper takes 50. Too many find what the reward likes and nobody asked for.",
                ),
                io.Float.Input(
                    "lr",
                    default=5.0,
                    min=1e-3,
                    max=1000.0,
                    step=0.01,
                    tooltip="Step size; 5 is the paper's. Smaller stays closer to the noise that comes in.",
                ),
                denoiser_steps_input(
                    "Denoiser calls for a picture during the search, sampled as by lcm with scheduler simple. "
                    "What is found at one serves at more."
                ),
            ],
            outputs=[
                io.Noise.Output(tooltip="For SamplerCustomAdvanced, on the same latent."),
                io.Image.Output(display_name="image", tooltip="The best picture of each search, as it was judged."),
                io.Float.Output(display_name="scores", is_output_list=True, tooltip="Theirs, one for each picture."),
                io.String.Output(display_name="report", tooltip="Scores before and after, as text."),
            ],
        )

    @classmethod
    def validate_inputs(cls):
        return missing("diffusers", "peft") or True

    @classmethod
    def execute(
        cls, noise, model, clip, vae, reward, latent_image, prompt, iterations, lr, denoiser_steps=1
    ) -> io.NodeOutput:
        from .host.generator import HostGenerator

        ratio = latent_image.get("downscale_ratio_spacial", None)
        samples = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"], ratio)
        if torch.count_nonzero(samples):
            raise ValueError(
                "latent_image: it is not empty; the search is over pure noise: connect an Empty Latent, and none of "
                "img2img or a second pass"
            )
        x0 = noise.generate_noise({**latent_image, "samples": samples})
        if not torch.count_nonzero(x0):
            raise ValueError("noise: there is none to start from: connect Random Noise or Modulate Noise")
        with torch.inference_mode(False), torch.enable_grad():
            generator = HostGenerator(model, clip, vae, default_size=samples.shape[-2])
            generator.encode([prompt])
            generator.load()
            settings = {"iterations": iterations, "lr": lr, "steps": denoiser_steps, "seed": noise.seed}
            with reward.present(generator.device), generator.training():
                found = _optimize(generator, reward.ensemble, x0.clone().to(generator.device), prompt, settings)
            comfy.model_management.soft_empty_cache()
        report = table({"before": found.before, "after": found.after})
        output = (FoundNoise(found.noise, noise.seed), found.images, found.after.tolist(), report)
        return io.NodeOutput(*output, ui=ui.PreviewText(report))


@dataclass(frozen=True)
class _Found:
    """Noise [B, C, h, w], pictures [B, H, W, C] in [0, 1], and scores [B] at the first and the best iteration."""

    noise: Tensor
    images: Tensor
    before: Tensor
    after: Tensor


def _optimize(generator, reward, x0: Tensor, prompt: str, settings: dict) -> _Found:
    """ReNO on each noise by itself, so that memory does not grow with the batch; all on the CPU."""
    conditioning, text = generator.encode([prompt]), reward.encode_text([prompt])
    bar = comfy.utils.ProgressBar(len(x0) * (settings["iterations"] + 1))
    ends, before = [], []
    for row in x0.split(1):
        with allow_mutation_on_saved_tensors():  # FLUX adds residuals in place
            for i, best in enumerate(reno_path(generator, reward, row, conditioning, text, **settings)):
                comfy.model_management.throw_exception_if_processing_interrupted()
                bar.update(1)
                if i == 0:
                    before.append(best.scores.cpu())
        ends.append(best)
    noise, images, after = (torch.cat([getattr(end, name) for end in ends]) for name in ("x0", "images", "scores"))
    return _Found(noise.cpu(), images.movedim(1, -1).float().cpu(), torch.cat(before), after.cpu())
