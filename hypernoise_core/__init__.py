"""Noise hypernetworks for few-step text-to-image models (Eyring et al. 2025, arXiv 2508.09968).

Names are imported when first used: loading and running an adapter inside ComfyUI needs neither diffusers nor peft.
"""

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "FineTunedDenoiser": ".hypernetworks.lora",
    "Generator": ".generators",
    "HeadHypernetwork": ".hypernetworks.head",
    "LoraHypernetwork": ".hypernetworks.lora",
    "NoiseHypernetwork": ".hypernetworks",
    "Reward": ".rewards",
    "RewardEnsemble": ".rewards",
    "TensorBatch": ".batch",
    "Trainer": ".training",
    "TrainingConfig": ".training",
    "best_of_n": ".search",
    "load_generator": ".generators",
    "load_hypernetwork": ".hypernetworks",
    "load_reward": ".rewards",
    "reno": ".search",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
