"""What each kind of row does, from its settings and what the rows that it needs have found: those that measure, then
those that train (adapters by the shipped recipes with other settings, and a generator that is trained further)."""

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from torch import nn

from hypernoise_core import Reward, RewardEnsemble, Trainer
from hypernoise_core.diagnostics import exact_kl, local_lipschitz, second_order_kl
from hypernoise_core.embedded.prompts import prompts
from hypernoise_core.embedded.verdict import Verdict
from hypernoise_core.files import replacing
from hypernoise_core.generators import Generator
from hypernoise_core.training import Diagnosed, NonFiniteError, ScoredNoise, StepDone, StepSkipped
from train.cli import parse
from train.config import RECIPES, TrainArguments

from .measures import measure, measure_path
from .techniques import Spec, make, tools_for
from .world import PROBE_SEED, World, chosen_cases, make_reward, pixel_step, probe_cases

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


@torch.no_grad()
def calibrated(world: World, name: str, settings: dict, results: Results) -> dict:
    """What a critic expects of noises as they are drawn, and after `readings`, beside what their images score."""
    f, pairs = world.adapter(settings["of"]), {}
    if f.critic is None:
        raise ValueError(f"{settings['of']} has no critic")
    for readings in settings["readings"]:
        expected, scored = [], []
        todo = chosen_cases(settings["n"], settings["per"])
        for i in range(0, len(todo), 30):
            batch = world.batch(todo[i : i + 30])
            x = f.modulate(batch.x0, batch.conditioning, iterations=readings)
            expected += f.critic.score(x, batch.conditioning).tolist()
            images = world.generator.generate(x, batch.conditioning)
            scored += world.reward.score(images, batch.text).tolist()
        pairs[str(readings)] = {"expected": expected, "scored": scored}
    return {"pairs": pairs, "per": settings["per"]}


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


