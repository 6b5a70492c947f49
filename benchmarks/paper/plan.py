"""The rows of the benchmark, how many images each makes, and what they wait for.

All budgets are here. `seconds` of a row is its time on one core of an idle machine at scale 1, with the weights of the
day. It is used to start long rows first and to predict the total time.
"""

from dataclasses import dataclass

from hypernoise_core.embedded.benchmark import PER_PROMPT
from hypernoise_core.embedded.prompts import CATEGORIES

from .techniques import BY_RULES, Spec, spec_settings
from .world import SHIPPED, SHIPPED_HEAD

N = 900
"""Images per row, except for the costly rows."""
SEEDS = (0, 1, 2)
"""Training seeds."""
STEPS = (1, 2, 4, 8, 16, 32)
FEW_STEPS = (1, 2, 4)
"""Numbers of steps at which every training seed and the fine-tuned generators are measured."""
ITERATIONS = (2, 3)
"""Numbers of iterations of the rows that apply the hypernetwork more than once."""
ITERATED_STRENGTH = 0.75
"""Strength of each iteration. On training prompts it scores as much as strength 1, for two thirds of the KL."""
MANY_STEPS = 16
"""From here on a row is costly."""
HEAD_READINGS = (1, 2, 3, 5, 8)
"""Readings that the shipped head is measured at."""
SEED_READINGS = (1, 3, 5)
"""Those of every training seed's head: what nodes and commands offer."""
SEVERAL_STEPS = (2, 4, 8)
"""What is added between steps is compared at these."""
CRITIC_CANDIDATES = (2, 4, 8, 16, 50)
"""Noises that a critic chooses from, without a move."""
CRITIC_REFINE = (1, 3, 5, 10)
"""Steps of ascent on a critic, from plain noise."""
WHITE = (5, 10, 25, 50)
"""Iterations of ReNO and of ascent on a critic where every gradient is brought onto white noise, and of ReNO that ends
where its noise is none any more."""
TRIES = (2, 4, 8, 50)
"""Pictures that a search without gradients draws, as Best-of-N does."""
CRITIC_STEPS = 4
"""Sampling steps that a critic's scores are of, in the row that trains for several."""
ONE_READING_STEPS = 400
"""Steps of 32 images of the heads that a critic trains for one reading alone."""
GIVEN, GIVEN_STEPS = (100, 300, 1000, 3000), 120
"""Scores that exist already, for heads that are taught by nothing else, and the steps that these take."""
HEAD_BEFORE_SEARCH = 3
"""Readings before Best-of-N and ReNO go on from a head's noise."""
TRAINED_STEPS = {1: ("fresh",), 2: ("fresh", "keep-moved"), 4: ("fresh", "keep-moved")}
"""Steps that adapters are trained at to what is added between them: which training suits which sampling."""
PER_TRAINED_STEPS = 5
ABLATION_SHARE = 0.5
"""Of the recipe's steps and warm start, in every run of an ablation: they compare with one another."""
RANKS = (8, 16, 32, 64)
MAIN_RANK = 32
TEMPERATURES = (4.0, 2.0, 1.0, 0.5, 0.25)
"""Factors on the recipe's temperature."""
STRENGTHS = (0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 5.0)
PER_RENO, PER_BEST_OF_50, PER_MANY_STEPS = 3, 3, 4
"""Images of each prompt in the costly rows, of 10."""
FINETUNE = ("--train_type=finetune", "--reward_grad_clip=null", "--ema_decay=null")
OVER_OPTIMISED, GENTLE = "--lr=1e-3", "--lr=1e-4"
"""Fine-tuning at the first collapses before its reward has risen far, so that stopping it early shows nothing: what is
stopped at HyperNoise's reward is trained at the second."""
GENTLE_SHARE = 1.0
SMALL_SCALE, SMALL_BATCH, SMALL_WIDTH = 0.02, 2, 16
REDNESS_IN_ENSEMBLE = 25.0
HARD_QUANTILE = 0.8
"""Share of the base's pictures that the hard reward leaves near 0."""


@dataclass(frozen=True)
class Row:
    """One JSON file. `kind` is a function of `rows.KINDS`."""

    name: str
    kind: str
    settings: dict
    needs: tuple[str, ...] = ()
    seconds: float = 0.0
    alone: bool = False
    """Whether no other row may run at the same time."""

    @property
    def leaves_weights(self) -> bool:
        """In the work folder, for the rows that need it."""
        return self.kind in ("trained", "stopped", "generator_changed")


