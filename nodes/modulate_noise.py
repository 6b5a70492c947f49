"""Modulate Noise, as a NOISE and as a MODEL."""

import math
from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy_api.v0_0_2 import io
from torch import Tensor

from .host.adapter import HyperNoise, HyperNoiseType, check_conditioning
from .host.free_reading import FreeReading, check_free_reading
from .host.progress_text import show_text
from .host.residual import KEY, HostFunction

CATEGORY = "HyperNoise"
ALIASES = ["noise hypernetwork", "hypernoise", "improve noise", "initial noise", "turbo quality"]


def strength_input() -> io.Float.Input:
    return io.Float.Input(
        "strength",
        default=1.0,
        min=-10.0,
        max=10.0,
        step=0.05,
        tooltip="How much of the learnt residual is added to the noise. 0 gives the plain workflow, 1 is as trained. "
        "If the effect is weak, try 1.5 to 3.",
    )


def iterations_input() -> io.Int.Input:
    return io.Int.Input(
        "iterations",
        default=1,
        min=0,
        max=10,
        optional=True,  # workflows from before it was there have none
        tooltip="How many times the noise is read and moved. Each time costs one denoiser call. A head works well at "
        "1, 3 and 5; for a LoRA, try 2 at strength 0.75. 0 gives the plain workflow.",
    )


def candidates_input() -> io.Int.Input:
    return io.Int.Input(
        "candidates",
        default=1,
        min=1,
        max=64,
        optional=True,
        tooltip="Starting noises to choose from: yours and others that follow from it. The head's critic says which "
        "one promises the most, without drawing anything, and the node shows what it expects. Each candidate costs one "
        "denoiser call. This needs a head that was trained with a critic.",
    )


def refine_input() -> io.Int.Input:
    return io.Int.Input(
        "refine",
        default=0,
        min=0,
        max=20,
        optional=True,
        tooltip="Steps of gradient ascent on the head's critic, after the noise was moved. Each costs a denoiser call "
        "and its backward pass, and memory for it, but no VAE and no reward. Try 3. With many, the critic is fooled. "
        "This needs a head that was trained with a critic.",
    )


@dataclass(frozen=True)
class Modulation:
    """How a noise hypernetwork moves noise."""

    hypernoise: HyperNoise
    strength: float
    iterations: int
    candidates: int = 1
    refine: int = 0
    free: bool = False
    """Whether the sampler's own first step is the last reading, where it starts from pure noise, takes more steps and
    ends without noise."""
    node_id: str = ""
    """Where to tell what the critic expects."""

    @property
    def changes_nothing(self) -> bool:
        return self.candidates == 1 and not self.refine and (self.strength == 0 or self.iterations == 0)

    def check(self, model: ModelPatcher) -> None:
        """
        Raises:
            ValueError: the hypernetwork does not fit the model, or is asked for what it lacks.
        """
        fitted = self.hypernoise.fit(model)
        if self.candidates == 1 and not self.refine:
            return
        asked = f"candidates: {self.candidates}" if self.candidates > 1 else f"refine: {self.refine}"
        if fitted.critic is None:
            raise ValueError(
                f"{asked} asks a critic, and {self.hypernoise.name} was saved without one: set candidates to 1 and "
                "refine to 0, or train a head with teacher critic"
            )
        if self.free:
            raise ValueError(
                f"{asked} takes calls of its own: set candidates to 1 and refine to 0, or free_reading off"
            )

    def __call__(self, model: ModelPatcher, noise: Tensor, conditioning: list | dict) -> Tensor:
        f, told = HostFunction(model, self.hypernoise), []
        if self.candidates > 1:
            noise, before, after = f.critic.choose(noise, conditioning, self.candidates)
            told.append(f"best of {self.candidates}: {_change(before, after)}")
        noise = f.modulate(noise, conditioning, self.strength, self.iterations)
        if self.refine:
            noise, before, after = f.refine(noise, conditioning, self.refine)
            told.append(f"refined: {_change(before, after)}")
        if told:
            show_text("expected score, " + "; ".join(told), self.node_id)
        return noise

    def begin(self, guider, noise: Tensor, sampler, sigmas: Tensor) -> Tensor:
        """The noise that `guider` starts a run of `sampler` from."""
        model, conditioning = guider.model_patcher, guider.original_conds
        if not self.free or len(sigmas) < 3 or sigmas[-1] > 0 or _starts_below_full_noise(guider, sigmas):
            return self(model, noise, conditioning)
        f = HostFunction(model, self.hypernoise)
        check_free_reading(f, sampler)
        moved = f.modulate(noise, conditioning, self.strength, self.iterations - 1, more=1)
        FreeReading(f, moved, noise, self.strength).wrap(guider)
        return moved


def _change(before: Tensor, after: Tensor) -> str:
    """Means of expected scores [B]."""
    return f"{before.mean():.3g} → {after.mean():.3g}"


