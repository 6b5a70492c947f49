"""The processes that train together: sums and agreement over them. A single process pays nothing for it.

`torch.distributed` is used only if it has been initialised, for example by `accelerate launch -m train`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ..device import is_of_memory
from ..settings import Message

BUCKET = 2**25
"""Numbers sent at a time (128 MB of float32)."""

T = TypeVar("T")


class LostProcessError(RuntimeError):
    """Another process of the run, on this machine or another, has ended or cannot be reached."""


def count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0. Process 0 writes files."""
    return dist.get_rank() if count() > 1 else 0


def sum_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor, all of one dtype, by its sum over all processes."""
    if count() > 1:
        for bucket in _buckets(tensors):
            flat = torch.cat([tensor.flatten() for tensor in bucket])
            with _all_alive():
                dist.all_reduce(flat)
            for tensor, total in zip(bucket, flat.split([t.numel() for t in bucket]), strict=True):
                tensor.copy_(total.view_as(tensor))


def _buckets(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Pack many small tensors into few messages, because each message has a fixed cost."""
    buckets: list[list[Tensor]] = []
    size = BUCKET
    for tensor in tensors:
        if size + tensor.numel() > BUCKET:
            buckets.append([])
            size = 0
        buckets[-1].append(tensor)
        size += tensor.numel()
    return buckets


def gather(value: T) -> list[T]:
    """Every process's `value`, in order. For small things, such as whether a stop was requested."""
    if count() == 1:
        return [value]
    values: list[T] = [value] * count()
    with _all_alive():
        dist.all_gather_object(values, value)
    return values


@contextmanager
def _all_alive() -> Iterator[None]:
    """Say in words what a backend says of its sockets."""
    try:
        yield
    except RuntimeError as error:
        if is_of_memory(error):
            raise
        raise LostProcessError(Message("another process of this run has ended or cannot be reached")) from error
