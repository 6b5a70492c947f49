"""The page's plots."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hypernoise_core.files import replacing

from .measures import interval
from .plan import (
    ABLATION_SHARE,
    CRITIC_CANDIDATES,
    CRITIC_REFINE,
    HEAD_READINGS,
    ITERATIONS,
    MAIN_RANK,
    RANKS,
    STEPS,
    TEMPERATURES,
    TRIES,
    WHITE,
    critic,
    read,
)
from .results import Results
from .world import SHIPPED_HEAD

BLUE, RED, GREEN, GREY, ORANGE, TEAL, PURPLE = (
    "#2b6cb0",
    "#c53030",
    "#2f855a",
    "#718096",
    "#dd6b20",
    "#0097a7",
    "#6b46c1",
)

NEAR = (4, 4)
"""Offset of labels in points. Other offsets avoid overlaps."""

FRONTIER = {
    "base, 1 to 32 steps": ([f"base-{s}" for s in STEPS], [str(s) for s in STEPS], GREY, "o-", (4, -11)),
    "HyperNoise, 1 to 32 steps": ([f"hypernoise-{s}" for s in STEPS], [str(s) for s in STEPS], BLUE, "o-", (4, -11)),
    "HyperNoise, 1 to 3 iterations": (
        ["hypernoise-1", *(f"hypernoise-1x{i}" for i in ITERATIONS)],
        ["", *(f"×{i}" for i in ITERATIONS)],
        TEAL,
        "v-",
        (-14, 6),
    ),
    "head, 1 to 8 readings": (
        [read(SHIPPED_HEAD, i) for i in HEAD_READINGS],
        [f"×{i}" for i in HEAD_READINGS],
        PURPLE,
        "D-",
        (-4, 7),
    ),
    "head ×3 + Best-of-N, ReNO-5": (
        ["head-best-of-2", "head-best-of-4", "head-reno-5"],
        ["2", "4", "ReNO-5"],
        PURPLE,
        "s--",
        NEAR,
    ),
    "best of N by the critic": (
        [f"{critic(0)}-of-{n}" for n in CRITIC_CANDIDATES],
        [str(n) for n in CRITIC_CANDIDATES],
        GREEN,
        "s-",
        NEAR,
    ),
    "refined by the critic": (
        [f"{critic(0)}-refined-{n}" for n in CRITIC_REFINE],
        [str(n) for n in CRITIC_REFINE],
        GREEN,
        "^-",
        (-10, -12),
    ),
    "Best-of-N": ([f"base-best-of-{n}" for n in (2, 4, 8, 50)], ["2", "4", "8", "50"], GREY, "s--", NEAR),
    "HyperNoise + Best-of-N": ([f"hypernoise-best-of-{n}" for n in (2, 4, 8)], ["2", "4", "8"], BLUE, "s--", NEAR),
    "ReNO": ([f"base-reno-{n}" for n in (5, 10, 25, 50)], ["5", "10", "25", "50"], GREY, "^:", (-10, -12)),
    "ReNO that ends by itself": ([f"base-reno-limited-{n}" for n in WHITE], [str(n) for n in WHITE], TEAL, "^--", NEAR),
    "ReNO along white noise": ([f"base-reno-white-{n}" for n in WHITE], [str(n) for n in WHITE], ORANGE, "^--", NEAR),
    "zero-order, at Best-of-N's calls": (
        [f"base-zero-order-{n}" for n in TRIES],
        [str(n) for n in TRIES],
        RED,
        "s:",
        NEAR,
    ),
    "refined by the critic, along white noise": (
        [f"{critic(0)}-refined-white-{n}" for n in WHITE],
        [str(n) for n in WHITE],
        GREEN,
        "v--",
        (-10, -12),
    ),
    "HyperNoise + ReNO": ([f"hypernoise-reno-{n}" for n in (5, 10)], ["5", "10"], BLUE, "^:", NEAR),
    "prompt search": (["base-rewritten"], [""], ORANGE, "D", NEAR),
    "fine-tuned, over-optimised": (["finetune-1"], [""], RED, "X", NEAR),
    "fine-tuned, stopped early": (["finetune-matched-1"], [""], RED, "P", NEAR),
}
"""Series to (records, labels, colour, style, where labels stand)."""

FLOOR = 0.15
"""How far below the base the frontier plot reaches. Lower points are drawn on its edge, with their score."""


def plots(folder: Path, results: Results) -> dict[str, Path]:
    """Draw all plots that have data. Returns name to file."""
    found = {}
    for name, (size, draw) in PLOTS.items():
        path = folder / f"{name}.png"
        if _draw(path, size, draw, results):
            found[name] = path
    return found


def _draw(path: Path, size: tuple[float, float], draw: Callable[..., bool], results: Results) -> bool:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure = plt.figure(figsize=size)
    try:
        if not draw(figure, results):
            return False
        figure.tight_layout()
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=120, format="png", metadata={"Software": None})
        return True
    finally:
        plt.close(figure)


def frontier(figure, results: Results) -> bool:
    """Detector score against seconds per image, for every method."""
    axis, drawn = figure.subplots(), False
    floor = max(0.0, (results.number("base-1", "detector") or 0.0) - FLOOR)
    for title, (names, labels, color, style, place) in FRONTIER.items():
        points = [
            (results.ratio(name), results.number(name, "detector"), *_error(results, name), label)
            for name, label in zip(names, labels, strict=True)
            if results.ratio(name) and results.named(name)
        ]
        if not points:
            continue
        drawn = True
        x, y, below, above, texts = zip(*points, strict=True)
        if max(y) < floor:
            label = f"{title}: {max(y):.3f}, below"
            axis.plot(x, [floor] * len(x), style, color=color, label=label, markersize=8, clip_on=False)
            continue
        axis.errorbar(
            x, y, (below, above), fmt=style, color=color, label=title, markersize=6, linewidth=1.3, elinewidth=0.7
        )
        for a, b, text in zip(x, y, texts, strict=True):
            axis.annotate(text, (a, b), place, textcoords="offset points", fontsize=8, color=color)
    axis.set_xscale("log")
    axis.set_xlabel("seconds per image, relative to the base at one step")
    axis.set_ylabel("detector")
    axis.set_ylim(bottom=floor)
    axis.grid(alpha=0.25, which="both")
    if drawn:
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0))  # inside it would hide points
    return drawn


def _error(results: Results, name: str) -> tuple[float, float]:
    """Down and up from the score to its 95 % interval, of one record."""
    record, score = results.named(name)[0], results.named(name)[0]["detector"]
    low, high = interval(record)
    return max(0.0, score - low), max(0.0, high - score)


def steps(figure, results: Results) -> bool:
    """Detector against denoiser calls."""
    axis, drawn = figure.subplots(), False
    series = {
        "base": ("base", GREY),
        "HyperNoise": ("hypernoise", BLUE),
        "fine-tuned, over-optimised": ("finetune", RED),
        "fine-tuned, stopped early": ("finetune-matched", ORANGE),
    }
    for title, (prefix, color) in series.items():
        names = [f"{prefix}-{s}" for s in STEPS if results.named(f"{prefix}-{s}")]
        if names:
            drawn = True
            x, y = ([results.number(name, key) for name in names] for key in ("nfe", "detector"))
            axis.errorbar(
                x, y, list(zip(*(_error(results, n) for n in names), strict=True)), fmt="o-", color=color, label=title
            )
    axis.set_xscale("log", base=2)
    axis.set_xlabel("NFE")
    axis.set_ylabel("detector")
    axis.grid(alpha=0.25)
    if drawn:
        axis.legend(fontsize=8)
    return drawn


def redness(figure, results: Results) -> bool:
    """The paper's figure 4: redness against what the reward does not measure."""
    row = results.found.get("redness")
    if not row:
        return False
    axes = figure.subplots(1, 2)
    for axis, key, label in ((axes[0], "detector", "detector"), (axes[1], "diversity", "diversity (pixels)")):
        for title, names, color in (
            ("fine-tuned, over training", row["finetuned"], RED),
            ("HyperNoise, by strength", [f"strength {s:g}" for s in row["strengths"]], BLUE),
        ):
            points = [row["curve"]["base"], *(row["curve"][name] for name in names)]
            y = [p[key]["pixels"] if key == "diversity" else p[key] for p in points]
            axis.plot([p["redness"] for p in points], y, "o-", color=color, label=title, markersize=4)
        base = row["curve"]["base"]
        axis.plot(
            base["redness"], base[key]["pixels"] if key == "diversity" else base[key], "k*", markersize=11, label="base"
        )
        axis.set_xlabel("redness")
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    return True


