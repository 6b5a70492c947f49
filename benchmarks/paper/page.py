"""The page: every table and plot under a heading, with what was and was not run. Generated, never typed."""

import os
import platform
from pathlib import Path

import torch

from hypernoise_core.files import replacing

from . import tables
from .plan import ABLATION_SHARE, HARD_QUANTILE, ITERATED_STRENGTH, PER_BEST_OF_50, PER_RENO, REDNESS_IN_ENSEMBLE
from .plots import plots
from .results import Results

NOT_RUN = """\
Nothing on this page was run on SD-Turbo, SANA-Sprint or FLUX.1-schnell: the paper's figures (in italics) are of those
models under GenEval, ours are of the embedded generator under its exact detector, which follows GenEval's rules. They
share a table so that shapes can be compared, not values. T2I-CompBench, DPG-Bench, LPIPS and DINOv2 are for real
models. The paper's prompt search asks an LLM; ours rewrites by rules. Its ranks reach 128, ours stop at 64: the
embedded denoiser is 128 wide. Costly searches and ablations are on fewer pictures or budgets, as their tables say."""


def write_page(path: Path, folder: Path, results: Results, scale: float, seed: int) -> None:
    """Draw the plots into `folder` and write the page with links to them."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = plots(folder, results)

    def picture(name: str) -> str:
        if name not in pictures:
            return ""
        return f"![{name}]({Path(os.path.relpath(pictures[name], path.parent)).as_posix()})"

    parts = [
        "# Results on the embedded generator",
        _preamble(results, scale, seed),
        "## Bars\n\nWhat this project set out to reach, with what was measured.",
        tables.bars_table(results),
        "## Every method at one step (paper, table 1)",
        "NFE counts denoiser calls for one kept picture, the hypernetwork's included; ReNO's backward passes "
        "come on top. Time is seconds a picture over the base's, measured side by side in one process (medians "
        "of rounds); Best-of-N, ReNO and prompt search pay for the reward as well. Intervals are 95 %, paired on "
        "prompts and seeds, bootstrapped within categories. With several iterations f is applied to what it has "
        f"moved, at strength {ITERATED_STRENGTH:g}. `strict` is the detector without extra things or smears. KL is "
        "½‖Δ‖² in nats, of ReNO's displacement too; Best-of-N moves no noise.",
        tables.methods_table(results),
        picture("frontier"),
        "Detector score against time: the upper left is where one wants to be. Labels are steps, N and iterations.",
        "### How much of the search is amortised",
        "ReNO raises its reward with every iteration, and the detector up to some: past them it finds what the reward "
        "likes and nobody asked for. Shares are told against ReNO-50, which the paper takes, and against its best.",
        tables.gains_table(results),
        "### Categories",
        tables.categories_table(results),
        "## Steps (paper, tables 2 and 8)",
        "Everything was trained at one step. Scores of fewer pictures are not on the same cases as those above them; "
        "the differences are.",
        tables.steps_table(results),
        picture("steps"),
        "### The hypernetwork applied again",
        f"f was trained to move noise once; here it moves what it has moved, at strength {ITERATED_STRENGTH:g} each "
        "time, which was chosen on training prompts. One training seed; one iteration is at strength 1.",
        tables.iterations_table(results),
        "## Diversity (paper, table 7)",
        "Between pictures of one prompt at different seeds; in brackets over the base's. `pixels`: "
        "root-mean-square difference of 16x16 thumbnails. `features`: 1 - cosine in the reward's picture "
        "encoder. `layout`: 1 - overlap over union of what the detector finds, by shape, colour and quarter of "
        "the picture. The paper's are LPIPS and DINOv2.",
        tables.diversity_table(results),
        "## Redness (paper, figure 4)",
        "Both were trained on redness alone by the same recipe. Fine-tuning is shown along its training, the "
        "noise hypernetwork at several strengths of its last state.",
        tables.redness_table(results),
        picture("redness"),
        "## LoRA rank (paper, tables 9 and 10)",
        f"Each trained with {ABLATION_SHARE:.0%} of the recipe's steps and warm start, one seed; they compare "
        "with one another, not with the rows above.",
        tables.rank_table(results),
        "## Temperature α",
        "The clip on reward gradients moves along with 1 / α. Same budget as for the ranks.",
        tables.temperature_table(results),
        picture("ablations"),
        "## KL and Lipschitz constant over training (paper, theorem 1)",
        "On the whole Jacobian of f at a few noises (D = 1024): the exact KL is ½‖Δ‖² + tr J - log|det(I + J)|. "
        "`folds` counts noises at which det(I + J) < 0: there x + f(x) is no one-to-one map, and the formula no "
        "KL any more.",
        tables.kl_table(results),
        picture("kl"),
        "### Noise statistics",
        "Unit Gaussian noise has mean 0, std, norm and 1, kurtosis 3 and no correlation between neighbours. "
        "Channel and cell means are over all pictures: a shift that does not depend on the prompt shows there, "
        "beside what is left of chance (about 1/√n for a cell).",
        tables.noise_table(results),
        "## An adapter on a changed generator",
        _transfer_words(results),
        tables.transfer_table(results),
        "## Several objectives, and a reward that is hard to climb",
        f"The preference reward with redness of weight {REDNESS_IN_ENSEMBLE:g} beside it:",
        tables.objectives_table(results),
        f"The hard reward is a softened step on the number of coloured pixels, near 0 on {HARD_QUANTILE:.0%} of "
        "the base's pictures and flat nearly everywhere:",
        tables.hard_table(results),
        "## Training",
        picture("training"),
        "`alignment` is the cosine between residual and reward gradient.",
        "## What was run, and what was not",
        NOT_RUN,
        _missing(results),
        "<details><summary>Seconds of each row</summary>\n\n" + tables.durations_table(results) + "\n\n</details>",
    ]
    with replacing(path) as temporary:
        temporary.write_text("\n\n".join(part for part in parts if part) + "\n", "utf-8")


def _preamble(results: Results, scale: float, seed: int) -> str:
    command = "make benchmark" if scale == 1 else f"python -m benchmarks.paper --scale {scale:g}"
    n = results.named("base-1")
    pictures = f"{n[0]['n']} pictures a row unless it says otherwise. " if n else ""
    warning = "" if scale == 1 else f"**A quick look at {scale:g} of the full scale: numbers say little.** "
    return (
        f"{warning}Written by `{command}`, figures and all; every row is a JSON file beside the plots. "
        f"{pictures}Held-out prompts, seeds that were never trained on, the same ones for every method (the three "
        f"prompts for single things are trained on too, at other seeds). Training seeds {seed} to {seed + 2}; three "
        f"seeds are averaged where a row says HyperNoise and no search follows, "
        f"else the first is used. Best-of-50 uses {PER_BEST_OF_50} and ReNO {PER_RENO} of each prompt's ten "
        f"seeds. Fine-tuning sees as many pictures as HyperNoise's training. torch "
        f"{torch.__version__.split('+')[0]}, one CPU thread a process, {platform.machine()}."
    )


def _transfer_words(results: Results) -> str:
    row, noise = (results.found.get(name, {}).get("settings") for name in ("retrained", "perturbed"))
    if not (row and noise):
        return ""
    return (
        f"There is no second generator at hand. *Trained further*: {row['steps']} steps of AdamW (lr "
        f"{row['lr']:g}, batch {row['batch']}) on all weights of the denoiser towards the four-step latents of "
        f"the shipped one. *Moved by noise*: {noise['noise']:.0%} of each tensor's standard deviation. The "
        "adapter was trained for neither."
    )


def _missing(results: Results) -> str:
    missing = [row.name for row in results.rows if row.name not in results.found]
    lines = [f"{len(results.found)} of {len(results.rows)} rows are there."]
    if missing:
        lines.append("Not run: " + ", ".join(missing) + ".")
    lines += [f"Row {name} failed: {error}." for name, error in results.errors.items()]
    return " ".join(lines)
