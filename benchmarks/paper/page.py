"""Write the page: every table and plot under a heading, and what was and was not run. Nothing is typed by hand."""

import os
import platform
from pathlib import Path

import torch

from hypernoise_core.files import replacing

from . import critic_tables, head_tables, tables
from .plan import (
    ABLATION_SHARE,
    HARD_QUANTILE,
    ITERATED_STRENGTH,
    PER_BEST_OF_50,
    PER_RENO,
    PER_TRAINED_STEPS,
    REDNESS_IN_ENSEMBLE,
)
from .plots import plots
from .results import Results

NOT_RUN = """\
Nothing on this page was run on SD-Turbo, SANA-Sprint or FLUX.1-schnell. The paper's numbers (in italics) are for those
models under GenEval. Ours are for the embedded generator under its exact detector, which follows GenEval's rules. They
share a table so that you can compare trends, not values.

T2I-CompBench, DPG-Bench, LPIPS and DINOv2 need full-size models. The paper's prompt search asks an LLM; ours rewrites
by rules. The paper's ranks reach 128; ours stop at 64, because the embedded denoiser is 128 wide. Costly searches and
ablations use fewer images or smaller budgets, as their tables say."""


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
        "## Targets\n\nWhat this project set out to reach, and what was measured.",
        tables.bars_table(results),
        "## Every method at one step (paper, table 1)",
        "- NFE counts the denoiser calls for one kept image, including those of the hypernetwork. ReNO's backward "
        "passes come on top.\n"
        "- Time is seconds per image, divided by the base's, measured side by side in one process (medians of rounds). "
        "It includes the reward for Best-of-N, ReNO and prompt search.\n"
        "- Intervals are 95 %, paired on prompts and seeds, bootstrapped within categories.\n"
        f"- With several iterations, f is applied to the noise that it has moved, at strength {ITERATED_STRENGTH:g}.\n"
        "- `strict` is the detector's score without extra things or smears.\n"
        "- KL is ½‖Δ‖² in nats, also for ReNO's displacement. Best-of-N moves no noise.",
        tables.methods_table(results),
        picture("frontier"),
        "Detector score against time: better methods are further up and to the left. Labels give steps, N and "
        "iterations.",
        "## The head (ours)",
        "A head is a small network that reads what the frozen denoiser makes of the noise. Each reading costs one "
        "denoiser call. The training seeds use `train/recipes/embedded-head.yaml`, minutes of one CPU thread each. The "
        "shipped head is from `embedded-head-long.yaml`, fourteen times as many images. Each moved noise is rescaled "
        "to the norm of its start.",
        head_tables.readings_table(results),
        "What training took:",
        head_tables.training_table(results),
        "### What the sampler adds between its steps (the paper's open question 3)",
        "*Fresh noise* is what the pipeline does. *Noise kept* adds the starting noise again; for a moved noise, the "
        "moved one. With a *free reading*, the first step's own call is the head's reading, so the head costs no call. "
        "In brackets: the difference to the base at the same steps, with the same added between them.",
        head_tables.between_table(results),
        "Which training suits which sampling? LoRAs trained at several steps, with "
        f"{ABLATION_SHARE:.0%} of the recipe's budget each, {PER_TRAINED_STEPS} images a prompt, one seed:",
        head_tables.trained_table(results),
        "## The critic (ours)",
        "A critic reads what a head reads and learns the reward from scores alone. The hypernetwork then follows the "
        "critic's gradient through one denoiser call. The rows *by the critic* use "
        "`train/recipes/embedded-critic.yaml`: the settings of the head by the gradient, and 4,096 images before the "
        "first step. *Detector's yes or no*: `embedded-verdict.yaml`, on training prompts; no gradient exists.",
        critic_tables.teachers_table(results),
        "What training took. On this generator, whose decoder and reward are tiny, a critic costs more than it saves; "
        "docs/models.md counts full-size models.",
        critic_tables.costs_table(results),
        "### Asking the critic before a picture is drawn",
        "*Best of N by the critic*: N noises are read, and the most promising one is used. *Refined*: gradient ascent "
        "on the critic's lower bound from plain noise, the best iterate kept. Neither runs the reward. The critic is "
        "that of the first training seed.",
        critic_tables.asked_table(results),
        "The critic of the shipped head, which learnt from 40,000 images once the head was finished "
        f"(`embedded-head-critic.yaml`), {PER_RENO} images a prompt:",
        critic_tables.shipped_table(results),
        critic_tables.added_by_refining(results),
        picture("calibration"),
        "### Scores that exist already",
        "The detector's yes or no on some images of the base, of training prompts, and nothing else: no image is drawn "
        "or scored in training. One seed.",
        critic_tables.given_table(results),
        "### Trained from images of several steps",
        "The critic reads the first call and learns the score of the finished image. One seed.",
        critic_tables.steps_table(results),
        "### How much of the search f has learnt",
        "ReNO's reward rises with every iteration. The detector's score rises only at first; after that, ReNO improves "
        "the reward and spoils the image. Shares are relative to ReNO-50, which the paper uses, and to ReNO's best.",
        tables.gains_table(results),
        "### Categories",
        tables.categories_table(results),
        "## Steps (paper, tables 2 and 8)",
        "Everything was trained at one step. Rows with fewer images use fewer cases, so compare the differences and "
        "not the scores between rows.",
        tables.steps_table(results),
        picture("steps"),
        "### Applying the hypernetwork repeatedly",
        "f was trained to move noise once. Here it moves its own output again, at strength "
        f"{ITERATED_STRENGTH:g} each time; this strength was chosen on training prompts. One training seed. Rows with "
        "one iteration use strength 1.",
        tables.iterations_table(results),
        "## Diversity (paper, table 7)",
        "Between images of one prompt at different seeds. In brackets: relative to the base.\n\n"
        "- `pixels`: root-mean-square difference of 16x16 thumbnails.\n"
        "- `features`: 1 - cosine in the reward's image encoder.\n"
        "- `layout`: 1 - intersection over union of what the detector finds, by shape, colour and quarter of the "
        "image.\n- The paper's measures are LPIPS and DINOv2.",
        tables.diversity_table(results),
        "## Redness (paper, figure 4)",
        "Both were trained only on redness, with the same recipe. Fine-tuning is shown over its training, the noise "
        "hypernetwork at several strengths after training.",
        tables.redness_table(results),
        picture("redness"),
        "## LoRA rank (paper, tables 9 and 10)",
        f"Each was trained with {ABLATION_SHARE:.0%} of the recipe's steps and warm start, one seed. Compare these "
        "rows with one another, not with the rows above.",
        tables.rank_table(results),
        "## Temperature α",
        "The clip on reward gradients scales with 1 / α. The budget is that of the ranks.",
        tables.temperature_table(results),
        picture("ablations"),
        "## KL and Lipschitz constant over training (paper, theorem 1)",
        "From the whole Jacobian of f at a few noises (D = 1024). The exact KL is ½‖Δ‖² + tr J - log|det(I + J)|. "
        "`folds` counts noises where det(I + J) < 0: there x + f(x) is not one-to-one, and the formula is no longer a "
        "KL.",
        tables.kl_table(results),
        picture("kl"),
        "### Noise statistics",
        "Unit Gaussian noise has mean 0, standard deviation and norm 1, kurtosis 3 and no correlation between "
        "neighbours. Channel and cell means are taken over all images. They show a shift that does not depend on the "
        "prompt, besides random variation (about 1/√n for a cell).",
        tables.noise_table(results),
        "## An adapter on a changed generator",
        _transfer_words(results),
        tables.transfer_table(results),
        "## Several objectives, and a reward that is hard to climb",
        f"The preference reward, together with redness at weight {REDNESS_IN_ENSEMBLE:g}:",
        tables.objectives_table(results),
        f"The hard reward is a softened step on the number of coloured pixels. It is near 0 on {HARD_QUANTILE:.0%} of "
        "the base's images, and its gradient is almost zero nearly everywhere:",
        tables.hard_table(results),
        "## Training",
        picture("training"),
        "`alignment` is the cosine between the residual and the reward gradient.",
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
    pictures = f"{n[0]['n']} images per row unless the table says otherwise. " if n else ""
    warning = "" if scale == 1 else f"**A quick look at {scale:g} of the full scale: do not rely on the numbers.** "
    return (
        f"{warning}`{command}` writes this page and its figures. Every row is a JSON file beside the plots.\n\n"
        f"{pictures}All methods use the same held-out prompts and the same seeds, which were never trained on. (The "
        f"three prompts for single things are also training prompts, with other seeds.) Training seeds are {seed} to "
        f"{seed + 2}. Rows for HyperNoise without a search average the three seeds; the others use the first. "
        f"Best-of-50 uses {PER_BEST_OF_50} and ReNO {PER_RENO} of each prompt's ten seeds. Fine-tuning sees as many "
        f"images as the training of HyperNoise. torch {torch.__version__.split('+')[0]}, one CPU thread per process, "
        f"{platform.machine()}."
    )


def _transfer_words(results: Results) -> str:
    row, noise = (results.found.get(name, {}).get("settings") for name in ("retrained", "perturbed"))
    if not (row and noise):
        return ""
    return (
        "No second generator was available, so the shipped one was changed in two ways. *Trained further*: "
        f"{row['steps']} steps of AdamW (lr {row['lr']:g}, batch {row['batch']}) on all weights of the denoiser, "
        f"towards the four-step latents of the shipped one. *Moved by noise*: {noise['noise']:.0%} of each tensor's "
        "standard deviation. The adapter was trained for neither."
    )


def _missing(results: Results) -> str:
    missing = [row.name for row in results.rows if row.name not in results.found]
    lines = [f"{len(results.found)} of {len(results.rows)} rows exist."]
    if missing:
        lines.append("Not run: " + ", ".join(missing) + ".")
    lines += [f"Row {name} failed: {error}." for name, error in results.errors.items()]
    return " ".join(lines)
