"""Inputs that several nodes declare alike."""

from comfy_api.latest import io

from .reward import RewardType


def picture_inputs() -> list[io.Input]:
    return [
        io.Image.Input("image", tooltip="A picture or a batch."),
        io.String.Input("prompt", default="", tooltip="What the pictures should show."),
        RewardType.Input("reward", tooltip="From Load Reward."),
    ]


def text_and_vae_inputs() -> list[io.Input]:
    """What makes a MODEL a whole generator."""
    return [
        io.Clip.Input("clip", tooltip="The text encoder that belongs to the model."),
        io.Vae.Input("vae", tooltip="The VAE that belongs to the model; TAESD saves memory."),
    ]


def denoiser_steps_input(tooltip: str) -> io.Int.Input:
    return io.Int.Input("denoiser_steps", default=1, min=1, max=8, advanced=True, tooltip=tooltip)
