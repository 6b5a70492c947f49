"""What the project promised of itself, each with what was measured."""

from collections.abc import Callable
from dataclasses import dataclass

from hypernoise_core.embedded.prompts import CATEGORIES

from .measures import paired
from .results import Results


@dataclass(frozen=True)
class Bar:
    """`met` is None where rows are missing."""

    promise: str
    measured: str
    met: bool | None


def bars(results: Results) -> list[Bar]:
    """All of them, in order."""
    return [_bar(results, promise, check) for promise, check in CHECKS]


Check = Callable[[Results], tuple[str, bool]]


def _bar(results: Results, promise: str, check: Check) -> Bar:
    try:
        return Bar(promise, *check(results))
    except (KeyError, IndexError, TypeError, _Missing):  # a record or a time that is not there
        return Bar(promise, "not run", None)


class _Missing(Exception):
    pass


def _all_seeds(results: Results, steps: int, least: float, each: bool) -> tuple[str, bool]:
    base, seeds = results.named(f"base-{steps}"), results.seeds(steps)
    if not (base and seeds):
        raise _Missing
    mean, low, high = paired(seeds, base)
    own = [paired([seed], base) for seed in seeds]
    shown = ", ".join(f"{m:+.3f} [{lo:+.3f}, {hi:+.3f}]" for m, lo, hi in own)
    enough = low > 0 and (not each or all(lo > 0 for _, lo, _ in own)) and len(seeds) >= (3 if each else 1)
    return (
        f"{mean:+.3f} [{low:+.3f}, {high:+.3f}], n = {base[0]['n']}; by training seed {shown}",
        mean >= least and enough,
    )


def _one_step(results: Results) -> tuple[str, bool]:
    measured, met = _all_seeds(results, 1, 0.12, each=True)
    return measured, met and results.named("base-1")[0]["n"] >= 900


def _categories(results: Results) -> tuple[str, bool]:
    base = results.named("base-1")[0]
    change = {c: results.number("hypernoise-1", "categories", c) - base["categories"][c] for c in CATEGORIES}
    worst = min(change, key=change.get)
    return f"{worst} {change[worst]:+.3f}", change[worst] >= -0.03


def _kl(results: Results) -> tuple[str, bool]:
    kl = results.number("hypernoise-1", "kl")
    return f"{kl:.2f} nats (½‖Δ‖²)", kl <= 5


def share_of_reno(results: Results) -> float | None:
    """HyperNoise's gain over ReNO-50's, on ReNO's cases."""
    reno = results.named("base-reno-50")
    if not (reno and results.seeds() and results.named("base-1")):
        return None
    gain = results.gain("base-reno-50", "base-1")
    cut_to = [{"per": reno[0]["per"], "correct": "0" * len(reno[0]["correct"])}]  # so that all are cut to its cases
    hypernoise = paired(results.seeds(), cut_to)[0] - paired(results.named("base-1"), cut_to)[0]
    return hypernoise / gain if gain else None


def _share(least: float) -> Check:
    def check(results: Results) -> tuple[str, bool]:
        share = share_of_reno(results)
        return f"{share:.0%}", share >= least

    return check


def _compute(results: Results) -> tuple[str, bool]:
    share = results.ratio("hypernoise-1") / results.ratio("base-reno-50")
    return f"{share:.1%} of its time", share <= 0.05


def _best_of(results: Results) -> tuple[str, bool]:
    difference = results.difference("hypernoise-best-of-4", "base-best-of-8")
    time = results.ratio("hypernoise-best-of-4") / results.ratio("base-best-of-8")
    return f"{difference}, {time:.0%} of the time", difference.mean >= 0 and time < 1


def _finetuned(results: Results) -> tuple[str, bool]:
    difference = results.difference("finetune-1", "base-1")
    pixels, features = (
        results.number("finetune-1", "diversity", name) / results.number("base-1", "diversity", name)
        for name in ("pixels", "features")
    )
    measured = f"{difference}, diversity {pixels:.2f} of the base's in pixels, {features:.2f} in features"
    return measured, difference.mean <= -0.1 and pixels <= 0.4


CHECKS: list[tuple[str, Check]] = [
    ("HyperNoise at 1 step at least +0.12 over the base, n ≥ 900, three training seeds, intervals above 0", _one_step),
    (
        "HyperNoise at 2 steps at least +0.03, interval above 0",
        lambda results: _all_seeds(results, 2, 0.03, each=False),
    ),
    (
        "HyperNoise at 4 steps at least +0.03, interval above 0",
        lambda results: _all_seeds(results, 4, 0.03, each=False),
    ),
    ("no category below -0.03 (1 step, mean of seeds; the worst is shown)", _categories),
    ("at a KL of at most 5 nats", _kl),
    ("at least 30 % of ReNO-50's gain recovered", _share(0.3)),
    ("the goal: 50 % of it", _share(0.5)),
    ("at no more than 5 % of ReNO-50's compute", _compute),
    ("HyperNoise with best-of-4 no worse than the base's best-of-8, in less time", _best_of),
    ("over-optimised fine-tuning 0.10 or more below the base, with 0.4 of its diversity or less", _finetuned),
]
"""Promise and check."""
