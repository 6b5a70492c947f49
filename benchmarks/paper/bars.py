"""The project's targets, each with what was measured."""

from collections.abc import Callable
from dataclasses import dataclass

from hypernoise_core.embedded.prompts import CATEGORIES

from .measures import paired
from .plan import RENO, SEED_READINGS, SEVERAL_STEPS, read
from .results import Results
from .world import SHIPPED_HEAD

TWICE = "hypernoise-1x2"
"""The record of one step from noise that was moved twice."""


@dataclass(frozen=True)
class Bar:
    """`met` is None if rows are missing."""

    promise: str
    measured: str
    met: bool | None


def bars(results: Results) -> list[Bar]:
    """All targets, in order."""
    return [_bar(results, promise, check) for promise, check in CHECKS]


Check = Callable[[Results], tuple[str, bool]]


def _bar(results: Results, promise: str, check: Check) -> Bar:
    try:
        return Bar(promise, *check(results))
    except (KeyError, IndexError, TypeError, AttributeError, _Missing):  # a record or a time that is not there
        return Bar(promise, "not run", None)


class _Missing(Exception):
    pass


def _all_seeds(results: Results, steps: int, least: float, each: bool) -> tuple[str, bool]:
    base, seeds = results.named(f"base-{steps}"), results.named(f"hypernoise-{steps}")
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
    kl, twice = (results.number(name, "kl") for name in ("hypernoise-1", TWICE))
    return f"{kl:.2f} nats (½‖Δ‖²), {twice:.2f} with two iterations", max(kl, twice) <= 5


def best_reno(results: Results) -> str | None:
    """The record of the number of iterations at which ReNO gains most. More iterations raise only the reward."""
    gains = {name: results.gain(name, "base-1") for name in RENO}
    return None if None in gains.values() else max(gains, key=gains.get)


def share_of_gain(results: Results, name: str, search: str | None) -> float | None:
    """A record's gain divided by a search's, on the search's cases."""
    records = [results.named(own) for own in (name, search or "", "base-1")]
    gain = results.gain(search or "", "base-1")
    if not (all(records) and gain):
        return None
    its = records[1][0]
    cut_to = [{"per": its["per"], "correct": "0" * len(its["correct"])}]  # cuts all records to the search's cases
    return (paired(records[0], cut_to)[0] - paired(records[2], cut_to)[0]) / gain


def _share(name: str, least: float) -> Check:
    def check(results: Results) -> tuple[str, bool]:
        best = best_reno(results)
        share, of_50 = (share_of_gain(results, name, search) for search in (best, "base-reno-50"))
        return f"{share:.0%} of {reno_title(best)}'s, {of_50:.0%} of ReNO-50's", share >= least

    return check


def reno_title(name: str) -> str:
    return f"ReNO-{RENO[name]}"


def _compute(results: Results) -> tuple[str, bool]:
    times = [results.ratio(name) / results.ratio("base-reno-50") for name in ("hypernoise-1", TWICE)]
    return f"{times[0]:.1%} of its time, {times[1]:.1%} with two iterations", max(times) <= 0.05


def _best_of(results: Results) -> tuple[str, bool]:
    difference = results.difference("hypernoise-best-of-4", "base-best-of-8")
    time = results.ratio("hypernoise-best-of-4") / results.ratio("base-best-of-8")
    return f"{difference}, {time:.0%} of the time", difference.mean >= 0 and time < 1


def _finetuned(results: Results) -> tuple[str, bool]:
    difference = results.difference("finetune-1", "base-1")
    own, whole = (results.named(name)[0]["diversity"] for name in ("finetune-1", "base-1"))
    shares = {name: own[name] / whole[name] for name in whole}
    told = ", ".join(f"{share:.2f} in {name}" for name, share in shares.items())
    # The paper measures diversity in an encoder's features. Glaring images differ only in pixels.
    return f"{difference}, diversity relative to the base: {told}", difference.mean <= -0.1 and shares[
        "features"
    ] <= 0.4


def _head(readings: int, least: float) -> Check:
    """The detector itself, the mean of training seeds, with the base's difference and every seed's."""

    def check(results: Results) -> tuple[str, bool]:
        name = read("head", readings)
        seeds, base = results.named(name), results.named("base-1")
        if len(seeds) < 3 or not base:
            raise _Missing
        own = ", ".join(f"{seed['detector']:.3f}" for seed in seeds)
        shipped = results.number(read(SHIPPED_HEAD, readings), "detector")
        detector = results.number(name, "detector")
        told = f"{detector:.3f}, {results.difference(name, 'base-1')}; by training seed {own}; shipped {shipped:.3f}"
        return told, detector >= least

    return check


def _head_against_lora(results: Results) -> tuple[str, bool]:
    difference = results.difference("head-1", "hypernoise-1")
    shipped = results.difference(f"{SHIPPED_HEAD}-1", "shipped")
    return f"{difference}; shipped head over shipped LoRA {shipped}", difference.mean >= 0