@dataclass(frozen=True)
class Sizes:
    """Number of images at a scale."""

    scale: float

    @property
    def n(self) -> int:
        share = len(CATEGORIES) * PER_PROMPT
        return max(share, share * round(N * self.scale / share))

    def per(self, wanted: int = PER_PROMPT) -> int:
        """Pictures of each prompt: fewer only where the scale leaves less than one prompt a category."""
        smallest = len(CATEGORIES) * PER_PROMPT
        return wanted if N * self.scale >= smallest else max(2, round(wanted * self.scale * N / smallest))

    def cases(self, wanted: int = PER_PROMPT) -> dict:
        return {"n": self.n, "per": self.per(wanted)}

    def few(self, count: int) -> int:
        """`count` from a quarter of the full scale on, fewer below."""
        return max(1, round(count * min(1.0, 4 * self.scale)))


def plan(scale: float = 1.0, seed: int = 0, rewriter: str = BY_RULES) -> list[Row]:
    """Every row, ordered so that each comes after the rows that it needs."""
    sizes = Sizes(scale)
    rows = [
        *training_rows(scale, seed),
        *technique_rows(sizes),
        *head_rows(sizes, scale, seed),
        *critic_rows(sizes, scale, seed),
        *between_steps_rows(sizes, scale, seed),
        *search_rows(sizes, rewriter),
        *ablation_rows(sizes, scale, seed),
        *further_rows(sizes, scale, seed),
    ]
    return [*rows, timing_row(sizes, rewriter), critic_timing_row(sizes), white_timing_row(sizes)]


def hypernoise(seed: int) -> str:
    return f"hypernoise-{seed}"


def by_recipe(scale: float, seed: int, recipe: str = "embedded", share: float = 1.0, **settings) -> dict:
    """A training row's settings. Far below the full scale batches and critics are small too: what a run costs at least
    is its warm start's line search."""
    small = {"batch_size": SMALL_BATCH, "critic_width": SMALL_WIDTH} if scale < SMALL_SCALE else {}
    return {"recipe": recipe, "seed": seed, "share": scale * share, **small, **settings}


def training_rows(scale: float, seed: int) -> list[Row]:
    rows = []
    for own in SEEDS:
        watched = {"snapshots": 3, "diagnostics_every": 10} if own == SEEDS[0] else {}
        rows.append(Row(hypernoise(own), "trained", by_recipe(scale, seed + own, **watched), seconds=70))
    finetune = by_recipe(scale, seed, arguments=[*FINETUNE, OVER_OPTIMISED])
    gentle = by_recipe(scale, seed, share=GENTLE_SHARE, arguments=[*FINETUNE, GENTLE], snapshots=24)
    rows.append(Row("finetune", "trained", finetune, seconds=70))
    rows.append(Row("finetune-gentle", "trained", gentle, seconds=60))
    matched = {"of": "finetune-gentle", "reference": hypernoise(0), "probe": max(30, round(240 * min(scale, 1)))}
    rows.append(Row("finetune-matched", "stopped", matched, needs=("finetune-gentle", hypernoise(0)), seconds=20))
    return rows


def measuring(name: str, sizes: Sizes, specs: dict[str, Spec], seconds: float, needs: tuple[str, ...] = ()) -> Row:
    per = PER_MANY_STEPS if any(spec.steps >= MANY_STEPS for spec in specs.values()) else PER_PROMPT
    specs = {key: spec_settings(spec) for key, spec in specs.items()}
    return Row(name, "measured", {"specs": specs, **sizes.cases(per)}, needs, seconds * per / PER_PROMPT)


def iterated(adapter: str, iterations: int, steps: int = 1) -> Spec:
    return Spec(adapter=adapter, iterations=iterations, strength=ITERATED_STRENGTH, steps=steps)


