"""`load_reward`: from a name to a reward. One file per reward beside this one."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

from ..embedded import REWARD_FOLDER
from .base import Reward
from .clip import ClipReward
from .ensemble import RewardEnsemble
from .redness import Redness

REWARDS: dict[str, Callable[[str | None], Reward]] = {
    "redness": lambda weights: Redness(),
    "embedded": lambda weights: ClipReward(weights or REWARD_FOLDER, "embedded"),
}
"""Name to a function of `weights` (a folder or file, or None for the usual place)."""

__all__ = ["REWARDS", "Reward", "RewardEnsemble", "load_reward", "parse_rewards"]


def load_reward(name: str, weights: str | None = None) -> Reward:
    """Load a reward by name, or your own as `module:Class`, where the module may be a Python file in this folder.

    Raises:
        ValueError: an unknown name, a module or class that does not load, or weights that are not there.
    """
    if name in REWARDS:
        return REWARDS[name](weights)
    if ":" not in name:
        raise ValueError(f"unknown reward {name!r}: choose from {', '.join(REWARDS)}, or your own as module:Class")
    return _load_own(name)


def _load_own(name: str) -> Reward:
    module_name, _, class_name = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        reward_class = getattr(importlib.import_module(module_name.removesuffix(".py")), class_name)
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise ValueError(
            f"reward {name!r} does not load ({error}): it is module:Class, importable from here"
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not (isinstance(reward_class, type) and issubclass(reward_class, Reward)):
        raise ValueError(f"reward {name!r} is not a subclass of hypernoise_core.rewards.Reward: make it one")
    reward = reward_class()
    if not getattr(reward, "name", None):
        reward.name = class_name.lower()
    return reward


def parse_rewards(names: str) -> RewardEnsemble:
    """An ensemble from text such as `embedded` or `redness=100,my_rewards:Brightness=0.5`; a weight is 1 unless
    given."""
    pairs = []
    for part in filter(None, (p.strip() for p in names.split(","))):
        name, _, weight = part.partition("=")
        try:
            pairs.append((load_reward(name.strip()), float(weight or 1)))
        except ValueError as error:
            if "could not convert" in str(error):
                raise ValueError(f"reward {part!r}: the weight after = is not a number") from error
            raise
    return RewardEnsemble(pairs)
