"""Images to look at after a run: grids of the same seeds before and after, and curves."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hypernoise_core.files import replacing

INK, PAPER, MUTED = (24, 26, 32), (255, 255, 255), (110, 114, 124)


def spread(items: Sequence, count: int) -> list:
    """`count` items from all over the list (all, if there are fewer)."""
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, count).round().astype(int))]


def to_images(pictures: Tensor | np.ndarray) -> list[Image.Image]:
    """[B, 3, H, W] tensors or [B, H, W, 3] arrays in [0, 1] as PIL images."""
    if isinstance(pictures, Tensor):
        pictures = pictures.detach().cpu().permute(0, 2, 3, 1).numpy()
    return [Image.fromarray((picture * 255).round().clip(0, 255).astype(np.uint8)) for picture in pictures]


def comparison_grid(
    path: Path,
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    prompts: Sequence[str],
    cell: int = 160,
    columns: int = 8,
    marks: Sequence[Sequence[bool]] | None = None,
) -> None:
    """Save rows of images, one row per method and one column per prompt, in bands of `columns`.

    `marks` (one row of booleans per method) frames each image in green or red: the detector's verdict.
    """
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    label, gap, caption = 110, 6, 60
    band = len(rows) * (cell + gap) + caption
    bands = -(-len(prompts) // columns)
    width = label + min(columns, len(prompts)) * (cell + gap) + gap
    canvas = Image.new("RGB", (width, bands * band + gap), PAPER)
    draw = ImageDraw.Draw(canvas)
    for index, prompt in enumerate(prompts):
        left = label + index % columns * (cell + gap)
        top = gap + index // columns * band
        for r, (name, images) in enumerate(rows):
            y = top + r * (cell + gap)
            if index % columns == 0:
                draw.text((10, y + cell / 2), name, INK, font, anchor="lm")
            resample = Image.Resampling.NEAREST if images[index].width < cell else Image.Resampling.LANCZOS
            canvas.paste(images[index].resize((cell, cell), resample), (left, y))
            if marks is not None:
                color = (52, 168, 83) if marks[r][index] else (217, 48, 37)
                draw.rectangle((left, y, left + cell - 1, y + cell - 1), outline=color, width=3)
        for i, line in enumerate(textwrap.wrap(prompt, cell // 7)[:3]):
            draw.text((left + 2, top + len(rows) * (cell + gap) - 2 + 16 * i), line, MUTED, small)
    with replacing(path) as temporary:
        canvas.save(temporary, "PNG")


CURVES = {
    "reward": "reward",
    "kl": "KL ≈ ½‖Δ‖² (nats)",
    "kl_second_order": "½ tr J² (nats)",
    "lipschitz": "local Lipschitz constant",
    "alignment": "cosine of residual and reward gradient",
    "clipped": "share of clipped reward gradients",
    "grad_norm": "gradient norm",
    "noise_std": "standard deviation of moved noise",
    "critic/loss": "critic: mean squared error (standardised)",
    "critic/bias": "critic: expected less scored",
    "validation/critic_correlation": "critic: correlation with the reward within a prompt",
    "validation/score": "validation: gain over the base (standard deviations)",
    "validation/diversity": "validation: diversity",
}
"""Metrics that are plotted, and their titles. With several rewards, each of them is plotted too."""


def curves(path: Path, runs: dict[str, Path]) -> None:
    """Plot the `metrics.jsonl` files of named runs, one panel per metric, and save as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = {name: [json.loads(line) for line in file.read_text().splitlines()] for name, file in runs.items()}
    keys = {key for run in rows.values() for row in run for key in row}
    shown = {key: title for key, title in CURVES.items() if key in keys}
    each = sorted(key for key in keys if key.startswith("reward/"))
    shown |= {key: key for key in each if len(each) > 1}
    columns = 3
    figure, axes = plt.subplots(-(-len(shown) // columns), columns, figsize=(13, 3.2 * -(-len(shown) // columns)))
    for axis, (key, title) in zip(np.ravel(axes), shown.items(), strict=False):
        for name, run in rows.items():
            points = [(row["step"], row[key]) for row in run if key in row]
            if points:
                axis.plot(
                    *zip(*points, strict=True), label=name, linewidth=1.3, marker="." if len(points) < 25 else None
                )
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
        if len(runs) > 1:
            axis.legend(fontsize=8)
    for axis in np.ravel(axes)[len(shown) :]:
        axis.axis("off")
    figure.tight_layout()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
    plt.close(figure)
