"""The paper's recipes: its tables' settings, and each builds and trains on a toy pipeline of its family."""

from dataclasses import replace

import pytest
from tiny_pipelines import PROMPTS, tiny_generator

from hypernoise_core import Trainer
from hypernoise_core.training import StepDone
from train.cli import parse
from train.config import RECIPES, TrainArguments, default_recipe

TABLES = {
    "sd-turbo": ("sd-turbo", 1e-5, 1000, 256, 256, "adamw", 18, 1, 25, 512),
    "sana": ("sana", 1e-3, 1, 128, 256, "sgd", 18, 3, 25, 1024),
    "flux": ("flux", 2e-5, 1, 128, 5 * 128, "adamw", 7, 4, 25, 512),
    "sana-redness": ("sana", 1e-3, 1, 128, 256, "sgd", 3, 1, 200, 1024),
}
"""Model, learning rate, gradient clip, rank, alpha, optimizer, batch, accumulation, epochs, side: tables 4 and 3."""

TINY = {
    "sd-turbo": "sd-turbo",
    "sana": "sana-sprint",
    "flux": "flux",
    "z-image-turbo": "z-image",
    "flux2-klein-4b": "flux2-klein",
    "krea2-turbo": "krea2",
    "qwen-image": "qwen-image",
    "sd3.5-turbo": "sd3",
    "stabilityai/stable-diffusion-xl-base-1.0": "sdxl-turbo",
}


def arguments(recipe):
    return parse(TrainArguments, "test", "", [], str(RECIPES / f"{recipe}.yaml"))


@pytest.mark.parametrize("recipe", TABLES)
def test_recipes_are_the_papers_tables(recipe):
    args = arguments(recipe)
    config = args.training_config(prompt_count=70_000)
    side = config.height
    assert config.width == side
    found = (config.lr, config.grad_clip, config.rank, config.alpha, config.optimizer, config.batch_size)
    assert (args.model, *found, config.accumulation_steps, args.epochs, side) == TABLES[recipe]
    assert config.max_steps == args.epochs * 70_000 // (config.batch_size * config.accumulation_steps)


HEADS = ("sana-head", "sd-turbo-head", "flux-head")
AT_MORE_STEPS = {
    "z-image-turbo-head": 8, "flux2-klein-4b-head": 4, "krea2-turbo-head": 8, "qwen-image-head": 4,
    "sd3.5-turbo-head": 4, "sdxl-lightning-head": 4,
}  # fmt: skip
"""Models that were distilled for more than one step: recipe to that number."""


@pytest.mark.parametrize("recipe", [*TABLES, *HEADS, *AT_MORE_STEPS])
def test_recipes_build_and_train(recipe, redness):
    args = arguments(recipe)
    generator = tiny_generator(TINY[args.model])
    config = args.training_config(len(PROMPTS))
    assert config.steps == AT_MORE_STEPS.get(recipe, 1)
    small = replace(config, batch_size=2, accumulation_steps=1, height=32, width=32, max_steps=1, critic_warm_up=2)
    trainer = Trainer(generator, redness, PROMPTS, small)
    try:
        *_, event = trainer.events()
    finally:
        generator.checkpoint_gradients(False)
    assert isinstance(event, StepDone)
    assert event.metrics["grad_norm"] > 0
    assert event.metrics["kl"] == 0


def test_a_models_recipe_is_found_by_its_short_name():
    assert default_recipe("flux") == str(RECIPES / "flux.yaml")
    assert default_recipe("flux", "head") == str(RECIPES / "flux-head.yaml")
    assert default_recipe("z-image-turbo") == str(RECIPES / "z-image-turbo-head.yaml")
    assert default_recipe("z-image-turbo", "lora") is default_recipe("sana-1.6b") is None
