"""Models of any size without memory: tensors that have shapes, and no data."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.autograd import graph
from transformers.initialization import no_init_weights

_storage_address = torch._C._storage_address  # type: ignore[attr-defined]


@contextmanager
def without_data() -> Iterator[FakeTensorMode]:
    """Tensors that are made inside have shapes, and no data."""

    def apply(module: nn.Module, change: Callable, recurse: bool = True) -> nn.Module:
        """`nn.Module._apply`, which fills or swaps parameters in place: fake ones refuse both."""
        for child in module.children() if recurse else ():
            apply(child, change)
        for name, parameter in module._parameters.items():
            if parameter is not None and (changed := change(parameter)) is not parameter:
                module._parameters[name] = nn.Parameter(changed.detach(), parameter.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = buffer if buffer is None else change(buffer)
        return module

    own = nn.Module._apply
    nn.Module._apply = apply  # type: ignore[method-assign]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, no_init_weights():
            yield mode
    finally:
        nn.Module._apply = own  # type: ignore[method-assign]


@contextmanager
def allow_mutation() -> Iterator[None]:
    """torch's `allow_mutation_on_saved_tensors`, for tensors without data as well: it tells tensors apart by where
    their data lies, so those that have none are all one to it."""

    def where(tensor: Tensor) -> tuple[int, int]:
        return _storage_address(tensor), tensor._version

    own = graph._get_tid, graph._get_sid
    graph._get_tid, graph._get_sid = lambda tensor: (id(tensor), *where(tensor)), where
    try:
        with graph.allow_mutation_on_saved_tensors():
            yield
    finally:
        graph._get_tid, graph._get_sid = own


class Numbers(list):
    """Python numbers with what ancestral schedulers ask of a tensor."""

    def max(self) -> float:
        return max(self)


def with_numbers(make_scheduler: Callable) -> Callable:
    """Schedulers look at the values of their timesteps and sigmas, so these must have some."""

    def make(*args, **kwargs):
        with unset_fake_temporarily():
            scheduler = make_scheduler(*args, **kwargs)
            scheduler.timesteps, scheduler.sigmas = scheduler.timesteps.tolist(), Numbers(scheduler.sigmas.tolist())
            scheduler.set_begin_index(0)
        return scheduler

    return make