def technique_rows(sizes: Sizes) -> list[Row]:
    """One picture a case: nothing is searched."""
    rows = [measuring(f"base-{s}-steps", sizes, {f"base-{s}": Spec(steps=s)}, 6 + 3.5 * s) for s in STEPS]
    rows.append(measuring(SHIPPED, sizes, {SHIPPED: Spec(adapter=SHIPPED)}, 10))
    for own in SEEDS:
        for s in STEPS if own == SEEDS[0] else FEW_STEPS:
            spec, name = Spec(adapter=hypernoise(own), steps=s), f"hypernoise-{own}-{s}"
            rows.append(measuring(f"{name}-steps", sizes, {name: spec}, 10 + 3.5 * s, (hypernoise(own),)))
        again = {(1, i) for i in ITERATIONS} | ({(s, ITERATIONS[0]) for s in FEW_STEPS} if own == SEEDS[0] else set())
        name = hypernoise(own)
        specs = {f"{name}-{s}x{i}": iterated(name, i, s) for s, i in sorted(again)}
        rows.append(measuring(f"{name}-iterated", sizes, specs, 18 * len(specs), (name,)))
    for name in ("finetune", "finetune-matched"):
        specs = {f"{name}-{s}": Spec(adapter=name, steps=s) for s in FEW_STEPS}
        rows.append(measuring(f"{name}-steps", sizes, specs, 40, (name,)))
    return rows


def head(seed: int) -> str:
    return f"head-{seed}"


def read(name: str, readings: int) -> str:
    """The record of one step from noise that was read so often."""
    return f"{name}-1" if readings == 1 else f"{name}-1x{readings}"


def read_again(name: str, adapter: str, readings: tuple[int, ...]) -> dict[str, Spec]:
    """Record name to technique: one step from noise that was read so often."""
    return {read(name, i): Spec(adapter=adapter, iterations=i) for i in readings}


def head_rows(sizes: Sizes, scale: float, seed: int) -> list[Row]:
    """The head: three training seeds, the shipped one, and searches from where it leads."""
    rows = []
    for own in SEEDS:
        settings = by_recipe(scale, seed + own, "embedded-head")
        rows.append(Row(head(own), "trained", settings, seconds=435))
        specs = read_again(head(own), head(own), SEED_READINGS)
        rows.append(measuring(f"{head(own)}-readings", sizes, specs, 70, (head(own),)))
    rows.append(
        measuring(f"{SHIPPED_HEAD}-readings", sizes, read_again(SHIPPED_HEAD, SHIPPED_HEAD, HEAD_READINGS), 140)
    )
    start = {"adapter": SHIPPED_HEAD, "iterations": HEAD_BEFORE_SEARCH}
    for name, at, spec in (
        ("head-best-of", HEAD_BEST_OF, Spec(best_of=max(HEAD_BEST_OF.values()), **start)),
        ("head-reno", HEAD_RENO, Spec(reno=max(HEAD_RENO.values()), **start)),
    ):
        rows.append(Row(name, "searched", {"spec": spec_settings(spec), "at": at, **sizes.cases(PER_RENO)}, (), 60))
    return rows


def critic(seed: int) -> str:
    return f"critic-{seed}"


def given(count: int) -> str:
    """The name of a head that was taught by so many scores that existed already."""
    return f"given-{count}"