def trained(world: World, name: str, settings: dict, results: Results) -> dict:
    """Train an adapter and keep it as `name`, and as `name@step` at each snapshot.

    Settings: `recipe`; `batch_size` and `critic_width` instead of its own; `arguments` of `python -m train` over it;
    `seed`; `share` of the recipe's steps and warm start; `snapshots`, how many besides the first step's; `reward`
    (`world.make_reward`) instead of the recipe's; `temperature_factor` on the recipe's; `verdicts`, how many scores
    there are already.
    """
    trainer = make_trainer(world, settings)
    steps = trainer.config.max_steps
    count = settings.get("snapshots", 0)
    wanted = {1, *(round(steps * (i + 1) / count) for i in range(count))} if count else set()
    curve, diagnostics, taken = [], [], []
    for event in trainer.events():
        if isinstance(event, StepDone):
            curve.append({"step": event.step, **event.metrics})
            if event.step in wanted:
                save(trainer, world.adapter_file(f"{name}@{event.step}"))
                taken.append(event.step)
        elif isinstance(event, Diagnosed):
            diagnostics.append({"step": event.step, **event.metrics})
        elif isinstance(event, StepSkipped):
            raise NonFiniteError(f"{name}: {event.reason}")
    save(trainer, world.adapter_file(name))
    return {
        "steps": trainer.step,
        "warm_start_pictures": trainer.config.warm_start_pictures,
        "pictures": trainer.teacher.watched + trainer.warm_start_done + trainer.step * trainer.config.batch_size,
        "parameters": sum(p.numel() for p in trainer.parameters),
        "rank": trainer.config.rank,
        "temperature": trainer.config.temperature,
        "snapshots": taken,
        "curve": curve,
        "diagnostics": diagnostics,
        "first_tenth": _mean(curve[: max(1, len(curve) // 10)]),
        "last_tenth": _mean(curve[-max(1, len(curve) // 10) :]),
    }


def make_trainer(world: World, settings: Mapping) -> Trainer:
    """A trainer by a recipe, shortened."""
    argv = [*settings.get("arguments", ()), f"--seed={settings['seed']}"]
    args: TrainArguments = parse(TrainArguments, "benchmark", "", argv, str(RECIPES / f"{settings['recipe']}.yaml"))
    mix = args.load_prompts()
    config, share = args.training_config(sum(mix.sizes)), settings["share"]
    if config.train_type == "finetune":  # has no warm start: it gets those pictures as steps
        steps = config.max_steps + config.warm_start_pictures // config.batch_size
        config = replace(config, max_steps=steps, warm_start_pictures=0)
    config = replace(
        config,
        max_steps=max(2, round(share * config.max_steps)),
        batch_size=settings.get("batch_size", config.batch_size),
        critic_width=settings.get("critic_width", config.critic_width),
        warm_start_pictures=math.ceil(share * config.warm_start_pictures),
        critic_warm_up=math.ceil(share * config.critic_warm_up),
        warmup_steps=round(min(share, 1) * config.warmup_steps),
        diagnostics_every=settings.get("diagnostics_every", 0) and max(1, round(share * settings["diagnostics_every"])),
    )
    factor = settings.get("temperature_factor", 1.0)
    clip = config.reward_grad_clip
    # The clip is of the gradient of r / α: it moves along, else it would set the temperature by itself.
    config = replace(
        config, temperature=factor * config.temperature, reward_grad_clip=None if clip is None else clip / factor
    )
    named = settings.get("reward")
    reward = RewardEnsemble(make_reward(world, named)) if named else args.load_rewards()
    scored = verdicts(world, settings["verdicts"], config.seed) if "verdicts" in settings else ()
    return Trainer(world.generator, reward, mix, config, scored=scored)


@torch.no_grad()
def verdicts(world: World, count: int, seed: int) -> list[ScoredNoise]:
    """The detector's yes or no on `count` of the base's images of training prompts, drawn at random."""
    verdict, texts = Verdict(), [prompt.text for prompt in prompts(held_out=False)]
    random = torch.Generator().manual_seed(seed)
    chosen = [texts[row] for row in torch.randint(len(texts), (count,), generator=random).tolist()]
    scored = []
    for i in range(0, count, 30):
        part = chosen[i : i + 30]
        seeds = range(PROBE_SEED + i, PROBE_SEED + i + len(part))
        x0 = torch.cat([world.generator.noise(1, seed=own) for own in seeds])
        scores = verdict.score(world.generator.generate(x0, world.encode(part)), verdict.encode_text(part)).tolist()
        scored += [ScoredNoise(*row) for row in zip(part, seeds, scores, strict=True)]
    return scored


def save(trainer: Trainer, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    trainer.save(path)


def _mean(rows: list[dict]) -> dict[str, float]:
    return {key: sum(row[key] for row in rows) / len(rows) for key in rows[0] if key != "step"}


@torch.no_grad()
def mean_reward(world: World, spec: Spec, count: int, reward: Reward | None = None) -> float:
    """A reward's mean over pictures of the probe."""
    reward, tools, total = reward or world.reward, tools_for(spec, world), 0.0
    todo = probe_cases(count)
    for i in range(0, count, 30):
        batch = world.batch(todo[i : i + 30])
        images = make(spec, tools, batch)[0].images
        text = reward.encode_text([case.prompt.text for case in batch.cases])
        total += reward.score(images, text).double().sum().item()
    return total / count


def stopped(world: World, name: str, settings: dict, results: Results) -> dict:
    """Keep, as `name`, the first snapshot of the training row `of` whose reward on the probe is that of adapter
    `reference`; the last where none reaches it."""
    count = settings["probe"]
    target = mean_reward(world, Spec(adapter=settings["reference"]), count)
    path, chosen = [], None
    for step in results[settings["of"]]["snapshots"]:
        reached = mean_reward(world, Spec(adapter=f"{settings['of']}@{step}"), count)
        path.append({"step": step, "reward": reached})
        chosen = step
        if reached >= target:
            break
    with replacing(world.adapter_file(name)) as temporary:
        temporary.write_bytes(world.adapter_file(f"{settings['of']}@{chosen}").read_bytes())
    return {"target": target, "path": path, "step": chosen, "reached": path[-1]["reward"] >= target}


def generator_changed(world: World, name: str, settings: dict, results: Results) -> dict:
    """A generator with other weights, kept as `name`: trained further on its own four-step pictures (`steps` above 0),
    and each weight tensor moved by Gaussian noise of `noise` times its standard deviation."""
    generator = copy.deepcopy(world.generator)
    random = torch.Generator().manual_seed(settings["seed"])
    with torch.no_grad():
        for parameter in generator.denoiser.parameters():
            if parameter.numel() > 1 and settings["noise"]:
                noise = torch.randn(parameter.shape, generator=random)
                parameter.add_(noise.to(parameter) * settings["noise"] * parameter.std())
    losses = _distil(world, generator, settings, random) if settings["steps"] else []
    moved = _distance(generator.denoiser, world.generator.denoiser)
    path = world.work / f"{name}.pt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        torch.save(generator.denoiser.state_dict(), temporary)
    return {"relative_change": moved, "losses": losses}


def load_changed(world: World, name: str) -> Generator:
    generator = copy.deepcopy(world.generator)
    generator.denoiser.load_state_dict(torch.load(world.work / f"{name}.pt", weights_only=True))
    return generator


def _distil(world: World, generator: Generator, settings: Mapping, random: torch.Generator) -> list[float]:
    """Regress the one-step latents on the shipped generator's four-step ones of the same noise: AdamW on all weights of
    the denoiser. Returns the loss of each step."""
    own = [prompt.text for prompt in prompts(held_out=False)]
    generator.denoiser.requires_grad_(True)
    optimizer = torch.optim.AdamW(generator.denoiser.parameters(), lr=settings["lr"])
    losses = []
    for step in range(settings["steps"]):
        rows = torch.randint(len(own), (settings["batch"],), generator=random).tolist()
        conditioning = world.encode([own[row] for row in rows])
        x0 = generator.noise(len(rows), seed=PROBE_SEED + step)
        with torch.no_grad():
            target = world.generator.denoise(x0, conditioning, 4, step, None)
        loss = (generator.denoise(x0, conditioning, 1, 0, None) - target).square().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(generator.denoiser.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    generator.denoiser.requires_grad_(False)
    return losses


def _distance(a: nn.Module, b: nn.Module) -> float:
    """Norm of the difference of all weights over that of `b`'s."""
    pairs = list(zip(a.parameters(), b.parameters(), strict=True))
    difference = sum((x - y).double().square().sum() for x, y in pairs)
    return (difference / sum(y.double().square().sum() for _, y in pairs)).sqrt().item()


KINDS: dict[str, RowFunction] = {
    function.__name__: function
    for function in (
        measured,
        searched,
        trained,
        stopped,
        along,
        kl_over_training,
        calibrated,
        generator_changed,
        transferred,
        on_another_reward,
        timed,
    )
}
