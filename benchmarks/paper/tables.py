"""The page's tables, as Markdown: ours, and the paper's figures beside them."""

from collections.abc import Sequence

from hypernoise_core.embedded.prompts import CATEGORIES

from .bars import TWICE, bars, best_reno, reno_title, share_of_gain
from .plan import (
    ABLATION_SHARE,
    FEW_STEPS,
    HEAD_BEFORE_SEARCH,
    HEAD_READINGS,
    ITERATIONS,
    MAIN_RANK,
    RANKS,
    SEED_READINGS,
    SEEDS,
    STEPS,
    TEMPERATURES,
    TRIES,
    WHITE,
    read,
)
from .results import Results
from .world import SHIPPED_HEAD

# The paper's figures (arXiv 2508.09968), beside which ours are put.

PAPER_CATEGORIES = ("Single", "Two", "Counting", "Colors", "Position", "Attribution")

PAPER_SANA_SPRINT = {
    "base": (0.2, 0.70, (1.00, 0.80, 0.64, 0.86, 0.41, 0.51)),
    "HyperNoise": (0.3, 0.75, (1.00, 0.88, 0.71, 0.85, 0.51, 0.55)),
    "prompt search": (95.0, 0.75, (0.99, 0.91, 0.82, 0.89, 0.36, 0.56)),
    "Best-of-50": (15.0, 0.79, (0.99, 0.92, 0.72, 0.91, 0.53, 0.65)),
    "ReNO-50": (30.0, 0.81, (0.99, 0.93, 0.74, 0.92, 0.60, 0.67)),
}
"""Table 1, SANA-Sprint 0.6B: method to (seconds a picture, GenEval mean, its categories)."""

PAPER_GAINS = {
    "SD-Turbo": {"base": 0.49, "HyperNoise": 0.57, "ReNO-50": 0.63},
    "SANA-Sprint": {"base": 0.70, "HyperNoise": 0.75, "ReNO-50": 0.81},
    "FLUX.1-schnell": {"base": 0.68, "HyperNoise": 0.72, "ReNO-50": 0.76},
}
"""Table 1, GenEval means."""

PAPER_STEPS = {
    "base": {1: 0.70, 2: 0.72, 4: 0.73, 8: 0.74, 16: 0.73, 32: 0.71},
    "HyperNoise": {1: 0.75, 2: 0.76, 4: 0.77, 8: 0.76, 16: 0.75, 32: 0.72},
    "fine-tuned": {1: 0.67, 2: 0.66, 4: 0.62},
}
"""Table 8, SANA-Sprint, by denoiser steps."""

PAPER_RANKS = {
    "HyperNoise": {128: 0.75, 64: 0.75, 16: 0.71, 8: 0.70},
    "fine-tuned": {128: 0.67, 64: 0.68, 16: 0.65, 8: 0.59},
}
"""Tables 9 and 10, SANA-Sprint."""

PAPER_DIVERSITY = {"base": (0.608, 0.780), "HyperNoise": (0.592, 0.825)}
"""Table 7: LPIPS (higher is more diverse) and DINOv2 similarity (lower is)."""

GAP = "–"
"""For what was not measured."""

METHODS = {
    "base": ("base-1", "base"),
    "HyperNoise (mean of training seeds)": ("hypernoise-1", "HyperNoise"),
    **{f"HyperNoise, {i} iterations (mean of training seeds)": (f"hypernoise-1x{i}", None) for i in ITERATIONS},
    "HyperNoise, the shipped adapter": ("shipped", None),
    **{f"head, {i} reading{'s' * (i > 1)} (mean of training seeds)": (read("head", i), None) for i in SEED_READINGS},
    **{f"head, {i} reading{'s' * (i > 1)}, the shipped one": (read(SHIPPED_HEAD, i), None) for i in HEAD_READINGS},
    "fine-tuned, over-optimised": ("finetune-1", None),
    "fine-tuned, stopped at HyperNoise's reward": ("finetune-matched-1", None),
    "prompt search by rewriting": ("base-rewritten", "prompt search"),
    "Best-of-2": ("base-best-of-2", None),
    "Best-of-4": ("base-best-of-4", None),
    "Best-of-8": ("base-best-of-8", None),
    "Best-of-50": ("base-best-of-50", "Best-of-50"),
    "ReNO-5": ("base-reno-5", None),
    "ReNO-10": ("base-reno-10", None),
    "ReNO-25": ("base-reno-25", None),
    "ReNO-50": ("base-reno-50", "ReNO-50"),
    **{f"ReNO-{n}, ended where its noise is none": (f"base-reno-limited-{n}", None) for n in WHITE},
    **{f"ReNO-{n} along white noise": (f"base-reno-white-{n}", None) for n in WHITE},
    **{f"zero-order search, {n} images": (f"base-zero-order-{n}", None) for n in TRIES},
    "HyperNoise + best-of-2": ("hypernoise-best-of-2", None),
    "HyperNoise + best-of-4": ("hypernoise-best-of-4", None),
    "HyperNoise + best-of-8": ("hypernoise-best-of-8", None),
    "HyperNoise + ReNO-5": ("hypernoise-reno-5", None),
    "HyperNoise + ReNO-10": ("hypernoise-reno-10", None),
    f"head, {HEAD_BEFORE_SEARCH} readings + best-of-2": ("head-best-of-2", None),
    f"head, {HEAD_BEFORE_SEARCH} readings + best-of-4": ("head-best-of-4", None),
    f"head, {HEAD_BEFORE_SEARCH} readings + ReNO-5": ("head-reno-5", None),
}
"""Title to (record, the paper's method)."""


