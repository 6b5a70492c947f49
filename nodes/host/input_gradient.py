"""Gradients to the input of models that ComfyUI has loaded for its samplers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch.autograd.graph import allow_mutation_on_saved_tensors

from .differentiation import leave_inference_mode
from .kernels import without_fused_kernels
from .quantized import gradients_through


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
    with torch.inference_mode(False), torch.enable_grad(), allow_mutation_on_saved_tensors(), ExitStack() as stack:
        stack.enter_context(without_fused_kernels())
        for model in models:
            latents = getattr(model.model, "latent_format", None)  # Wan's has means and deviations
            leave_inference_mode([*model.model.modules(), *([] if latents is None else [latents])])
            stack.enter_context(gradients_through(list(model.model.modules())))
        yield


def own(value: Any) -> Any:
    """A copy of tensors in lists and dictionaries that can be differentiated through."""
    if torch.is_tensor(value):
        return value.clone()
    if isinstance(value, dict):
        return {key: own(item) for key, item in value.items()}
    return type(value)(map(own, value)) if isinstance(value, list | tuple) else value
