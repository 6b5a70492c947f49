"""Inputs that several nodes share."""

from comfy_api.latest import io

from .reward import RewardType


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
