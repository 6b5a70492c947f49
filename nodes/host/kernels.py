"""ComfyUI's fused kernels, which have no gradient, and what takes their place."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import comfy.model_management

FUSED = ("rope", "adaln")
"""In the names of comfy_kitchen's kernels that a denoiser calls between its layers."""


@contextmanager
def without_fused_kernels() -> Iterator[None]:
    """Inside the block, denoisers run code that has a gradient: ComfyUI's own for training, and for the models that
    lack it (ERNIE-Image, Cosmos) comfy_kitchen's plain versions of its kernels."""
    before = getattr(comfy.model_management, "in_training", False)
    comfy.model_management.in_training = True
    kitchen, plain = _plain_kernels()
    fused = {name: getattr(kitchen, name) for name in plain}
    try:
        for name, kernel in plain.items():
            setattr(kitchen, name, kernel)
        yield
    finally:
        for name, kernel in fused.items():
            setattr(kitchen, name, kernel)
        comfy.model_management.in_training = before


def _plain_kernels() -> tuple[object, dict[str, Callable]]:
    """(comfy_kitchen, its kernels' versions in plain torch by name); older hosts have none. Those that write in place
    end in an underscore and are for inference alone."""
    try:
        kitchen = importlib.import_module("comfy_kitchen")
        eager = importlib.import_module("comfy_kitchen.backends.eager")
    except ImportError:
        return None, {}
    names = [name for name in dir(eager) if any(part in name for part in FUSED) and not name.endswith("_")]
    return kitchen, {name: getattr(eager, name) for name in names if callable(getattr(kitchen, name, None))}