def _head_goal(results: Results) -> tuple[str, bool]:
    difference = results.difference(f"{SHIPPED_HEAD}-1", "base-1")
    return f"{difference}", difference.mean >= 0.19


def _head_five_goal(results: Results) -> tuple[str, bool]:
    detector = results.number(read(SHIPPED_HEAD, 5), "detector")
    return f"{detector:.3f}", detector >= 0.83


def _head_time(results: Results) -> tuple[str, bool]:
    share = results.ratio(read("head", 3)) / results.ratio("base-best-of-8")
    return f"{share:.0%} of the time", share < 0.5


def _head_noise(results: Results) -> tuple[str, bool]:
    whole = results.number("base-1", "diversity", "pixels")
    names = [read(name, i) for name in ("head", SHIPPED_HEAD) for i in SEED_READINGS]
    shares = [results.number(name, "diversity", "pixels") / whole for name in names]
    stds = [results.number(name, "noise", "noise_std") for name in names]
    told = f"diversity {min(shares):.2f} to {max(shares):.2f} of the base's, std {min(stds):.3f} to {max(stds):.3f}"
    return told, min(shares) >= 0.85 and all(abs(std - 1) <= 0.02 for std in stds)


def _head_steps(results: Results) -> tuple[str, bool]:
    found = {
        f"{s} steps{', reading free' * (way == 'free')}": results.difference(
            f"{SHIPPED_HEAD}-{s}-{way}", f"base-{s}-keep"
        )
        for way in ("keep-moved", "free")
        for s in SEVERAL_STEPS
    }
    told = "; ".join(f"{title} {difference}" for title, difference in found.items())
    return told, all(difference.low > 0 for difference in found.values())


def _critic(readings: int, goal: float, trained: str = "critic", seeds: int = 3) -> Check:
    def check(results: Results) -> tuple[str, bool]:
        name = read(trained, readings)
        detector, own = results.number(name, "detector"), [r["detector"] for r in results.named(name)]
        if len(own) < seeds:
            raise _Missing
        share = results.number(name, "diversity", "pixels") / results.number("base-1", "diversity", "pixels")
        each = ", ".join(f"{score:.3f}" for score in own)
        return f"{detector:.3f}; by training seed {each}; diversity {share:.2f} of the base's", (
            detector >= goal and share >= 0.95
        )

    return check


def _critic_steps(results: Results) -> tuple[str, bool]:
    found = {s: results.difference(f"critic-steps-{s}-keep-moved", f"base-{s}-keep") for s in (4, 8)}
    told = "; ".join(f"{s} steps {difference}" for s, difference in found.items())
    return told, all(difference.mean >= 0.08 for difference in found.values())


CHECKS: list[tuple[str, Check]] = [
    ("HyperNoise at 1 step: at least +0.12 over the base, n ≥ 900, three training seeds, intervals above 0", _one_step),
    (
        "HyperNoise at 2 steps: at least +0.03, interval above 0",
        lambda results: _all_seeds(results, 2, 0.03, each=False),
    ),
    (
        "HyperNoise at 4 steps: at least +0.03, interval above 0",
        lambda results: _all_seeds(results, 4, 0.03, each=False),
    ),
    ("no category below -0.03 (1 step, mean of seeds; the worst is shown)", _categories),
    ("a KL of at most 5 nats", _kl),
    ("at least 30 % of ReNO's gain at its best number of iterations", _share("hypernoise-1", 0.3)),
    ("the same with f applied twice: at least 50 %", _share(TWICE, 0.5)),
    ("at most 5 % of ReNO-50's compute", _compute),
    ("HyperNoise + best-of-4: no worse than the base's best-of-8, in less time", _best_of),
    (
        "over-optimised fine-tuning: at least 0.10 below the base, with at most 0.4 of its diversity (features)",
        _finetuned,
    ),
    ("a head at one reading: at least the LoRA", _head_against_lora),
    ("the shipped head at one reading: at least +0.19 over the base", _head_goal),
    ("a head at three readings: at least 0.73", _head(3, 0.73)),
    ("the same in less than half of Best-of-8's time", _head_time),
    ("a head at five readings: at least 0.76", _head(5, 0.76)),
    ("the shipped head at five readings: 0.83 is the goal", _head_five_goal),
    ("heads at 1, 3 and 5 readings: diversity within 15 % of the base's, noise std 1 ± 0.02", _head_noise),
    ("a head by the critic at one reading: 0.70 is the goal, diversity within 5 % of the base's", _critic(1, 0.70)),
    ("the same, trained for one reading alone (one seed)", _critic(1, 0.70, "critic-one", seeds=1)),
    ("the same at three readings: 0.76 is the goal", _critic(3, 0.76)),
    ("the same at five readings: 0.80 is the goal", _critic(5, 0.80)),
    ("a critic taught at four steps, noise kept: +0.08 over the base at four and eight is the goal", _critic_steps),
    ("the shipped head with the noise kept: above the base, interval above 0", _head_steps),
]
"""Target and check."""
