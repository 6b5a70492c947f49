"""Rows that train: adapters by the shipped recipes with other settings, and a generator that is trained further."""

import copy
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from hypernoise_core import Reward, RewardEnsemble, Trainer
from hypernoise_core.embedded.prompts import prompts
from hypernoise_core.files import replacing
from hypernoise_core.generators import Generator
from hypernoise_core.training import Diagnosed, NonFiniteError, StepDone, StepSkipped
from train.cli import parse
from train.config import RECIPES, TrainArguments

from .rewards import make_reward
from .techniques import Spec, make, tools_for
from .world import PROBE_SEED, World, probe_cases


def train(world: World, name: str, settings: Mapping) -> dict:
    """Train an adapter and keep it as `name`, and as `name@step` at each snapshot.

    Settings: `recipe`; `batch_size` instead of its own; `arguments` of `python -m train` over it; `seed`; `share` of
    the recipe's steps and warm start; `snapshots`, how many besides the first step's; `reward`
    (`rewards.make_reward`) instead of the recipe's; `temperature_factor` on the recipe's.
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
        "pictures": trainer.config.warm_start_pictures + trainer.step * trainer.config.batch_size,
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
        warm_start_pictures=math.ceil(share * config.warm_start_pictures),
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
    return Trainer(world.generator, reward, mix, config)


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


def stop_at_reward(world: World, name: str, settings: Mapping, results: Mapping[str, dict]) -> dict:
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


def changed_generator(world: World, name: str, settings: Mapping) -> dict:
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