def critic_rows(sizes: Sizes, scale: float, seed: int) -> list[Row]:
    """Heads and LoRAs that a critic taught, what it says of noises, and what it learns of a reward without a gradient
    and of pictures of several steps."""
    rows = []

    def add(name: str, recipe: str, own: int, seconds: float, *arguments: str, readings=SEED_READINGS) -> None:
        settings = by_recipe(scale, seed + own, recipe, **({"arguments": list(arguments)} if arguments else {}))
        rows.append(Row(name, "trained", settings, seconds=seconds))
        rows.append(measuring(f"{name}-readings", sizes, read_again(name, name, readings), 70, (name,)))

    for own in SEEDS:
        add(critic(own), "embedded-critic", own, 600)
    one = ("--iterations=1", "--batch_size=32", f"--max_steps={ONE_READING_STEPS}")
    add("critic-one", "embedded-critic", 0, 600, *one, readings=(1,))
    for own in SEEDS:
        add(f"lora-critic-{own}", "embedded", own, 150, "--teacher=critic", readings=(1,))
    add("verdict", "embedded-verdict", 0, 600)
    for count in GIVEN:
        arguments = ["--score_share=0", "--iterations=1", "--batch_size=32", f"--max_steps={GIVEN_STEPS}"]
        settings = by_recipe(scale, seed, "embedded-verdict", arguments=arguments)
        rows.append(Row(given(count), "trained", settings | {"verdicts": max(2, round(scale * count))}, (), 100))
    specs = {k: v for count in GIVEN for k, v in read_again(given(count), given(count), (1, 2)).items()}
    rows.append(measuring("given-measured", sizes, specs, 110, tuple(map(given, GIVEN))))
    first, needs = critic(0), (critic(0),)
    rows.append(measuring(f"{first}-candidates", sizes, candidate_specs(first, sizes), 200, needs))
    rows.append(measuring(f"{first}-refined", sizes, refine_specs(first, sizes), 120, needs))
    white = {k: spec_settings(v) for k, v in refine_white_specs(first, sizes).items()}
    rows.append(Row(f"{first}-refined-white", "measured", {"specs": white, **sizes.cases(PER_RENO)}, needs, 150))
    specs = {
        f"{first}-of-2-1x3": Spec(adapter=first, iterations=3, candidates=2),
        f"{first}-of-4-1x3": Spec(adapter=first, iterations=3, candidates=4),
        f"{first}-1x3-refined-3": Spec(adapter=first, iterations=3, refine=3),
    }
    rows.append(measuring(f"{first}-both", sizes, specs, 90, needs))
    specs = {k: spec_settings(v) for k, v in shipped_critic_specs(sizes).items()}
    rows.append(Row("shipped-critic", "measured", {"specs": specs, **sizes.cases(PER_RENO)}, (), 120))
    settings = {"of": first, "readings": [0, 3], **sizes.cases(PER_TRAINED_STEPS)}
    rows.append(Row(f"{first}-calibrated", "calibrated", settings, needs, 60))
    several = [f"--steps={CRITIC_STEPS}", "--between_steps=keep-moved", "--iterations=3"]
    rows.append(Row("critic-steps", "trained", by_recipe(scale, seed, "embedded-critic", arguments=several), (), 700))
    specs = {
        f"critic-steps-{s}-{way}": Spec(adapter="critic-steps", steps=s, **BETWEEN[way])
        for s in (1, *SEVERAL_STEPS)
        for way in (BETWEEN if s > 1 else ("keep-moved",))
    }
    rows.append(measuring("critic-steps-measured", sizes, specs, 250, ("critic-steps",)))
    specs = {f"base-{s}-keep-best-of-4": s for s in (4, 8)}
    for name, s in specs.items():
        spec = spec_settings(Spec(best_of=4, steps=s, between_steps="keep"))
        rows.append(Row(name, "searched", {"spec": spec, "at": {name: 4}, **sizes.cases(PER_RENO)}, (), 60))
    return rows


def candidate_specs(name: str, sizes: Sizes) -> dict[str, Spec]:
    """The best of some noises by the critic of `name`, which does not move them."""
    counts = {n: max(2, sizes.few(n)) for n in CRITIC_CANDIDATES}
    return {f"{name}-of-{n}": Spec(adapter=name, iterations=0, candidates=count) for n, count in counts.items()}


def shipped_critic_specs(sizes: Sizes) -> dict[str, Spec]:
    """The critic that was trained beside the shipped head once that was finished: alone, and after readings."""
    alone, after = dict(adapter=SHIPPED_HEAD, iterations=0), dict(adapter=SHIPPED_HEAD)
    return {
        **{f"{SHIPPED_HEAD}-of-{n}": Spec(candidates=max(2, sizes.few(n)), **alone) for n in (4, 16)},
        **{f"{SHIPPED_HEAD}-refined-{n}": Spec(refine=sizes.few(n), **alone) for n in (3, 5, 10)},
        f"{SHIPPED_HEAD}-of-4-1": Spec(candidates=max(2, sizes.few(4)), **after),
        f"{SHIPPED_HEAD}-1-refined-3": Spec(refine=sizes.few(3), **after),
        f"{SHIPPED_HEAD}-1x3-refined-3": Spec(refine=sizes.few(3), adapter=SHIPPED_HEAD, iterations=3),
    }


def refine_specs(name: str, sizes: Sizes) -> dict[str, Spec]:
    """Noise as it is drawn, refined by the critic of `name`."""
    return {f"{name}-refined-{n}": Spec(adapter=name, iterations=0, refine=sizes.few(n)) for n in CRITIC_REFINE}