def kl(figure, results: Results) -> bool:
    """Terms of the KL and the Lipschitz constant over training."""
    row = results.found.get("kl")
    if not row:
        return False
    axes = figure.subplots(1, 2)
    x = [point["step"] for point in row["points"]]
    terms = {
        "½‖Δ‖² (L2)": ("l2", BLUE),
        "exact KL": ("exact", "black"),
        "|½ tr J²| (second order)": ("second_order", ORANGE),
        "|tr J - log|det(I+J)||": ("error", RED),
    }
    for title, (key, color) in terms.items():
        axes[0].plot(x, [abs(point[key]) for point in row["points"]], "o-", color=color, label=title)
    axes[0].set_yscale("log")
    axes[0].set_ylabel("nats")
    axes[1].plot(
        x, [point["lipschitz"] for point in row["points"]], "o-", color=BLUE, label="largest singular value of J"
    )
    of = results.found.get(row["settings"]["of"], {})
    if of.get("diagnostics"):
        estimates = of["diagnostics"]
        axes[1].plot(
            [d["step"] for d in estimates],
            [d["lipschitz"] for d in estimates],
            ".:",
            color=GREY,
            label="training's estimate",
        )
    axes[1].axhline(1, color=RED, linewidth=0.8, label="theorem 1 requires less")
    axes[1].set_yscale("log")
    for axis in axes:
        axis.set_xlabel("training step")
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    return True


