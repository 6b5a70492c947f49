"""What each kind of row does, from its settings and what the rows that it needs have found."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from statistics import median

import torch

from hypernoise_core.diagnostics import exact_kl, local_lipschitz, second_order_kl

from .measures import measure, measure_path
from .rewards import pixel_step
from .techniques import Spec, make, tools_for
from .training import changed_generator, load_changed, stop_at_reward, train
from .world import World, chosen_cases, probe_cases

BASE_REPEATS, LONG = 5, 20

Results = Mapping[str, dict]
RowFunction = Callable[[World, str, dict, Results], dict]
"""(world, row's name, its settings, results of the rows that it needs) -> what it found, for JSON."""


def measured(world: World, name: str, settings: dict, results: Results) -> dict:
    """`specs`: record name to technique, each on the same cases."""
    todo = chosen_cases(settings["n"], settings["per"])
    records = {}
    for record, spec in settings["specs"].items():
        spec = Spec(**spec)
        records[record] = measure(world, spec, tools_for(spec, world), todo, settings["per"])
    return {"records": records}


def searched(world: World, name: str, settings: dict, results: Results) -> dict:
    """One search, with a record at each of `at`: candidates of Best-of-N, iterations of ReNO."""
    todo, spec = chosen_cases(settings["n"], settings["per"]), Spec(**settings["spec"])
    first = 1 if spec.best_of else 0
    stages = tuple(count - first for count in settings["at"].values())
    found = measure_path(world, spec, tools_for(spec, world), todo, settings["per"], stages)
    return {"records": dict(zip(settings["at"], found, strict=True))}


def trained(world: World, name: str, settings: dict, results: Results) -> dict:
    return train(world, name, settings)


def stopped(world: World, name: str, settings: dict, results: Results) -> dict:
    return stop_at_reward(world, name, settings, results)


def along(world: World, name: str, settings: dict, results: Results) -> dict:
    """Records of one training row's snapshots, and of a noise hypernetwork at several strengths."""
    todo, per = chosen_cases(settings["n"], settings["per"]), settings["per"]
    specs = {f"step {step}": Spec(adapter=f"{settings['finetuned']}@{step}") for step in _steps(settings, results)}
    specs |= {f"strength {s:g}": Spec(adapter=settings["hypernetwork"], strength=s) for s in settings["strengths"]}
    records = {"base": measure(world, Spec(), tools_for(Spec(), world), todo, per)}
    for key, spec in specs.items():
        records[key] = measure(world, spec, tools_for(spec, world), todo, per)
    return {"curve": records, "finetuned": [k for k in specs if k[:4] == "step"], "strengths": settings["strengths"]}


def _steps(settings: dict, results: Results) -> list[int]:
    return results[settings["finetuned"]]["snapshots"]


def kl_over_training(world: World, name: str, settings: dict, results: Results) -> dict:
    """The KL's terms at a training row's snapshots, by the whole Jacobian, on the same few noises each time; beside
    them what training itself estimates."""
    todo, points = probe_cases(settings["noises"]), []
    for step in results[settings["of"]]["snapshots"]:
        adapter = world.adapter(f"{settings['of']}@{step}")
        terms, estimates = [], []
        for case in todo:
            batch = world.batch([case])

            def f(x, adapter=adapter, conditioning=batch.conditioning):
                return adapter(x, conditioning.rows([0] * len(x)))

            terms.append(exact_kl(f, batch.x0))
            estimates.append([second_order_kl(f, batch.x0).item(), local_lipschitz(f, batch.x0).item()])
        mean = {key: sum(t[key] for t in terms) / len(terms) for key in terms[0]}
        hutchinson, lipschitz = torch.tensor(estimates).mean(0).tolist()
        folds = sum(t["determinant_sign"] < 0 for t in terms)
        points.append(
            {"step": step, **mean, "folds": folds, "noises": len(todo), "hutchinson": hutchinson, "power": lipschitz}
        )
    return {"points": points}


def generator_changed(world: World, name: str, settings: dict, results: Results) -> dict:
    return changed_generator(world, name, settings)


def transferred(world: World, name: str, settings: dict, results: Results) -> dict:
    """A changed generator by itself, and with an adapter that was trained for the shipped one."""
    todo, per = chosen_cases(settings["n"], settings["per"]), settings["per"]
    generator = load_changed(world, settings["generator"])
    records = {}
    for key, spec in (("alone", Spec()), ("adapter", Spec(adapter=settings["adapter"]))):
        tools = tools_for(spec, world, generator=generator)
        records[f"{settings['generator']}, {key}"] = measure(world, spec, tools, todo, per)
    return {"records": records}


def on_another_reward(world: World, name: str, settings: dict, results: Results) -> dict:
    """Techniques that go by the hard reward: its mean beside the usual numbers."""
    todo, per = chosen_cases(settings["n"], settings["per"]), settings["per"]
    hard = pixel_step(world, settings["pixel_step"])
    records = {}
    for record, values in settings["specs"].items():
        spec = Spec(**values)
        tools = tools_for(spec, world, reward=hard)
        records[record] = measure(world, spec, tools, todo, per, also={"pixel_step": hard})
    return {"records": records, "threshold": hard.share}


def timed(world: World, name: str, settings: dict, results: Results) -> dict:
    """Seconds a picture of every technique, one after the other in each of `rounds` rounds, and their ratio to the
    base's of the same round (the median of `BASE_REPEATS`): medians. What takes more than `LONG` times the base's is
    timed in the first round alone. Text encoding is excluded, but for prompt search, which encodes its wordings."""
    todo = chosen_cases(settings["n"], settings["per"])
    batch = world.batch(todo)
    specs = {key: Spec(**values) for key, values in settings["specs"].items()}
    tools = {key: tools_for(spec, world) for key, spec in specs.items()}
    make(Spec(), tools["base"], batch)
    seconds: dict[str, list[float]] = {key: [] for key in specs}
    ratios: dict[str, list[float]] = {key: [] for key in specs}
    for _ in range(settings["rounds"]):
        base = median(_seconds(Spec(), tools["base"], batch) for _ in range(BASE_REPEATS))
        for key, spec in specs.items():
            if ratios[key] and ratios[key][0] > LONG:
                continue
            world.forget_encoded()
            world.encode([case.prompt.text for case in todo])
            own = base if spec == Spec() else _seconds(spec, tools[key], batch)
            seconds[key].append(own / len(todo))
            ratios[key].append(own / base)
    rows = {key: {"seconds_per_image": median(seconds[key]), "ratio": median(ratios[key])} for key in specs}
    return {"timing": {"pictures": len(todo), "rows": rows}}


@torch.no_grad()
def _seconds(spec: Spec, tools, batch) -> float:
    begun = time.perf_counter()
    make(spec, tools, batch)
    return time.perf_counter() - begun


KINDS: dict[str, RowFunction] = {
    function.__name__: function
    for function in (
        measured,
        searched,
        trained,
        stopped,
        along,
        kl_over_training,
        generator_changed,
        transferred,
        on_another_reward,
        timed,
    )
}


def spec_settings(spec: Spec) -> dict:
    """Those that are not the defaults."""
    defaults = asdict(Spec())
    return {key: value for key, value in asdict(spec).items() if value != defaults[key]}