def refine_white_specs(name: str, sizes: Sizes) -> dict[str, Spec]:
    """As `refine_specs`, along white noise; and the plain ascent as far as that goes."""
    plain = [n for n in WHITE if n not in CRITIC_REFINE]
    specs = {f"{name}-refined-{n}": Spec(adapter=name, iterations=0, refine=sizes.few(n)) for n in plain}
    for n in WHITE:
        spec = Spec(adapter=name, iterations=0, refine=sizes.few(n), refine_white=True)
        specs[f"{name}-refined-white-{n}"] = spec
    return specs


BETWEEN = {
    "fresh": {},
    "keep-moved": {"between_steps": "keep-moved"},
    "free": {"free_reading": True},
}
"""What is added between steps to what it sets in a `Spec`."""


def between_steps_rows(sizes: Sizes, scale: float, seed: int) -> list[Row]:
    """What is added between steps, for the base and for what is shipped; and adapters that were trained at several
    steps in either way."""
    rows = []
    for s in SEVERAL_STEPS:
        specs = {
            f"base-{s}-keep": Spec(steps=s, between_steps="keep"),
            f"{SHIPPED}-{s}-keep-moved": Spec(adapter=SHIPPED, steps=s, between_steps="keep-moved"),
            f"{SHIPPED_HEAD}-{s}-fresh": Spec(adapter=SHIPPED_HEAD, steps=s),
            f"{SHIPPED_HEAD}-{s}-keep-moved": Spec(adapter=SHIPPED_HEAD, steps=s, between_steps="keep-moved"),
            f"{SHIPPED_HEAD}-{s}-free": Spec(adapter=SHIPPED_HEAD, steps=s, free_reading=True),
        }
        rows.append(measuring(f"between-{s}-steps", sizes, specs, 5 * (8 + 3.5 * s)))
    for trained, ways in TRAINED_STEPS.items():
        for way in ways:
            name, arguments = trained_at(trained, way), [f"--steps={trained}", f"--between_steps={way}"]
            rows.append(Row(name, "trained", ablation(scale, seed, *arguments), seconds=25 + 20 * trained))
            judged = ("fresh", "keep-moved") if trained == 1 else (way,)
            specs = {
                f"{name}-at-{s}-{own}": Spec(adapter=name, steps=s, between_steps=own)
                for s in (1, *SEVERAL_STEPS)
                for own in judged
                if s > 1 or own == judged[0]
            }
            settings = {"specs": {k: spec_settings(v) for k, v in specs.items()}, **sizes.cases(PER_TRAINED_STEPS)}
            rows.append(Row(f"{name}-measured", "measured", settings, (name,), 50))
    return rows


def trained_at(steps: int, way: str) -> str:
    """The name of an adapter that was trained at several steps."""
    return f"trained-at-{steps}-{way}"


HEAD_BEST_OF = {"head-best-of-2": 2, "head-best-of-4": 4}
HEAD_RENO = {"head-reno-5": 5}
BEST_OF = {"base-best-of-2": 2, "base-best-of-4": 4, "base-best-of-8": 8}
BEST_OF_50 = {"base-best-of-50": 50}
BEST_OF_MODULATED = {"hypernoise-best-of-2": 2, "hypernoise-best-of-4": 4, "hypernoise-best-of-8": 8}
RENO = {"base-reno-5": 5, "base-reno-10": 10, "base-reno-25": 25, "base-reno-50": 50}
RENO_LIMITED = {f"base-reno-limited-{n}": n for n in WHITE}
RENO_WHITE = {f"base-reno-white-{n}": n for n in WHITE}
ZERO_ORDER = {f"base-zero-order-{n}": n - 1 for n in TRIES}
RENO_MODULATED = {"hypernoise-reno-5": 5, "hypernoise-reno-10": 10}
REWRITTEN = ("base-rewritten", "hypernoise-rewritten")


def white_search_specs(sizes: Sizes) -> dict[str, Spec]:
    """ReNO along white noise, ReNO that ends by itself, and a search without gradients, as they are timed."""
    return {
        **{name: Spec(reno=sizes.few(n), limited=True) for name, n in RENO_LIMITED.items()},
        **{name: Spec(reno=sizes.few(n), search="reno-white") for name, n in RENO_WHITE.items()},
        **{name: Spec(reno=sizes.few(n), search="zero-order") for name, n in ZERO_ORDER.items()},
    }


