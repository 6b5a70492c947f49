"""Results of every row of the benchmark's plan without running any: numbers drawn at random, of the right shape."""

import json

import numpy as np

from benchmarks.paper.measures import bits
from benchmarks.paper.plan import plan
from benchmarks.paper.results import Places, keys
from hypernoise_core.embedded.prompts import CATEGORIES

SKILL = {"base": 0.5, "hypernoise": 0.65, "finetune-matched": 0.55, "finetune": 0.3}
"""Share of pictures that are right, by the start of a record's name."""


def invent(folder, scale=1.0, left_out=()):
    """Write a file for each row but some; returns the rows and where they are."""
    rows, places = plan(scale), Places(folder)
    known = keys(rows)
    folder.mkdir(parents=True, exist_ok=True)
    for row in rows:
        if row.name not in left_out:
            content = {"name": row.name, "key": known[row.name], "kind": row.kind, "settings": row.settings}
            timing = {"seconds": 1.0, "cpu_seconds": 1.0}
            found = INVENTED[row.kind](row)
            places.file(row.name).write_text(json.dumps(content | {"timing": timing | found.pop("timing", {})} | found))
    return rows, places


def record(name, settings, nfe=1.0):
    rng = np.random.default_rng(sum(map(ord, name)))
    per = settings["per"]
    count = settings["n"] // 10 * per
    skill = next((value for key, value in SKILL.items() if name.startswith(key)), 0.55)
    skill += 0.2 * ("best-of" in name) + 0.3 * ("reno" in name) + 0.1 * ("1x" in name)
    correct = (rng.random(count) < skill).astype(float)
    scores = dict(zip(CATEGORIES, correct.reshape(len(CATEGORIES), -1).mean(1).tolist(), strict=True))
    mean = float(np.mean(list(scores.values())))
    spread = 0.1 if name.startswith("finetune-1") else 0.5
    noise = ("noise_mean", "noise_std", "noise_norm", "kurtosis", "channel_mean", "cell_mean", "neighbours")
    return {
        **{"n": count, "per": per, "correct": bits(correct), "strict": bits(correct), "detector": mean},
        **{"detector_strict": mean - 0.05, "categories": scores, "reward": mean, "redness": 0.1 * mean, "kl": 2.0},
        "pixel_step": mean,
        "diversity": dict.fromkeys(("pixels", "features", "layout"), spread),
        "noise": dict.fromkeys(noise, 1.0),
        **{"nfe": nfe, "backward": 10.0 if "reno" in name else 0.0, "scored": 0.0},
    }


def _measured(row):
    return {"records": {name: record(name, row.settings) for name in row.settings["specs"]}}


def _trained(row):
    steps = 30
    curve = [{"step": i + 1, "reward": i / steps, "kl": 2 * i / steps, "alignment": 0.1} for i in range(steps)]
    diagnostics = [{"step": 10 * i, "lipschitz": 1.0 + i} for i in (1, 2, 3)]
    return {
        **{"curve": curve, "diagnostics": diagnostics, "parameters": 10**6, "temperature": 0.05},
        **{"pictures": 1000, "steps": steps},
        "snapshots": [1, 10, 20, 30] if row.settings.get("snapshots") else [],
    }


def _along(row):
    finetuned = [f"step {step}" for step in (1, 10, 20, 30)]
    strengths = row.settings["strengths"]
    names = ["base", *finetuned, *(f"strength {s:g}" for s in strengths)]
    curve = {name: record(name, row.settings) | {"redness": 0.01 * i} for i, name in enumerate(names)}
    return {"curve": curve, "finetuned": finetuned, "strengths": strengths}


def _kl(row):
    terms = ("l2", "error", "exact", "second_order", "hutchinson", "lipschitz", "power")
    points = [{"step": s, "folds": 1, "noises": 3} | {t: 0.1 * s + i for i, t in enumerate(terms)} for s in (1, 10, 20)]
    return {"points": points}


def _calibrated(row):
    count = row.settings["n"] // 10 * row.settings["per"]
    rng = np.random.default_rng(0)
    pairs = {str(readings): {"expected": [], "scored": []} for readings in row.settings["readings"]}
    for own in pairs.values():
        own["scored"] = rng.normal(size=count).tolist()
        own["expected"] = [score + noise for score, noise in zip(own["scored"], rng.normal(size=count), strict=True)]
    return {"pairs": pairs, "per": row.settings["per"]}


def _transferred(row):
    name = row.settings["generator"]
    return {"records": {f"{name}, {part}": record(f"{name}, {part}", row.settings) for part in ("alone", "adapter")}}


def _timed(row):
    timed = {}
    for name, spec in row.settings["specs"].items():
        calls = spec.get("steps", 1) * spec.get("best_of", 1) + 3 * spec.get("reno", 0)
        calls += spec.get("iterations", "adapter" in spec)
        timed[name] = {"seconds_per_image": 0.004 * calls, "ratio": float(calls)}
    return {"timing": {"pictures": 12, "rows": timed}}


INVENTED = {
    "measured": _measured,
    "searched": lambda row: {"records": {name: record(name, row.settings) for name in row.settings["at"]}},
    "trained": _trained,
    "stopped": lambda row: {"step": 3, "reached": True},
    "along": _along,
    "kl_over_training": _kl,
    "calibrated": _calibrated,
    "generator_changed": lambda row: {"relative_change": 0.01},
    "transferred": _transferred,
    "on_another_reward": _measured,
    "timed": _timed,
}