def number(value: float | None, digits: int = 3) -> str:
    return GAP if value is None else f"{value:.{digits}f}"


def times(value: float | None) -> str:
    return GAP if value is None else f"{value:.1f}x" if value < 20 else f"{value:.0f}x"


def count(value: float | None) -> str:
    return GAP if value is None else f"{value:.4g}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are numbers."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def bars_table(results: Results) -> str:
    words = {True: "met", False: "**not met**", None: GAP}
    rows = [[bar.promise, bar.measured, words[bar.met]] for bar in bars(results)]
    return table(["target", "measured", ""], rows)


def methods_table(results: Results) -> str:
    """Table 1: every method at one step."""
    head = ["one step", "NFE", "time", "n", "detector", "over the base", "strict", "reward", "KL"]
    rows = []
    for title, (name, _) in METHODS.items():
        difference = results.difference(name, "base-1") if name != "base-1" else None
        nfe, backward = results.number(name, "nfe"), results.number(name, "backward")
        calls = count(nfe) + (f" + {backward:.0f} backward" if backward else "")
        n = results.named(name)[0]["n"] if results.named(name) else None
        cells = [title, calls, times(results.ratio(name)), count(n), number(results.number(name, "detector"))]
        cells += [str(difference) if difference else GAP, number(results.number(name, "detector_strict"))]
        rows.append([*cells, number(results.number(name, "reward"), 2), number(results.number(name, "kl"), 2)])
    return table(head, rows)


def categories_table(results: Results) -> str:
    """Table 1's categories, ours and then the paper's SANA-Sprint."""
    rows = []
    for title, (name, theirs) in METHODS.items():
        cells = [number(results.number(name, "categories", category), 2) for category in CATEGORIES]
        rows.append([title, number(results.number(name, "detector"), 2), *cells])
        if theirs:
            _, mean, categories = PAPER_SANA_SPRINT[theirs]
            rows.append([f"*paper: {theirs}*", f"*{mean:.2f}*", *(f"*{value:.2f}*" for value in categories)])
    return table(["", "mean", *PAPER_CATEGORIES], rows)


def gains_table(results: Results) -> str:
    """How much of the search is amortised, beside the paper's three models."""
    base, best = number(results.number("base-1", "detector")), best_reno(results)
    searches = {"ReNO-50": "base-reno-50"} | ({f"{reno_title(best)}, its best": best} if best else {})
    rows = []
    for title, search in searches.items():
        for name, how in (("hypernoise-1", ""), (TWICE, ", f twice")):
            share = share_of_gain(results, name, search)
            gains = (number(results.gain(own, "base-1")) for own in (name, search))
            cells = [f"embedded generator{how}, {title}", base, *gains, GAP if share is None else f"{share:.0%}"]
            rows.append(cells)
    for model, means in PAPER_GAINS.items():
        gain, search = (means[method] - means["base"] for method in ("HyperNoise", "ReNO-50"))
        rows.append(
            [
                f"*paper: {model}, ReNO-50*",
                f"*{means['base']:.2f}*",
                f"*{gain:.2f}*",
                f"*{search:.2f}*",
                f"*{gain / search:.0%}*",
            ]
        )
    return table(["", "base", "HyperNoise's gain", "ReNO's gain", "share"], rows)


