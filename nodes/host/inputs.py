"""Inputs that several nodes share."""

import comfy.samplers
from comfy_api.v0_0_2 import io

from .reward import RewardType
from .sampling import AUTO


def picture_inputs() -> list[io.Input]:
    return [
        io.Image.Input("image", tooltip="An image or a batch."),
        io.String.Input("prompt", default="", tooltip="What the images should show."),
        RewardType.Input("reward", tooltip="From Load Reward."),
    ]


def text_and_vae_inputs() -> list[io.Input]:
    """The inputs that complete a MODEL to a generator."""
    return [
        io.Clip.Input("clip", tooltip="The text encoder of this model."),
        io.Vae.Input("vae", tooltip="The VAE of this model. TAESD saves memory."),
    ]


def denoiser_steps_input(tooltip: str) -> io.Int.Input:
    return io.Int.Input("denoiser_steps", default=1, min=1, max=8, advanced=True, tooltip=tooltip)


def sampling_inputs(extra: str) -> list[io.Input]:
    """KSampler's settings, by its names, because that is what a user has in front of them: SIGMAS are made for one
    number of steps and cannot be compared when a run is resumed. Workflows from before there was a choice have none of
    these and sample by lcm. `extra` ends the first tooltip."""
    return [
        io.Combo.Input(
            "sampler_name",
            options=[AUTO, *comfy.samplers.KSampler.SAMPLERS],
            default=AUTO,
            advanced=True,
            optional=True,
            tooltip="The sampler that you will use. auto: euler for flow models (FLUX, Z-Image, Qwen-Image), lcm for "
            f"others. It matters if denoiser_steps is above 1. {extra}",
        ),
        io.Combo.Input(
            "scheduler",
            options=comfy.samplers.KSampler.SCHEDULERS,
            default="simple",
            advanced=True,
            optional=True,
            tooltip="The scheduler that you will use.",
        ),
        io.Float.Input(
            "cfg",
            default=1.0,
            min=0.0,
            max=100.0,
            step=0.1,
            round=0.01,
            advanced=True,
            optional=True,
            tooltip="The cfg that you will use. Leave it at 1 for few-step models. Any other value doubles the time.",
        ),
        io.String.Input(
            "negative_prompt",
            default="",
            advanced=True,
            optional=True,
            tooltip="The negative prompt that you will use. It is read only if cfg is not 1.",
        ),
        io.Float.Input(
            "guidance",
            default=0.0,
            min=0.0,
            max=100.0,
            step=0.1,
            advanced=True,
            optional=True,
            tooltip="The value of your Flux Guidance node, for models that take one; 0 if you have no such node.",
        ),
    ]
