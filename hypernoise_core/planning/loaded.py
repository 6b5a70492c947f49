"""What training needs where the models are loaded already: a step is taken on copies of them that have no data."""

from __future__ import annotations

import copy
from collections import Counter as Sums
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..generators.base import Generator
from ..rewards import Reward, RewardEnsemble
from ..rewards.base import Backbone
from ..rewards.redness import Redness
from ..settings import Message, SettingError, joined
from ..training import Trainer, TrainingConfig
from ..training.teachers import CriticTeacher
from .count import REWARDS, Count, at_a_time, count_step, counted_config, passes, show_weights, size_of
from .counter import Counter
from .plan import GIB, SPARE, fits
from .rewards import every_window_used, tensors_of
from .without_data import without_data

STATES = {"adamw": 2, "adam": 2, "sgd": 1}
"""Copies of its parameters that an optimizer keeps, by its name."""

LEAST_SIDE = 256
"""Pixels, below which no smaller pictures are proposed."""


class Copies:
    """Copies of modules whose tensors have shapes and no data. They share nothing with the modules that they are copies
    of, and what is shared among these is shared among the copies."""

    def __init__(self, mode: FakeTensorMode, device: torch.device):
        self._mode, self._device = mode, device
        self.memo: dict[int, Any] = {}
        """What stands for an object in the copies, by the object's id."""

    def of(self, module: nn.Module) -> nn.Module:
        """
        Raises:
            TypeError: it has tensors of a class of its own, such as packed weights.
        """
        for tensor in _tensors(module):
            if id(tensor) not in self.memo:
                self.memo[id(tensor)] = self._fake(tensor)
        return copy.deepcopy(module, self.memo)

    def of_reward(self, reward: Reward) -> Reward:
        """As `of`."""
        return self._with_copies(reward)

    def _with_copies(self, owner: Any) -> Any:
        if id(owner) not in self.memo:
            self.memo[id(owner)] = own = copy.copy(owner)
            for name, value in vars(owner).items():
                if isinstance(value, nn.Module):
                    vars(own)[name] = self.of(value)
                elif isinstance(value, Backbone):
                    vars(own)[name] = self._with_copies(value)
        return self.memo[id(owner)]

    def _fake(self, tensor: Tensor) -> Tensor:
        if type(tensor) not in (Tensor, nn.Parameter):
            raise TypeError(f"a {type(tensor).__name__} has no form without data")
        fake = self._mode.from_tensor(tensor.detach()).to(self._device)
        return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    for part in module.modules():
        for place in (part._parameters, part._buffers, vars(part)):
            yield from (value for value in place.values() if isinstance(value, Tensor))


@dataclass(frozen=True)
class Loaded:
    """Models that training is about to begin with."""

    copied: Callable[[Copies], Generator]
    """Makes the generator's copy; it is asked for inside `without_data`."""
    device: torch.device
    reward: RewardEnsemble
    prompt: str
    """The longest."""
    offload: bool = False
    """Rewards are on the device only while they judge."""


def count_loaded(loaded: Loaded, config: TrainingConfig) -> tuple[Count, list[str]]:
    """What a step holds at most on the device, the loaded models included, and the names of rewards of which the
    weights alone are counted, since they look at the values of pictures. Nothing is allocated.

    Raises:
        Exception: a model does what needs values; of whatever kind it meets.
    """
    with without_data() as mode, every_window_used():
        copies = Copies(mode, loaded.device)
        generator = loaded.copied(copies)
        known, unknown = _copied_rewards(loaded, copies)
        known = known or [(Redness(), 1.0)]
        trainer = Trainer(generator, RewardEnsemble(known).to(loaded.device), [loaded.prompt], _counted(config))
        found = count_step(trainer, at_a_time(config), passes(config))
    sizes = tuple(size_of(tensors_of(reward)) for reward in unknown)
    parts = {part: sums + Sums({REWARDS: sum(sizes)}) for part, sums in found.parts.items()}
    found = replace(found, parts=parts, rewards=(*found.rewards, *sizes))
    return found.offloaded(loaded.offload), [reward.name for reward in unknown]


