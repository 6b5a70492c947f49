"""The chain of linear layers that both ImageReward and LAION's aesthetic score put on an encoder."""

from collections import OrderedDict
from pathlib import Path

from torch import nn

from .checkpoints import Weights, check_keys

LAYERS = (0, 2, 4, 6, 7)
"""The numbers of the linear layers in the published files, which also count the dropouts between them."""

HIDDEN = (1024, 128, 64, 16, 1)


def load_head(weights: Weights, prefix: str, width: int, path: Path) -> nn.Sequential:
    """width → 1024 → 128 → 64 → 16 → 1, without activations, frozen, float32.

    Args:
        weights: those under `prefix` must be exactly the head's.
        path: where they come from, for messages.
    """
    head = new_head(width)
    own = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    check_keys(own, head.state_dict(), path)
    head.load_state_dict(own)
    return head.float().eval().requires_grad_(False)


def new_head(width: int) -> nn.Sequential:
    """One with random weights."""
    widths = (width, *HIDDEN)
    layers = {str(n): nn.Linear(a, b) for n, a, b in zip(LAYERS, widths, widths[1:], strict=False)}
    return nn.Sequential(OrderedDict(layers))
