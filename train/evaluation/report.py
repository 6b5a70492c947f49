"""Turn scores into a report: means by category, and paired differences of base and adapter with intervals; JSON and
Markdown."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from hypernoise_core.evaluation.statistics import mean_of_groups, paired_interval

from .benchmark import Benchmark, JudgeSpec


@dataclass(frozen=True)
class Method:
    """A way of generating the images. `pair` is the method that it is compared with."""

    name: str
    steps: int
    pair: str | None = None


Values = dict[str, dict[str, float]]
"""By prompt and score: the mean over a prompt's images."""


def prompt_means(rows: dict[str, dict]) -> Values:
    """Means from a judge's rows."""
    return {key: {name: float(np.mean(own)) for name, own in row["scores"].items()} for key, row in rows.items()}


def summary(benchmark: Benchmark, spec: JudgeSpec, judged: dict[str, dict[str, dict]], methods: list[Method]) -> dict:
    """By score: for every method its overall mean, its means by category and its number of prompts; for every pair the
    differences with their 95 % intervals."""
    values = {method: prompt_means(rows) for method, rows in judged.items()}
    names = dict.fromkeys(name for rows in values.values() for own in rows.values() for name in own)
    return {name: _score_summary(benchmark, spec, name, values, methods) for name in names}


def _score_summary(
    benchmark: Benchmark, spec: JudgeSpec, name: str, values: dict[str, Values], methods: list[Method]
) -> dict:
    content: dict = {"overall_is": "mean of categories" if spec.over_categories else "mean of prompts", "methods": {}}
    for method in methods:
        groups = _groups(benchmark, name, values[method.name])
        content["methods"][method.name] = {
            "overall": mean_of_groups(_overall(spec, groups)),
            "categories": {category: float(group.mean()) for category, group in groups.items()},
            "prompts": sum(len(group) for group in groups.values()),
        }
    content["differences"] = {}
    for method in methods:
        if method.pair is None:
            continue
        groups = _groups(benchmark, name, values[method.name], values[method.pair])
        content["differences"][method.name] = {
            "from": method.pair,
            "overall": asdict(paired_interval(_overall(spec, groups))),
            "categories": {category: asdict(paired_interval([group])) for category, group in groups.items()},
        }
    return content


def _groups(benchmark: Benchmark, name: str, values: Values, base: Values | None = None) -> dict[str, np.ndarray]:
    """One number per prompt that has the score, by category: the score, or its difference from `base`."""
    groups: dict[str, list[float]] = {}
    for item in benchmark.items:
        own = values.get(item.key, {}).get(name)
        if own is not None:
            groups.setdefault(item.category, []).append(own - (base[item.key][name] if base else 0.0))
    return {category: np.array(group) for category, group in groups.items()}


def _overall(spec: JudgeSpec, groups: dict[str, np.ndarray]) -> list[np.ndarray]:
    return list(groups.values()) if spec.over_categories else [np.concatenate(list(groups.values()))]


def markdown(report: dict) -> str:
    """The report as Markdown."""
    settings, pictures = report["settings"], report["pictures"]
    lines = [
        f"# {report['benchmark']}: {settings['model']}",
        "",
        f"{report['prompts']} prompts, {settings['samples']} images of each, seeds from {settings['seed']} on, the "
        f"same for every method. Adapter: {_adapter(report)}.",
        "",
    ]
    for method, told in pictures.items():
        lines.append(f"- `{method}`: {told}")
    if not report["scores"]:
        lines += ["", "Nothing was scored here (--score false)."]
    for name, score in report["scores"].items():
        lines += ["", f"## {name}", "", *_table(score)]
        lines += ["", f"Overall: {score['overall_is']}. Judged by {_said(score['judge'])}."]
    lines += ["", *report["notes"]]
    return "\n".join(lines) + "\n"


def _adapter(report: dict) -> str:
    if not report["adapter"]:
        return "none"
    settings = report["settings"]
    again = f", {settings['iterations']} iterations" if settings["iterations"] != 1 else ""
    return f"{report['adapter']}, strength {settings['strength']:g}{again}"


def _table(score: dict) -> list[str]:
    categories = list(next(iter(score["methods"].values()))["categories"])
    shown = categories if len(categories) > 1 else []
    lines = ["| | overall | " + " | ".join(shown) + (" |" if shown else ""), "|---|" + "---|" * (1 + len(shown))]
    for method, own in score["methods"].items():
        cells = [f"{own['overall']:.4f}"] + [f"{own['categories'][category]:.4f}" for category in shown]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
        if difference := score["differences"].get(method):
            parts = [difference["overall"]] + [difference["categories"][category] for category in shown]
            cells = [f"{part['difference']:+.4f} [{part['low']:+.4f}, {part['high']:+.4f}]" for part in parts]
            lines.append(f"| {method} − {difference['from']} | " + " | ".join(cells) + " |")
    return lines


def _said(identity: dict) -> str:
    return ", ".join(f"{key} {value}" for key, value in identity.items() if value is not None) or "its own arithmetic"
