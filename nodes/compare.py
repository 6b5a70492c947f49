"""HyperNoise Compare: base and HyperNoise side by side, labelled and scored."""

import math

import numpy as np
import torch
from comfy_api.v0_0_2 import io, ui
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .host.pictures import GAP, legible, to_pil
from .host.progress_text import shown
from .host.reward import RewardType

TITLES = ("base", "HyperNoise")


class HyperNoiseCompare(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseCompare",
            display_name="HyperNoise Compare",
            category="HyperNoise",
            description="Shows two batches with the same seeds side by side, pair by pair, with their scores.",
            search_aliases=["side by side", "before after", "image grid", "ab test"],
            is_output_node=True,
            inputs=[
                io.Image.Input("base", tooltip="Images from the plain workflow."),
                io.Image.Input("hypernoise", tooltip="Images from the same seeds with modulated noise."),
                io.String.Input(
                    "prompt", default="", tooltip="Shown above the images. The reward scores them under it."
                ),
                RewardType.Input("reward", optional=True, tooltip="From Load Reward. Without one, nothing is scored."),
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="All pairs in one image."),
                io.String.Output(display_name="report", tooltip="The scores as text."),
            ],
        )

    @classmethod
    def execute(cls, base, hypernoise, prompt, reward=None) -> io.NodeOutput:
        if base.shape != hypernoise.shape:
            raise ValueError(
                f"base and hypernoise must have the same number and size of images; they have {_size(base)} and "
                f"{_size(hypernoise)}: give both samplers the same latent"
            )
        scores = reward and [reward.score(images, prompt)["total"] for images in (base, hypernoise)]
        text = report(*scores) if scores else "no reward is connected"
        picture = grid(base, hypernoise, prompt, scores)
        told = {**ui.PreviewImage(picture, cls=cls).as_dict(), **shown(text)}
        return io.NodeOutput(picture, text, ui=told)


def report(base: Tensor, hypernoise: Tensor) -> str:
    """Means, their paired difference, and how many images got better. Scores are [B] each."""
    difference = hypernoise - base
    better, worse = int((difference > 0).sum()), int((difference < 0).sum())
    lines = [
        f"base        {base.mean():.4f}",
        f"HyperNoise  {hypernoise.mean():.4f}",
        f"difference  {difference.mean():+.4f}",
        f"better {better}, worse {worse}, equal {len(base) - better - worse}",
    ]
    return "\n".join(lines)


def grid(base: Tensor, hypernoise: Tensor, prompt: str, scores: list[Tensor] | None) -> Tensor:
    """IMAGE [1, H, W, 3], about as wide as high, with every pair of IMAGE [B, h, w, C] side by side on white."""
    base, hypernoise = legible(base), legible(hypernoise)
    height, width = base.shape[1:3]
    label = max(12, min(32, width // 16))
    font = ImageFont.load_default(label)
    across = math.ceil(math.sqrt(len(base) / 2))
    down = math.ceil(len(base) / across)
    row, pair = height + label + 3 * GAP, 2 * width + 4 * GAP
    header = label + 2 * GAP if prompt else 0
    page = Image.new("RGB", (across * pair, header + down * row), "white")
    draw = ImageDraw.Draw(page)
    draw.text((GAP, GAP), " ".join(prompt.split()), "black", font)
    for i in range(len(base)):
        for side, images in enumerate((base, hypernoise)):
            left, top = GAP + i % across * pair + side * (width + GAP), header + i // across * row
            title = TITLES[side] + (f"  {scores[side][i]:.3f}" if scores else "")
            draw.text((left, top), title, "black", font)
            page.paste(to_pil(images[i]), (left, top + label + 2 * GAP))
    return torch.from_numpy(np.asarray(page)).float().div(255)[None]


def _size(images: Tensor) -> str:
    count, height, width = images.shape[:3]
    return f"{count} of {width}x{height}"
