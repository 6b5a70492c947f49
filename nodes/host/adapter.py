"""HYPERNOISE, what travels between the nodes: a noise hypernetwork of any kind, and its form for one MODEL."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from comfy.model_patcher import ModelPatcher
from comfy_api.v0_0_2 import io
from torch import Tensor, nn

from hypernoise_core.reading import Reading

from .call import FirstCall

HyperNoiseType = io.Custom("HYPERNOISE")


class FittedHyperNoise(ABC):
    """A noise hypernetwork's form for one denoiser. The attributes are those of the core's `NoiseFunction`."""

    keeps_norm = False
    is_told = False
    coarsen: int = 1
    critic: nn.Module | None = None
    """With the methods of the core's `CriticNetwork`."""
    patcher: ModelPatcher
    """Through it ComfyUI loads and unloads the hypernetwork's weights like any model's."""

    @abstractmethod
    def delta(self, call: FirstCall, remaining: int) -> Tensor:
        """f_φ from one denoiser call: [B, C, h, w]."""

    def read(self, call: FirstCall) -> Reading:
        """What the denoiser made of the noise in that call; kinds with a critic alone are asked."""
        raise NotImplementedError


class HyperNoise(ABC):
    """A noise hypernetwork as its file has it."""

    training: dict[str, str]
    """What its file says of its training."""

    def __init__(self, name: str):
        self.name = name
        self._fitted: WeakKeyDictionary = WeakKeyDictionary()

    def fit(self, model: ModelPatcher) -> FittedHyperNoise:
        """Its form for this MODEL's denoiser, made once.

        Raises:
            ValueError: it was made for another model.
        """
        if model.model not in self._fitted:
            self._fitted[model.model] = self._fit(model)
        return self._fitted[model.model]

    @abstractmethod
    def _fit(self, model: ModelPatcher) -> FittedHyperNoise: ...

    @abstractmethod
    def save(self, path: str | Path) -> None:
        """Write its file again."""


def check_conditioning(model: ModelPatcher, texts: Iterable[Tensor | None]) -> None:
    """Check that encoded texts [B, tokens, width] have the width that this MODEL's denoiser takes, if its configuration
    says so.

    Raises:
        ValueError: they come from another text encoder.
    """
    config = model.model.model_config.unet_config
    width = config.get("context_dim", config.get("context_in_dim"))
    for tokens in texts:
        if isinstance(width, int) and torch.is_tensor(tokens) and tokens.shape[-1] != width:
            raise ValueError(
                f"conditioning: its text encoder gives {tokens.shape[-1]} numbers per token, but this model takes "
                f"{width}: encode the prompt with the CLIP of this model"
            )
