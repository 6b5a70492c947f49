"""Gradients to the input of models that ComfyUI has loaded for its samplers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch.autograd.graph import allow_mutation_on_saved_tensors

from .differentiation import leave_inference_mode


@contextmanager
def differentiable(*models: ModelPatcher) -> Iterator[None]:
    """Inside the block, calls of `models`, which must be loaded, can be differentiated in their input: ComfyUI's nodes
    run in inference mode, and its fused kernels have no gradient.

    Raises:
        ValueError: its weights are streamed layer by layer, and are gone when the backward pass comes.
    """
    if any(hasattr(model, "is_dynamic") and model.is_dynamic() for model in models):
        raise ValueError(
            "refine: with dynamic VRAM, weights are gone when the gradient is asked for: set refine to 0, or start "
            "ComfyUI with --disable-dynamic-vram"
        )
    before = getattr(comfy.model_management, "in_training", False)
    comfy.model_management.in_training = True  # no fused kernels that have no gradient
    try:
        with torch.inference_mode(False), torch.enable_grad(), allow_mutation_on_saved_tensors():
            for model in models:
                leave_inference_mode(model.model.modules())
            yield
    finally:
        comfy.model_management.in_training = before


def own(value: Any) -> Any:
    """A copy of tensors in lists and dictionaries that can be differentiated through."""
    if torch.is_tensor(value):
        return value.clone()
    if isinstance(value, dict):
        return {key: own(item) for key, item in value.items()}
    return type(value)(map(own, value)) if isinstance(value, list | tuple) else value
