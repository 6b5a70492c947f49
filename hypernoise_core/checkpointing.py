"""Gradient checkpointing of frozen modules."""

from collections.abc import Iterable
from functools import partial

from torch import nn
from torch.utils.checkpoint import checkpoint


def checkpoint_layers(layers: Iterable[nn.Module], enabled: bool = True) -> None:
    """Recompute each layer's activations in the backward pass.

    transformers' own switch does nothing for a model in evaluation mode, and frozen models are in evaluation mode.
    """
    for layer in layers:
        layer.__dict__.pop("forward", None)
        if enabled:
            layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)
