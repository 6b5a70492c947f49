"""Noise hypernetworks for few-step text-to-image models (Eyring et al. 2025, arXiv 2508.09968).

Names are imported when first used: loading and running an adapter inside ComfyUI needs neither diffusers nor peft.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

__all__ = [
    "FineTunedDenoiser",
    "Generator",
    "HeadHypernetwork",
    "LoraHypernetwork",
    "NoiseHypernetwork",
    "Reward",
    "RewardEnsemble",
    "TensorBatch",
    "Trainer",
    "TrainingConfig",
    "best_of_n",
    "load_generator",
    "load_hypernetwork",
    "load_reward",
    "reno",
]

if TYPE_CHECKING:
    from .batch import TensorBatch
    from .generators import Generator, load_generator
    from .hypernetworks import NoiseHypernetwork, load_hypernetwork
    from .hypernetworks.head import HeadHypernetwork
    from .hypernetworks.lora import FineTunedDenoiser, LoraHypernetwork
    from .rewards import Reward, RewardEnsemble, load_reward
    from .search import best_of_n, reno
    from .training import Trainer, TrainingConfig
else:
    _HOMES = {
        "FineTunedDenoiser": "hypernetworks.lora",
        "Generator": "generators",
        "HeadHypernetwork": "hypernetworks.head",
        "LoraHypernetwork": "hypernetworks.lora",
        "NoiseHypernetwork": "hypernetworks",
        "Reward": "rewards",
        "RewardEnsemble": "rewards",
        "TensorBatch": "batch",
        "Trainer": "training",
        "TrainingConfig": "training",
        "best_of_n": "search",
        "load_generator": "generators",
        "load_hypernetwork": "hypernetworks",
        "load_reward": "rewards",
        "reno": "search",
    }
    """The imports above, done when a name is first asked for."""

    def __getattr__(name: str):
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)

    def __dir__():
        return [*globals(), *_HOMES]