def ablations(figure, results: Results) -> bool:
    """Detector and KL by rank and by temperature."""
    axes = figure.subplots(1, 2)
    names = {f"rank-{rank}": rank for rank in RANKS}
    temperatures = {f"rank-{MAIN_RANK}" if f == 1 else f"temperature-{f:g}": f for f in TEMPERATURES}
    drawn = _ablation(axes[0], results, names, "LoRA rank")
    drawn |= _ablation(axes[1], results, temperatures, "α, relative to the recipe")
    axes[0].set_title(f"{ABLATION_SHARE:.0%} of the recipe's budget each", fontsize=10)
    return drawn


def _ablation(axis, results: Results, names: dict[str, float], label: str) -> bool:
    names = {name: value for name, value in names.items() if results.named(name)}
    if not names:
        return False
    y = [results.number(name, "detector") for name in names]
    errors = list(zip(*(_error(results, name) for name in names), strict=True))
    axis.errorbar(list(names.values()), y, errors, fmt="o-", color=BLUE)
    if (base := results.number("base-1", "detector")) is not None:
        axis.axhline(base, color=GREY, linewidth=0.8)
    axis.set_xscale("log", base=2)
    axis.set_xlabel(label)
    axis.set_ylabel("detector")
    axis.grid(alpha=0.25)
    other = axis.twinx()
    other.plot(list(names.values()), [results.number(name, "kl") for name in names], "s:", color=ORANGE)
    other.set_ylabel("KL (nats)", color=ORANGE)
    return True


def training(figure, results: Results) -> bool:
    """Training curves of the training seeds."""
    rows = {name: row for name, row in results.found.items() if name.startswith("hypernoise-") and "curve" in row}
    if not rows:
        return False
    axes = figure.subplots(1, 3)
    for axis, key in zip(axes, ("reward", "kl", "alignment"), strict=True):
        for name, row in rows.items():
            axis.plot(
                *_smooth([p["step"] for p in row["curve"]], [p[key] for p in row["curve"]]), label=name, linewidth=1
            )
        axis.set_title(key, fontsize=10)
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
    axes[0].legend(fontsize=8)
    return True


def _smooth(x: Sequence[float], y: Sequence[float], most: int = 60) -> tuple[list[float], list[float]]:
    """Means of equal parts."""
    size = max(1, len(x) // most)
    parts = range(0, len(x) - size + 1, size)
    return [x[i + size // 2] for i in parts], [sum(y[i : i + size]) / size for i in parts]


def calibration(figure, results: Results) -> bool:
    """What a critic expected beside what the reward said, of noises as they are drawn and after readings."""
    row = results.found.get(f"{critic(0)}-calibrated")
    if row is None:
        return False
    axes = figure.subplots(1, len(row["pairs"]), sharex=True, sharey=True, squeeze=False)[0]
    for axis, (readings, own) in zip(axes, row["pairs"].items(), strict=True):
        expected, scored = np.array(own["expected"]), np.array(own["scored"])
        overall, within = correlations(expected, scored, row["per"])
        axis.scatter(expected, scored, s=5, alpha=0.35, color=GREEN, linewidths=0)
        ends = [min(expected.min(), scored.min()), max(expected.max(), scored.max())]
        axis.plot(ends, ends, color=GREY, linewidth=1)
        title = "noise as drawn" if readings == "0" else f"after {readings} readings"
        axis.set_title(f"{title}: correlation {overall:.2f}, within a prompt {within:.2f}", fontsize=10)
        axis.set_xlabel("expected by the critic")
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("reward of the image")
    return True


def correlations(expected: np.ndarray, scored: np.ndarray, per: int) -> tuple[float, float]:
    """Of all, and after the mean of each prompt (`per` in a row) is taken off."""
    centred = [(v.reshape(-1, per) - v.reshape(-1, per).mean(1, keepdims=True)).ravel() for v in (expected, scored)]
    return float(np.corrcoef(expected, scored)[0, 1]), float(np.corrcoef(*centred)[0, 1])


PLOTS: dict[str, tuple[tuple[float, float], Callable[..., bool]]] = {
    "frontier": ((12, 6), frontier),
    "steps": ((7, 4.5), steps),
    "redness": ((11, 4.2), redness),
    "kl": ((11, 4.2), kl),
    "ablations": ((11, 4.2), ablations),
    "training": ((12, 3.6), training),
    "calibration": ((9.5, 4.2), calibration),
}
"""Name to (inches, what draws it)."""