def steps_table(results: Results) -> str:
    """Tables 2 and 8."""
    head = ["steps", "n", "base", "HyperNoise", "difference", "fine-tuned", "stopped early"]
    head += [f"*paper: {name}*" for name in PAPER_STEPS]
    rows = []
    for steps in STEPS:
        difference = results.difference(f"hypernoise-{steps}", f"base-{steps}")
        own = [f"{name}-{steps}" for name in ("base", "hypernoise")]
        tuned = [f"{name}-{steps}" for name in ("finetune", "finetune-matched")]
        n = results.named(own[0])[0]["n"] if results.named(own[0]) else None
        cells = [
            str(steps),
            count(n),
            *(_scored(results, name) for name in own),
            str(difference) if difference else GAP,
        ]
        cells += [_scored(results, name) if steps in FEW_STEPS else GAP for name in tuned]
        theirs = [values.get(steps) for values in PAPER_STEPS.values()]
        rows.append([*cells, *(GAP if value is None else f"*{value:.2f}*" for value in theirs)])
    return table(head, rows)


def iterations_table(results: Results) -> str:
    """f applied again and again, at few steps: the first training seed."""
    rows = []
    for steps in FEW_STEPS:
        for again in (1, *ITERATIONS):
            name = f"hypernoise-{SEEDS[0]}-{steps}" + (f"x{again}" if again > 1 else "")
            difference = results.difference(name, f"base-{steps}")
            if difference:
                cells = [number(results.number(name, key), digits) for key, digits in (("nfe", 0), ("detector", 3))]
                cells += [str(difference), number(results.number(name, "reward"), 2)]
                rows.append([str(steps), str(again), *cells, number(results.number(name, "kl"), 2)])
    return table(["steps", "iterations", "NFE", "detector", "over the base", "reward", "KL"], rows)


def _scored(results: Results, name: str) -> str:
    """Detector, NFE and time."""
    detector, nfe = results.number(name, "detector"), results.number(name, "nfe")
    if detector is None:
        return GAP
    ratio = results.ratio(name)
    return f"{detector:.3f} ({nfe:.0f} NFE{'' if ratio is None else ', ' + times(ratio)})"


def diversity_table(results: Results) -> str:
    """Table 7, with three measures."""
    rows, base = [], "base-1"
    shown = {
        title: METHODS[title][0]
        for title in (
            "base",
            "HyperNoise (mean of training seeds)",
            f"HyperNoise, {ITERATIONS[0]} iterations (mean of training seeds)",
            "fine-tuned, stopped at HyperNoise's reward",
            "fine-tuned, over-optimised",
            "Best-of-8",
            "ReNO-50",
        )
    }
    for title, name in shown.items():
        cells = [title]
        for measure in ("pixels", "features", "layout"):
            value, whole = (results.number(n, "diversity", measure) for n in (name, base))
            relative = f" ({value / whole:.2f})" if value is not None and whole else ""
            cells.append(number(value) + relative)
        rows.append(cells)
    for title, (lpips, dino) in PAPER_DIVERSITY.items():
        rows.append([f"*paper: {title}*", f"*LPIPS {lpips:.3f}*", f"*1 - DINO {1 - dino:.3f}*", GAP])
    return table(["", "pixels", "features", "layout"], rows)


def noise_table(results: Results) -> str:
    columns = {
        "noise_mean": "mean",
        "noise_std": "std",
        "noise_norm": "norm / √D",
        "kurtosis": "kurtosis",
        "channel_mean": "largest channel mean",
        "cell_mean": "rms of cell means",
        "neighbours": "neighbours' correlation",
    }
    names = {
        "unmoved": "base-1",
        "HyperNoise": "hypernoise-1",
        f"HyperNoise, {ITERATIONS[0]} iterations": TWICE,
        "Best-of-8": "base-best-of-8",
        "ReNO-50": "base-reno-50",
        **{f"ReNO-{n}, ended where its noise is none": f"base-reno-limited-{n}" for n in WHITE},
        **{f"ReNO-{n} along white noise": f"base-reno-white-{n}" for n in WHITE},
        "zero-order, 50 images": "base-zero-order-50",
    }
    rows = [
        [title, *(number(results.number(name, "noise", key), 4) for key in columns)] for title, name in names.items()
    ]
    return table(["noise", *columns.values()], rows)


def rank_table(results: Results) -> str:
    """Tables 9 and 10; the ablation's own budget."""
    rows = []
    for rank in RANKS:
        name, row = f"rank-{rank}", results.found.get(f"rank-{rank}", {})
        theirs = {method: values.get(rank) for method, values in PAPER_RANKS.items()}
        rows.append(
            [
                str(rank),
                GAP if not row else f"{row['parameters'] / 1e6:.2f} M",
                *_ablated(results, name),
                *(GAP if value is None else f"*{value:.2f}*" for value in theirs.values()),
            ]
        )
    for rank, value in PAPER_RANKS["HyperNoise"].items():
        if rank not in RANKS:
            rows.append([str(rank), *[GAP] * 6, f"*{value:.2f}*", f"*{PAPER_RANKS['fine-tuned'][rank]:.2f}*"])
    head = ["rank", "parameters", "detector", "over the base", "reward", "KL", "noise std"]
    return table([*head, *(f"*paper: {method}*" for method in PAPER_RANKS)], rows)