class ModulatedNoise:
    """A NOISE that moves the noise of another one, when the sampler asks for it and the latent's size is known."""

    def __init__(self, noise, model: ModelPatcher, conditioning: list, modulation: Modulation):
        self.noise, self.seed = noise, noise.seed
        self.model, self.conditioning, self.modulation = model, conditioning, modulation

    def generate_noise(self, input_latent: dict):
        x0 = self.noise.generate_noise(input_latent)
        if _is_empty(x0) or not _is_empty(input_latent["samples"]):
            return x0
        return self.modulation(self.model, x0, self.conditioning)


class HyperNoiseModulateNoise(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseModulateNoise",
            display_name="Modulate Noise",
            category=CATEGORY,
            description="Moves the starting noise to where the model makes a better image of the prompt. It costs one "
            "more denoiser call, and the model does not change. Place it between RandomNoise and "
            "SamplerCustomAdvanced.",
            search_aliases=ALIASES,
            inputs=[
                io.Noise.Input("noise", tooltip="The output of any noise node. Its seed works as before."),
                io.Model.Input("model", tooltip="The model that will sample. The HyperNoise LoRA must be made for it."),
                io.Conditioning.Input("conditioning", tooltip="The positive prompt that you give the sampler."),
                HyperNoiseType.Input("hypernoise", tooltip="From Load HyperNoise LoRA."),
                strength_input(),
                iterations_input(),
                candidates_input(),
                refine_input(),
            ],
            outputs=[
                io.Noise.Output(
                    tooltip="For SamplerCustomAdvanced. If the latent is not empty (img2img, a second pass), the "
                    "noise is not changed."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, noise, model, conditioning, hypernoise, strength, iterations=1, candidates=1, refine=0
    ) -> io.NodeOutput:
        modulation = Modulation(hypernoise, strength, iterations, candidates, refine, node_id=cls.hidden.unique_id)
        if modulation.changes_nothing:
            return io.NodeOutput(noise)
        modulation.check(model)  # a wrong pair fails here, before anything is sampled
        check_conditioning(model, (tokens for tokens, _ in conditioning))
        return io.NodeOutput(ModulatedNoise(noise, model, conditioning, modulation))


class HyperNoiseModulateModel(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseModulateModel",
            display_name="Modulate Noise (Model)",
            category=CATEGORY,
            description="Modulate Noise for samplers without a noise input, such as KSampler. The output model moves "
            "its starting noise for the sampler's positive prompt. Its weights are not patched.",
            search_aliases=[*ALIASES, "ksampler noise"],
            inputs=[
                io.Model.Input(
                    "model", tooltip="The model that the HyperNoise LoRA was made for. It may carry other LoRAs."
                ),
                HyperNoiseType.Input("hypernoise", tooltip="From Load HyperNoise LoRA."),
                strength_input(),
                iterations_input(),
                io.Boolean.Input(
                    "free_reading",
                    default=False,
                    optional=True,
                    tooltip="Use the sampler's own first step as the last reading, which then costs nothing. This "
                    "needs a head, 2 or more steps, and a sampler that adds no noise, such as euler.",
                ),
                candidates_input(),
                refine_input(),
            ],
            outputs=[
                io.Model.Output(
                    tooltip="For KSampler and any other sampler. img2img and second passes run as if this node were "
                    "not there."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model, hypernoise, strength, iterations=1, free_reading=False, candidates=1, refine=0
    ) -> io.NodeOutput:
        modulation = Modulation(
            hypernoise, strength, iterations, candidates, refine, free_reading, cls.hidden.unique_id
        )
        if modulation.changes_nothing:
            return io.NodeOutput(model)
        modulation.check(model)
        model = model.clone()
        if free_reading:  # loaded where the sampler's own step is read
            model.set_additional_models(KEY, [hypernoise.fit(model).patcher])
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, _modulating(modulation))
        return io.NodeOutput(model)


def _modulating(modulation: Modulation):
    """A wrapper of CFGGuider.outer_sample that moves the incoming noise."""

    def outer_sample(executor, noise, latent_image, sampler, sigmas, *args, **kwargs):
        guider = executor.class_obj
        if not _is_empty(noise) and _is_empty(latent_image):  # the same rule as for a NOISE, which knows no sigmas
            texts = (cond.get("cross_attn") for cond in guider.original_conds["positive"])
            check_conditioning(guider.model_patcher, texts)
            noise = modulation.begin(guider, noise, sampler, sigmas)
        return executor(noise, latent_image, sampler, sigmas, *args, **kwargs)

    return outer_sample


def moves_noise(model: ModelPatcher) -> bool:
    """Whether samplers move the noise that they start from on this MODEL."""
    return bool(model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY))


def _is_empty(tensor) -> bool:
    return torch.count_nonzero(tensor) == 0


def _starts_below_full_noise(guider, sigmas) -> bool:
    first, full = float(sigmas[0]), float(guider.model_patcher.get_model_object("model_sampling").sigma_max)
    return first < full and not math.isclose(first, full, rel_tol=1e-5)