def _counted(config: TrainingConfig) -> TrainingConfig:
    """One regression of a critic's holds as much as several. Where no picture is scored, previews draw one."""
    share = config.score_share or 1 / config.batch_size
    return counted_config(replace(config, critic_steps=min(1, config.critic_steps), score_share=share))


def _copied_rewards(loaded: Loaded, copies: Copies) -> tuple[list[tuple[Reward, float]], list[Reward]]:
    """(copies that score pictures without data, with their weights; rewards that cannot be counted)."""
    known, unknown = [], []
    for name, reward in loaded.reward.rewards.items():
        try:
            own = copies.of_reward(reward)
            text = own.encode_text([loaded.prompt])
            own.score(torch.rand(1, 3, LEAST_SIDE, LEAST_SIDE, device=loaded.device), text.to(loaded.device))
        except Exception:  # of the user's own class as well: it has not begun to judge, and is named
            unknown.append(reward)
        else:
            known.append((own, loaded.reward.weights[name]))
    return known, unknown


def held_throughout(trainer: Trainer) -> int:
    """Bytes that are held at every step, whatever else: weights, gradients and the optimizers' state."""
    counter = Counter()
    show_weights(counter, trainer)
    taught = trainer.teacher.parameters if isinstance(trainer.teacher, CriticTeacher) else []
    own, critic = (sum(p.numel() * p.itemsize for p in group) for group in (trainer.parameters, taught))
    return counter.now + own * (1 + STATES[trainer.config.optimizer]) + critic * (1 + STATES["adamw"])


def check_loaded_fits(
    config: TrainingConfig, known: Count, free: float, counted: Callable[[TrainingConfig], Count], multiple: int = 1
) -> None:
    """
    Args:
        free: bytes, those of the loaded models included.
        counted: what other settings would need.
        multiple: of a side, in pixels.

    Raises:
        SettingError: a run, whose count is `known`, does not fit; the message names settings that would.
    """
    if not fits(known, free):
        raise SettingError(
            "{generator} would need {:.1f} GiB with these settings, most of it at the {}, and {:.1f} GiB are free: {}",
            (known.peak + SPARE) / GIB,
            known.part,
            free / GIB,
            _remedy(config, known, free, counted, multiple),
        )


def _remedy(
    config: TrainingConfig, known: Count, free: float, counted: Callable[[TrainingConfig], Count], multiple: int
) -> Message:
    chosen: dict[str, Message] = {}
    while not fits(known, free):
        for setting, told, changed in _changes(config, multiple):
            if (found := counted(changed)).peak < known.peak:
                chosen[setting] = told
                config, known = changed, found
                break
        else:
            least = (known.peak + SPARE) / GIB
            return Message("no settings help, it needs {:.1f} GiB at least: take a smaller model", least)
    return Message("set {}", joined(", ", list(chosen.values())))


def _changes(config: TrainingConfig, multiple: int) -> Iterator[tuple[str, Message, TrainingConfig]]:
    """(setting, what to set it to, the run with it) of all that is still to be changed, what costs least first."""
    if (pictures := at_a_time(config)) > 1:
        smaller = pictures // 2
        yield "micro_batch_size", Message("{micro_batch_size} {}", smaller), replace(config, micro_batch_size=smaller)
    again, told = "gradient_checkpointing", "{gradient_checkpointing} {}"
    if not config.gradient_checkpointing and config.hypernetwork == "lora":
        yield again, Message(told, "hypernetwork"), replace(config, gradient_checkpointing="hypernetwork")
    if config.gradient_checkpointing is not True:
        yield again, Message(told, "all"), replace(config, gradient_checkpointing=True)
    if config.teacher == "gradient":
        yield "teacher", Message("{teacher} {}", "critic"), replace(config, teacher="critic")
    if config.height and config.width:
        height, width = (side // 2 // multiple * multiple for side in (config.height, config.width))
        if min(height, width) >= LEAST_SIDE:
            smaller_picture = Message("{width} {} and {height} {}", width, height)
            yield "height", smaller_picture, replace(config, height=height, width=width)