def search_specs(rewriter: str) -> dict[str, Spec]:
    """Record name to technique of the other searches, as they are timed."""
    f = hypernoise(0)
    return {
        **{name: Spec(best_of=n) for name, n in (BEST_OF | BEST_OF_50).items()},
        **{name: Spec(best_of=n, adapter=f) for name, n in BEST_OF_MODULATED.items()},
        **{name: Spec(reno=n) for name, n in RENO.items()},
        **{name: Spec(reno=n, adapter=f) for name, n in RENO_MODULATED.items()},
        **{n: Spec(best_of=k, adapter=SHIPPED_HEAD, iterations=HEAD_BEFORE_SEARCH) for n, k in HEAD_BEST_OF.items()},
        **{n: Spec(reno=k, adapter=SHIPPED_HEAD, iterations=HEAD_BEFORE_SEARCH) for n, k in HEAD_RENO.items()},
        "base-rewritten": Spec(rewriter=rewriter),
    }


def search_rows(sizes: Sizes, rewriter: str) -> list[Row]:
    f, needs = hypernoise(0), (hypernoise(0),)

    def row(name: str, at: dict[str, int], spec: Spec, seconds: float, per: int = PER_PROMPT, needs=()) -> Row:
        settings = {"spec": spec_settings(spec), "at": at, **sizes.cases(per)}
        return Row(name, "searched", settings, needs, seconds)

    def few(at: dict[str, int]) -> dict[str, int]:
        return {name: sizes.few(count) for name, count in at.items()}

    return [
        row("base-best-of", BEST_OF, Spec(best_of=8), 60),
        row("base-best-of-50", BEST_OF_50, Spec(best_of=50), 115, PER_BEST_OF_50),
        row("hypernoise-best-of", BEST_OF_MODULATED, Spec(best_of=8, adapter=f), 115, needs=needs),
        row("base-reno", RENO, Spec(reno=50), 260, PER_RENO),
        row("base-reno-limited", few(RENO_LIMITED), Spec(reno=sizes.few(50), limited=True), 150, PER_RENO),
        row("base-reno-white", few(RENO_WHITE), Spec(reno=sizes.few(50), search="reno-white"), 265, PER_RENO),
        row("base-zero-order", few(ZERO_ORDER), Spec(reno=sizes.few(49), search="zero-order"), 115, PER_RENO),
        row("hypernoise-reno", RENO_MODULATED, Spec(reno=10, adapter=f), 60, PER_RENO, needs),
        measuring("base-rewritten", sizes, {"base-rewritten": Spec(rewriter=rewriter)}, 50),
    ]


def ablation(scale: float, seed: int, *arguments: str, **settings) -> dict:
    return {
        "recipe": "embedded",
        "arguments": list(arguments),
        "seed": seed,
        "share": scale * ABLATION_SHARE,
        **settings,
    }


def ablation_rows(sizes: Sizes, scale: float, seed: int) -> list[Row]:
    """LoRA rank and temperature; rank 32 at the recipe's temperature belongs to both."""
    rows = []
    for rank in RANKS:
        rows.append(Row(f"rank-{rank}", "trained", ablation(scale, seed, f"--lora_rank={rank}"), seconds=45))
    for factor in TEMPERATURES:
        if factor != 1:
            settings = ablation(scale, seed) | {"temperature_factor": factor}
            rows.append(Row(f"temperature-{factor:g}", "trained", settings, seconds=45))
    rows += [measuring(f"{r.name}-measured", sizes, {r.name: Spec(adapter=r.name)}, 12, (r.name,)) for r in tuple(rows)]
    return rows


