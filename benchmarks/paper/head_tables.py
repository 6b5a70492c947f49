"""The page's tables about heads, and about what is added between steps."""

from .plan import HEAD_READINGS, SEED_READINGS, SEEDS, SEVERAL_STEPS, TRAINED_STEPS, read, trained_at
from .results import Results
from .tables import GAP, count, number, table, times
from .world import SHIPPED, SHIPPED_HEAD

WAYS = {"fresh": "fresh noise", "keep": "noise kept", "keep-moved": "noise kept", "free": "kept, reading free"}
"""What is added between steps, as the page says it."""


def readings_table(results: Results) -> str:
    """Heads by the number of readings, beside the base and the LoRA."""
    rows = [_row(results, "base", GAP, "base-1"), _row(results, "LoRA (mean of training seeds)", "1", "hypernoise-1")]
    rows += [_row(results, "head (mean of training seeds)", str(i), read("head", i)) for i in SEED_READINGS]
    rows += [_row(results, "head, the shipped one", str(i), read(SHIPPED_HEAD, i)) for i in HEAD_READINGS]
    head = ["", "readings", "NFE", "time", "detector", "over the base", "reward", "KL", "diversity", "noise std"]
    return table([*head, "kurtosis", "neighbours"], rows)


def _row(results: Results, title: str, readings: str, name: str) -> list[str]:
    difference = results.difference(name, "base-1") if name != "base-1" else None
    cells = [title, readings, count(results.number(name, "nfe")), times(results.ratio(name))]
    cells += [number(results.number(name, "detector")), str(difference) if difference else GAP]
    cells += [number(results.number(name, "reward"), 2), number(results.number(name, "kl"), 1)]
    cells.append(number(results.number(name, "diversity", "pixels")))
    return [*cells, *(number(results.number(name, "noise", key)) for key in ("noise_std", "kurtosis", "neighbours"))]


def training_table(results: Results) -> str:
    """What training a seed's LoRA and a seed's head took."""
    rows = []
    for title, prefix in (("LoRA", "hypernoise"), ("head", "head")):
        found = [row for seed in SEEDS if "pictures" in (row := results.found.get(f"{prefix}-{seed}", {}))]
        if found:
            means = [sum(row[key] for row in found) / len(found) for key in ("parameters", "pictures", "steps")]
            seconds = sum(row["timing"]["cpu_seconds"] for row in found) / len(found)
            rows.append([title, f"{means[0]:,.0f}", f"{means[1]:,.0f}", f"{means[2]:.0f}", f"{seconds:.0f}"])
    return table(["", "parameters", "pictures", "steps", "CPU seconds"], rows)


def between_table(results: Results) -> str:
    """Steps by what is added between them: detector, and the difference to the base with the same."""
    methods = {
        ("base", "fresh"): "base-{}",
        ("base", "keep"): "base-{}-keep",
        ("LoRA, shipped", "keep-moved"): SHIPPED + "-{}-keep-moved",
        ("head, shipped", "fresh"): SHIPPED_HEAD + "-{}-fresh",
        ("head, shipped", "keep-moved"): SHIPPED_HEAD + "-{}-keep-moved",
        ("head, shipped", "free"): SHIPPED_HEAD + "-{}-free",
    }
    rows = []
    for (title, way), pattern in methods.items():
        cells = [_scored(results, pattern.format(s), _base(s, way), title == "base") for s in SEVERAL_STEPS]
        rows.append([f"{title}, {WAYS[way]}", *cells])
    return table(["", *(f"{s} steps" for s in SEVERAL_STEPS)], rows)


def trained_table(results: Results) -> str:
    """LoRAs that were trained at several steps, by the steps that they are used at."""
    rows = []
    for trained, ways in TRAINED_STEPS.items():
        for way in ways:
            for used in ("fresh", "keep-moved") if trained == 1 else (way,):
                name = f"{trained_at(trained, way)}-at"
                cells = []
                for s in (1, *SEVERAL_STEPS):
                    record = f"{name}-{s}-{used}" if s > 1 else f"{name}-1-{'fresh' if trained == 1 else way}"
                    cells.append(_scored(results, record, _base(s, used), False))
                rows.append([f"{trained}, {WAYS[way] if trained > 1 else GAP}", WAYS[used], *cells])
    return table(["trained at", "used with", *(f"{s} steps" if s > 1 else "1 step" for s in (1, *SEVERAL_STEPS))], rows)


def _base(steps: int, way: str) -> str:
    """The base's record with the same added between steps."""
    return f"base-{steps}" if way == "fresh" or steps == 1 else f"base-{steps}-keep"


def _scored(results: Results, name: str, base: str, alone: bool) -> str:
    detector = results.number(name, "detector")
    if detector is None:
        return GAP
    difference = None if alone else results.difference(name, base)
    return f"{detector:.3f}" + (f" ({difference})" if difference else "")