def temperature_table(results: Results) -> str:
    rows = []
    for factor in TEMPERATURES:
        name = f"temperature-{factor:g}" if factor != 1 else f"rank-{MAIN_RANK}"
        row = results.found.get(name, {})
        rows.append([f"{factor:g}x", count(row.get("temperature")), *_ablated(results, name)])
    return table(["α relative to the recipe", "α", "detector", "over the base", "reward", "KL", "noise std"], rows)


def _ablated(results: Results, name: str) -> list[str]:
    difference = results.difference(name, "base-1")
    return [
        number(results.number(name, "detector")),
        str(difference) if difference else GAP,
        number(results.number(name, "reward"), 2),
        number(results.number(name, "kl"), 2),
        number(results.number(name, "noise", "noise_std")),
    ]


def redness_table(results: Results) -> str:
    """Figure 4 in numbers."""
    row = results.found.get("redness")
    if not row:
        return ""
    rows = []
    for key, record in row["curve"].items():
        method = "fine-tuned, " if key in row["finetuned"] else "HyperNoise, " if key != "base" else ""
        cells = [number(record[name]) for name in ("redness", "detector")]
        cells += [number(record["reward"], 2), number(record["diversity"]["pixels"]), number(record["kl"], 2)]
        rows.append([method + key, *cells])
    return table(["", "redness", "detector", "preference reward", "diversity", "KL"], rows)


def kl_table(results: Results) -> str:
    row = results.found.get("kl")
    if not row:
        return ""
    head = ["step", "½‖Δ‖²", "tr J - log det(I+J)", "exact KL", "½ tr J²", "½ tr J², Hutchinson"]
    head += ["Lipschitz", "power iteration", "folds"]
    rows = [
        [
            str(point["step"]),
            *(number(point[key], 2) for key in ("l2", "error", "exact", "second_order", "hutchinson")),
            *(number(point[key], 2) for key in ("lipschitz", "power")),
            f"{point['folds']} of {point['noises']}",
        ]
        for point in row["points"]
    ]
    return table(head, rows)


def transfer_table(results: Results) -> str:
    titles = {
        "retrained": "trained further on its own four-step images",
        "perturbed": "every weight tensor moved by noise",
    }
    rows = [["as shipped", GAP, *_pair(results, "base-1", "hypernoise-0-1")]]
    for name, title in titles.items():
        change = results.found.get(name, {}).get("relative_change")
        changed = GAP if change is None else f"{change:.1%}"
        rows.append([title, changed, *_pair(results, f"{name}, alone", f"{name}, adapter")])
    return table(["generator", "change of the weights", "alone", "with the adapter", "difference"], rows)


def _pair(results: Results, base: str, other: str) -> list[str]:
    difference = results.difference(other, base)
    return [
        *(number(results.number(name, "detector")) for name in (base, other)),
        str(difference) if difference else GAP,
    ]


def objectives_table(results: Results) -> str:
    rows = []
    names = {
        "base": "base-1",
        f"preference reward alone (rank {MAIN_RANK}, {ABLATION_SHARE:.0%} of the budget)": f"rank-{MAIN_RANK}",
        "preference reward and redness": "multi",
    }
    for title, name in names.items():
        values = [results.number(name, key) for key in ("detector", "reward", "redness", "kl")]
        rows.append([title, *(number(value) for value in values)])
    return table(["", "detector", "preference reward", "redness", "KL"], rows)


def hard_table(results: Results) -> str:
    names = {
        "base": "hard-base",
        "HyperNoise": "hard-hypernoise",
        "Best-of-8": "hard-best-of-8",
        "ReNO-10": "hard-reno-10",
    }
    rows = [
        [
            title,
            count(results.number(name, "n")),
            *(number(results.number(name, k)) for k in ("pixel_step", "detector", "kl")),
        ]
        for title, name in names.items()
    ]
    return table(["", "n", "hard reward", "detector", "KL"], rows)


def durations_table(results: Results) -> str:
    rows = [
        [row.name, number(found["timing"]["seconds"], 1), number(found["timing"]["cpu_seconds"], 1)]
        for row in results.rows
        if (found := results.found.get(row.name))
    ]
    total = [sum(float(row[i]) for row in rows) for i in (1, 2)]
    return table(["row", "seconds", "CPU seconds"], [*rows, ["all", *(number(value, 0) for value in total)]])