def further_rows(sizes: Sizes, scale: float, seed: int) -> list[Row]:
    """Redness, the KL, changed generators, other rewards."""
    f = hypernoise(0)
    redness = by_recipe(scale, seed, "embedded-redness")
    hard = {"pixel_step": HARD_QUANTILE}
    hard_specs = {
        "hard-base": Spec(),
        "hard-hypernoise": Spec(adapter="hard"),
        "hard-best-of-8": Spec(best_of=8),
        "hard-reno-10": Spec(reno=10),
    }
    curve = {"finetuned": "redness-finetune", "hypernetwork": "redness-hypernoise", "strengths": list(STRENGTHS)}
    hard_settings = {"specs": {k: spec_settings(s) for k, s in hard_specs.items()}, **hard, **sizes.cases(PER_RENO)}
    weights = {"weights": {"embedded": 1.0, "redness": REDNESS_IN_ENSEMBLE}}
    return [
        Row("redness-hypernoise", "trained", redness, seconds=60),
        Row(
            "redness-finetune",
            "trained",
            {**by_recipe(scale, seed, "embedded-redness-finetune"), "snapshots": 12},
            seconds=50,
        ),
        Row(
            "redness",
            "along",
            {**curve, **sizes.cases(PER_RENO)},
            ("redness-finetune", "redness-hypernoise"),
            seconds=60,
        ),
        Row("kl", "kl_over_training", {"of": f, "noises": sizes.few(2)}, (f,), seconds=85),
        Row("retrained", "generator_changed", retraining(scale, seed, steps=60), seconds=60),
        Row("perturbed", "generator_changed", retraining(scale, seed, noise=0.03), seconds=1),
        *(
            Row(
                f"transfer-{name}",
                "transferred",
                {"generator": name, "adapter": f, **sizes.cases()},
                (name, f),
                seconds=22,
            )
            for name in ("retrained", "perturbed")
        ),
        Row("multi", "trained", ablation(scale, seed, reward=weights), seconds=45),
        measuring("multi-measured", sizes, {"multi": Spec(adapter="multi")}, 12, ("multi",)),
        Row("hard", "trained", ablation(scale, seed, "--temperature=0.02", reward=hard), seconds=45),
        Row("hard-measured", "on_another_reward", hard_settings, ("hard",), seconds=80),
    ]


def retraining(scale: float, seed: int, steps: int = 0, noise: float = 0.0) -> dict:
    return {"steps": steps and max(2, round(steps * scale)), "batch": 32, "lr": 1e-4, "noise": noise, "seed": seed}


def timing(name: str, sizes: Sizes, specs: dict[str, Spec], seconds: float, needs: tuple[str, ...]) -> Row:
    """A row that times techniques side by side, with nothing else running."""
    cases = {"n": len(CATEGORIES) * PER_PROMPT, "per": 2}
    settings = {"specs": {k: spec_settings(s) for k, s in specs.items()}, "rounds": sizes.few(3), **cases}
    return Row(name, "timed", settings, needs, seconds, alone=True)


def timing_row(sizes: Sizes, rewriter: str) -> Row:
    f = hypernoise(0)
    specs = {"base": Spec()} | {f"base-{s}": Spec(steps=s) for s in STEPS}
    specs |= {f"hypernoise-{s}": Spec(adapter=f, steps=s) for s in STEPS}
    specs |= {f"hypernoise-1x{i}": iterated(f, i) for i in ITERATIONS}
    specs |= read_again("head", SHIPPED_HEAD, HEAD_READINGS)
    specs |= {f"{SHIPPED_HEAD}-{s}-free": Spec(adapter=SHIPPED_HEAD, steps=s, free_reading=True) for s in SEVERAL_STEPS}
    specs |= {f"{name}-1": Spec(adapter=name) for name in ("finetune", "finetune-matched")}
    specs |= search_specs(rewriter)
    return timing("timing", sizes, specs, 80, (f, "finetune", "finetune-matched"))


def white_timing_row(sizes: Sizes) -> Row:
    """Of what stays on white noise, and of what searches without gradients."""
    specs = {"base": Spec()} | white_search_specs(sizes) | refine_white_specs(critic(0), sizes)
    return timing("timing-white", sizes, specs, 90, (critic(0),))


def critic_timing_row(sizes: Sizes) -> Row:
    """Of what asks a critic."""
    first = critic(0)
    specs = {"base": Spec()}
    specs |= candidate_specs(first, sizes) | refine_specs(first, sizes)
    specs |= {f"{first}-of-{n}-1x3": Spec(adapter=first, iterations=3, candidates=n) for n in (2, 4)}
    specs[f"{first}-1x3-refined-3"] = Spec(adapter=first, iterations=3, refine=3)
    return timing("timing-critic", sizes, specs, 40, (first,))
