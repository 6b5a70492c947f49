"""Training that goes on from a saved hypernetwork instead of from zero."""

from __future__ import annotations

import torch

from ..generators.base import Generator
from ..hypernetworks import Adapter, load_hypernetwork
from ..hypernetworks.head import HeadHypernetwork
from ..settings import Message

KINDS = {"noise": "lora"}
"""A kind in files to its setting's name, where they differ."""


@torch.no_grad()
def start_from(adapter: Adapter, generator: Generator, path: str) -> None:
    """Copy the weights of the hypernetwork at `path` into a new one, and what is known of its training.

    Raises:
        ValueError: it is of another kind or shape; the words name the setting.
    """
    found = load_hypernetwork(generator, path)
    theirs, ours = _shape(found), _shape(adapter)
    for name, there in theirs.items():
        if there != (here := ours.get(name)):
            raise ValueError(Message(f"{{}} has {{{name}}} {{}}, and this run {{}}", path, there, here))
    weights = found.named_parameters()
    for name, parameter in adapter.named_parameters().items():
        parameter.copy_(weights[name])
    adapter.training = found.training


def _shape(adapter: Adapter) -> dict[str, object]:
    """What a file's weights and the settings of a run must have in common, by the setting's name."""
    kind = {"hypernetwork": KINDS.get(adapter.kind, adapter.kind), "coarsen": getattr(adapter, "coarsen", 1)}
    if isinstance(adapter, HeadHypernetwork):
        shape = adapter.info.shape
        reads = "features" if shape.features else "prediction"
        return {**kind, "head_width": shape.width, "head_depth": shape.depth, "head_reads": reads}
    return {**kind, **{name: getattr(adapter, name) for name in ("rank", "alpha")}}
