"""The page's tables about critics: as a teacher, asked before a picture is drawn, and at several steps."""

from statistics import mean

from .plan import (
    CRITIC_CANDIDATES,
    CRITIC_REFINE,
    CRITIC_STEPS,
    GIVEN,
    SEED_READINGS,
    SEEDS,
    SEVERAL_STEPS,
    WHITE,
    critic,
    given,
    read,
)
from .results import Results
from .tables import GAP, count, number, table, times
from .world import SHIPPED_HEAD

TAUGHT = {
    "head by the gradient": ("head", SEED_READINGS),
    "head by the critic": ("critic", SEED_READINGS),
    "head by the critic, for one reading alone (one seed)": ("critic-one", (1,)),
    "head by the critic, on the detector's yes or no (one seed)": ("verdict", SEED_READINGS),
    "LoRA by the gradient": ("hypernoise", (1,)),
    "LoRA by the critic": ("lora-critic", (1,)),
}
"""Row of the table to (what names of records begin with, readings)."""
ONE_SEED = ("verdict", "critic-one")


def teachers_table(results: Results) -> str:
    """Hypernetworks by what taught them."""
    rows = []
    for title, (prefix, readings) in TAUGHT.items():
        for i in readings:
            rows.append([title, str(i), *_scores(results, read(prefix, i))])
    head = ["", "readings", "detector", "over the base", "by training seed", "reward", "KL", "diversity", "noise std"]
    return table(head, rows)


def _scores(results: Results, name: str) -> list[str]:
    difference, whole = results.difference(name, "base-1"), results.number("base-1", "diversity", "pixels")
    diversity = results.number(name, "diversity", "pixels")
    share = f" ({diversity / whole:.2f})" if diversity and whole else ""
    return [
        number(results.number(name, "detector")),
        str(difference) if difference else GAP,
        ", ".join(f"{record['detector']:.3f}" for record in results.named(name)) or GAP,
        number(results.number(name, "reward"), 2),
        number(results.number(name, "kl"), 1),
        number(diversity) + share,
        number(results.number(name, "noise", "noise_std")),
    ]


def costs_table(results: Results) -> str:
    """What a training took, by what taught it: means over the seeds."""
    rows = []
    for title, (prefix, _) in TAUGHT.items():
        names = [prefix] if prefix in ONE_SEED else [f"{prefix}-{seed}" for seed in SEEDS]
        if found := [results.found[name] for name in names if name in results.found]:
            pictures, steps = (mean(row[key] for row in found) for key in ("pictures", "steps"))
            seconds = mean(row["timing"]["cpu_seconds"] for row in found)
            rows.append([title, f"{pictures:,.0f}", f"{steps:.0f}", f"{seconds:.0f}"])
    return table(["", "images drawn", "steps", "CPU seconds"], rows)


def asked_table(results: Results) -> str:
    """A critic that chooses noises and refines them, beside the reward itself."""
    first = critic(0)
    named = {"base": "base-1"}
    named |= {f"best of {n} by the critic": f"{first}-of-{n}" for n in CRITIC_CANDIDATES}
    named |= {f"best of {n} by the reward": f"base-best-of-{n}" for n in (2, 4, 8, 50)}
    named |= {f"refined {n} times": f"{first}-refined-{n}" for n in CRITIC_REFINE}
    plain = [n for n in WHITE if n not in CRITIC_REFINE]
    named |= {f"refined {n} times": f"{first}-refined-{n}" for n in plain}
    named |= {f"refined {n} times along white noise": f"{first}-refined-white-{n}" for n in WHITE}
    named |= {
        "3 readings": read(first, 3),
        "best of 2 by the critic, 3 readings": f"{first}-of-2-1x3",
        "best of 4 by the critic, 3 readings": f"{first}-of-4-1x3",
        "3 readings, refined 3 times": f"{first}-1x3-refined-3",
    }
    return _asked(results, named)


def shipped_table(results: Results) -> str:
    """The critic of the shipped head."""
    return _asked(
        results,
        {
            "best of 4": f"{SHIPPED_HEAD}-of-4",
            "best of 16": f"{SHIPPED_HEAD}-of-16",
            **{f"refined {n} times": f"{SHIPPED_HEAD}-refined-{n}" for n in (3, 5, 10)},
            "best of 4, 1 reading": f"{SHIPPED_HEAD}-of-4-1",
            "1 reading, refined 3 times": f"{SHIPPED_HEAD}-1-refined-3",
            "3 readings, refined 3 times": f"{SHIPPED_HEAD}-1x3-refined-3",
        },
    )


def added_by_refining(results: Results) -> str:
    """What three steps of ascent add to three readings."""
    added = results.difference(f"{SHIPPED_HEAD}-1x3-refined-3", read(SHIPPED_HEAD, 3))
    return f"Three steps of ascent add {added or GAP} to three readings of the same noises."


def _asked(results: Results, named: dict[str, str]) -> str:
    """Title to record."""
    rows = []
    for title, name in named.items():
        difference = results.difference(name, "base-1") if name != "base-1" else None
        cells = [title, *(count(results.number(name, key)) for key in ("nfe", "backward", "scored"))]
        cells += [times(results.ratio(name)), number(results.number(name, "detector"))]
        cells += [str(difference) if difference else GAP, number(results.number(name, "reward"), 2)]
        rows.append([*cells, number(results.number(name, "diversity", "pixels"))])
    head = ["", "NFE", "backward passes", "scored images", "time", "detector", "over the base", "reward", "diversity"]
    return table(head, rows)


def given_table(results: Results) -> str:
    """Heads that a number of scores taught, and nothing else."""
    rows = [[f"{count:,}", str(i), *_scores(results, read(given(count), i))] for count in GIVEN for i in (1, 2)]
    head = ["scores", "readings", "detector", "over the base", "by training seed", "reward", "KL", "diversity"]
    return table([*head, "noise std"], rows)


def steps_table(results: Results) -> str:
    """A head that a critic taught from images of several steps."""
    ways = {"fresh": "fresh noise", "keep-moved": "noise kept", "free": "kept, reading free"}
    rows = [
        ["base, fresh noise", *(number(results.number(f"base-{s}", "detector")) for s in (1, *SEVERAL_STEPS))],
        ["base, noise kept", *(number(results.number(_base(s), "detector")) for s in (1, *SEVERAL_STEPS))],
    ]
    best = [results.number(f"base-{s}-keep-best-of-4", "detector") for s in (4, 8)]
    rows.append(["Best-of-4, noise kept", GAP, GAP, *(number(own) for own in best)])
    for way, title in ways.items():
        cells = []
        for s in (1, *SEVERAL_STEPS):
            name = f"critic-steps-{s}-{'keep-moved' if s == 1 else way}"
            base = f"base-{s}" if way == "fresh" or s == 1 else _base(s)
            difference = results.difference(name, base)
            shown = number(results.number(name, "detector"))
            cells.append(f"{shown} ({difference})" if difference else shown)
        rows.append([f"head, one reading, {title}", *cells])
    return table([f"trained at {CRITIC_STEPS} steps", "1 step", *(f"{s} steps" for s in SEVERAL_STEPS)], rows)


def _base(steps: int) -> str:
    return f"base-{steps}-keep" if steps > 1 else "base-1"
