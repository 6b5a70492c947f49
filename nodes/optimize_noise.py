"""Optimize Noise (ReNO): search for a better starting noise, with the reward's gradient or without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

import comfy.model_management
import comfy.sample
import comfy.utils
import torch
from comfy_api.v0_0_2 import io
from torch import Tensor
from torch.autograd.graph import allow_mutation_on_saved_tensors

from hypernoise_core.search import GENTLE, Search, check_search, search_path

from .host.call import still
from .host.inputs import denoiser_steps_input, sampling_inputs, text_and_vae_inputs
from .host.packages import missing
from .host.progress_text import shown
from .host.reward import RewardType, table
from .host.sampling import take_sampling
from .modulate_noise import moves_noise


@dataclass(frozen=True)
class FoundNoise:
    """A NOISE that is already computed: [B, C, h, w]."""

    noise: Tensor
    seed: int

    def generate_noise(self, input_latent: dict) -> Tensor:
        """The noise itself.

        Raises:
            ValueError: the latent has another shape than the one that the noise was found for.
        """
        shape = input_latent["samples"].shape
        if shape != self.noise.shape:
            raise ValueError(
                f"noise: it was optimized for latents of {list(self.noise.shape)}, but the sampler has {list(shape)}: "
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
            description="Searches for a better starting noise by following the reward's gradient, or by trying, image "
            "by image. A HyperNoise LoRA replaces this search, or gives it a better start. Slow: every iteration makes "
            "an image, and runs a backward pass if it follows the gradient.",
            search_aliases=[
                "reno",
                "zero-order search",
                "random search",
                "noise optimization",
                "test-time search",
                "reward gradient",
                "initial noise",
            ],
            inputs=[
                io.Noise.Input("noise", tooltip="Where the search starts: RandomNoise or Modulate Noise."),
                io.Model.Input("model", tooltip="The few-step model that will sample."),
                *text_and_vae_inputs(),
                RewardType.Input("reward", tooltip="From Load Reward. The search raises this score."),
                io.Latent.Input(
                    "latent_image", tooltip="The empty latent that you give the sampler. It sets size and batch."
                ),
                io.String.Input("prompt", default="", tooltip="What the images should show. Use the sampler's prompt."),
                io.Int.Input(
                    "iterations",
                    default=10,
                    min=1,
                    max=1000,
                    tooltip="ReNO's paper uses 50. With too many, the reward rises while the image gets worse.",
                ),
                io.Float.Input(
                    "lr",
                    default=5.0,
                    min=1e-3,
                    max=1000.0,
                    step=0.01,
                    tooltip="Step size. The paper uses 5. Smaller values stay closer to the incoming noise.",
                ),
                denoiser_steps_input(
                    "Denoiser calls per image during the search. Noise found at 1 step also works at more."
                ),
                *sampling_inputs("It must be differentiable."),
                io.Combo.Input(
                    "search",
                    options=list(get_args(Search)),
                    default="reno",
                    optional=True,
                    tooltip="'reno' follows the reward's gradient. 'reno-white' keeps each step like noise, so more "
                    "iterations are safe. 'zero-order' tries noises around the best so far and 'random' new ones: they "
                    "need no gradient, so they work with every reward and take less memory.",
                ),
                io.Boolean.Input(
                    "end_early",
                    default=True,
                    optional=True,
                    tooltip="Ends the search when the noise is no longer like noise: from there on the reward rises "
                    "while the image gets worse.",
                ),
            ],
            outputs=[
                io.Noise.Output(tooltip="For SamplerCustomAdvanced, with the same latent."),
                io.Image.Output(display_name="image", tooltip="The best image of each search, as the reward saw it."),
                io.Float.Output(
                    display_name="scores", is_output_list=True, tooltip="The score of each of these images."
                ),
                io.String.Output(display_name="report", tooltip="Scores before and after, as text."),
            ],
        )

    @classmethod
    def validate_inputs(cls):
        return missing("diffusers") or True

    @classmethod
    def execute(
        cls,
        noise,
        model,
        clip,
        vae,
        reward,
        latent_image,
        prompt,
        iterations,
        lr,
        denoiser_steps=1,
        search="reno",
        end_early=True,
        **sampling,
    ) -> io.NodeOutput:
        from .host.generator import HostGenerator

        if moves_noise(model):
            raise ValueError(
                "model: it comes from Modulate Noise (Model), which would move the noise that is found once more: "
                "connect the model before that node, and put Modulate Noise before the noise input"
            )
        how = take_sampling(sampling)
        check_search(search, reward.ensemble)
        if search.startswith("reno"):
            how.check_differentiable(model)
        ratio = latent_image.get("downscale_ratio_spacial", None)
        samples = comfy.sample.fix_empty_latent_channels(model, latent_image["samples"], ratio)
        if torch.count_nonzero(samples):
            raise ValueError(
                "latent_image: it is not empty, but the search needs pure noise: connect an Empty Latent, not the "
                "latent of img2img or of a second pass"
            )
        x0 = noise.generate_noise({**latent_image, "samples": samples})
        if not torch.count_nonzero(x0):
            raise ValueError("noise: it is all zero: connect RandomNoise or Modulate Noise")
        with torch.inference_mode(False), torch.enable_grad():
            generator = HostGenerator(model, clip, vae, default_size=0, sampling=how)
            generator.default_size = min(samples.shape[-2:]) * generator.latent_scale
            generator.encode([prompt])
            generator.load()
            with generator.training():
                generator.check(denoiser_steps)
            settings = {"iterations": iterations, "lr": lr, "steps": denoiser_steps, "seed": noise.seed}
            settings |= {"search": search, "limits": GENTLE if end_early else None}
            with reward.present(generator.device), generator.training():
                start = still(x0).clone().to(generator.device)
                found = _optimize(generator, reward.ensemble, start, prompt, settings)
            comfy.model_management.soft_empty_cache()
        report = table({"before": found.before, "after": found.after})
        output = (FoundNoise(found.noise.view(x0.shape), noise.seed), found.images, found.after.tolist(), report)
        return io.NodeOutput(*output, ui=shown(report))


@dataclass(frozen=True)
class _Found:
    """Noise [B, C, h, w], images [B, H, W, C] in [0, 1], and scores [B] at the first and the best iteration."""

    noise: Tensor
    images: Tensor
    before: Tensor
    after: Tensor


def _optimize(generator, reward, x0: Tensor, prompt: str, settings: dict) -> _Found:
    """The search on each noise separately, so that memory does not grow with the batch. Results are on the CPU."""
    conditioning, text = generator.encode([prompt]), reward.encode_text([prompt])
    bar = comfy.utils.ProgressBar(len(x0) * (settings["iterations"] + 1))
    ends, before = [], []
    for row in x0.split(1):
        with allow_mutation_on_saved_tensors():  # FLUX adds residuals in place
            about = {"generator": generator, "reward": reward, "conditioning": conditioning, "text": text}
            for i, best in enumerate(search_path(x0=row, **about, **settings)):
                comfy.model_management.throw_exception_if_processing_interrupted()
                bar.update(1)
                if i == 0:
                    before.append(best.scores.cpu())
        ends.append(best)
    noise, images, after = (torch.cat([getattr(end, name) for end in ends]) for name in ("x0", "images", "scores"))
    return _Found(noise.cpu(), images.movedim(1, -1).float().cpu(), torch.cat(before), after.cpu())
