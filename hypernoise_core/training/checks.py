"""Whether a training run can be what its settings say, before anything is made for it."""

from __future__ import annotations

from collections.abc import Sequence

from ..generators.base import Generator
from ..hypernetworks import HYPERNETWORKS
from ..layers import target_names, weight_shape
from ..rewards import RewardEnsemble
from ..rewards.given import GivenScores
from ..settings import SettingError
from . import processes
from .config import TrainingConfig
from .scored import ScoredNoise

LEAST_MOST_RANK = 1024
"""Rank that is taken for any model. More than the width of the widest layer adds nothing, and would fill any memory
before it is told to be too much."""


def check_run(
    config: TrainingConfig,
    generator: Generator,
    reward: RewardEnsemble,
    validation_prompts: Sequence[str] = (),
    scored: Sequence[ScoredNoise] = (),
) -> None:
    """What `Trainer` asks first; arguments as of it.

    Raises:
        SettingError: settings that do not go together, or that this generator or reward cannot do.
    """
    generator.noise(1, config.height, config.width)  # refuses a size that does not fit
    _check_batch(config)
    _check_reward(config, reward, validation_prompts)
    _check_kind(config, generator)
    _check_scored(config, reward, scored)
    generator.check_steps(config.steps)
    generator.check_between_steps(config.between_steps)


def _check_batch(config: TrainingConfig) -> None:
    if config.batch_size % (processes.count() * config.pictures_per_prompt):
        raise SettingError(
            "{batch_size} is {}, which {} processes cannot share evenly: it counts the pictures of all of them; "
            "give a multiple of their number and of {pictures_per_prompt}",
            config.batch_size,
            processes.count(),
        )


def _check_reward(config: TrainingConfig, reward: RewardEnsemble, validation_prompts: Sequence[str]) -> None:
    if reward.normalization.running and processes.count() > 1:
        raise SettingError(
            "{normalization} running sees one process's pictures only: give reference or none to train in several"
        )
    if config.validate_every and not validation_prompts:
        raise SettingError(
            "{validate_every} is set without prompts to validate on: give {validation_prompts} that are not trained on"
        )
    if reward.held_out and not (config.diagnostics_every or config.validate_every):
        raise SettingError("{held_out} would never be measured: set {diagnostics_every} or {validate_every}")
    if config.teacher == "gradient" and not reward.differentiable:
        raise SettingError(
            "{rewards}: {} has no gradient, which {teacher} gradient follows: take {teacher} critic, which learns "
            "it from its scores",
            ", ".join(name for name, own in reward.rewards.items() if not own.differentiable),
        )


def _check_kind(config: TrainingConfig, generator: Generator) -> None:
    """
    Raises:
        SettingError: no such kind, nothing but distillation, a rank beyond every layer, or pictures of that size cannot
            be seen so coarsely.
    """
    if config.hypernetwork not in HYPERNETWORKS:
        raise SettingError("{hypernetwork} is {!r}: choose from {}", config.hypernetwork, ", ".join(HYPERNETWORKS))
    if config.distill and config.distill_steps >= config.max_steps:
        raise SettingError(
            "{distill_steps} is {} of {max_steps} {}: leave some for the reward", config.distill_steps, config.max_steps
        )
    shapes = [weight_shape(generator.denoiser.get_submodule(name)) for name in target_names(generator.denoiser)]
    most = max(LEAST_MOST_RANK, *(size for shape in shapes for size in shape))
    if config.rank > most:
        raise SettingError("{rank} is {}, and no layer of {} can use more than {}", config.rank, generator.name, most)
    width, height = (side or generator.default_size for side in (config.width, config.height))
    if width % (multiple := config.coarsen * generator.size_multiple) or height % multiple:
        raise SettingError(
            "{coarsen} is {}, and pictures are {}x{}: {} then needs sides that are multiples of {} pixels",
            config.coarsen,
            width,
            height,
            generator.name,
            multiple,
        )


def _check_scored(config: TrainingConfig, reward: RewardEnsemble, scored: Sequence[ScoredNoise]) -> None:
    """
    Raises:
        SettingError: nobody would learn from these scores, or nothing would be learnt from.
    """
    if scored and config.teacher != "critic":
        raise SettingError("{scores} is given, which {teacher} gradient cannot use: take {teacher} critic")
    if not config.score_share and not scored:
        raise SettingError("{score_share} is 0, so nothing would be learnt: give {scores}, or a share above 0")
    nobody = any(isinstance(own, GivenScores) for own in reward.rewards.values())
    if nobody and (config.score_share or config.warm_start_pictures or config.validate_every):
        raise SettingError(
            "there is no reward that could score new images, as {score_share} above 0, {warm_start_pictures} and "
            "{validate_every} want it: leave them out, or give {rewards}"
        )
