"""Noise hypernetworks for few-step text-to-image models (Eyring et al. 2025, arXiv 2508.09968)."""

from .batch import TensorBatch
from .generators import Generator, load_generator
from .hypernetwork import FineTunedDenoiser, NoiseHypernetwork
from .rewards import Reward, RewardEnsemble, load_reward
from .search import best_of_n, reno
from .training import Trainer, TrainingConfig

__version__ = "0.1.0"

__all__ = [
    "FineTunedDenoiser",
    "Generator",
    "NoiseHypernetwork",
    "Reward",
    "RewardEnsemble",
    "TensorBatch",
    "Trainer",
    "TrainingConfig",
    "best_of_n",
    "load_generator",
    "load_reward",
    "reno",
]
