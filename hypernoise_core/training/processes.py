"""The processes that train together: a sum and an agreement over them. One process alone pays nothing for it.

`torch.distributed` is used where it has been initialised (by `accelerate launch -m train`, say), and only then.
"""

from collections.abc import Iterable
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


def count() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0; 0 is the one that writes."""
    return dist.get_rank() if count() > 1 else 0


def sum_(tensors: Iterable[Tensor]) -> None:
    """Replace each tensor by its sum over all processes."""
    if count() > 1:
        for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()


def gather(value: T) -> list[T]:
    """Every process's `value`, in their order: small things, such as whether a stop was asked for."""
    if count() == 1:
        return [value]
    values: list[T] = [value] * count()
    dist.all_gather_object(values, value)
    return values
