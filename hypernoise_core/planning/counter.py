"""Bytes and floating-point operations of whatever runs, with or without data."""

import weakref
from collections import Counter as Sums
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

_attention = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attention_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
FLOPS = {
    **flop_registry,
    # Attention as torch runs it on a CPU, which its own table does not know:
    _attention: lambda q, k, v, *_, **__: sdpa_flop_count(q.shape, k.shape, v.shape),
    _attention_backward: lambda grad, q, k, v, *_, **__: sdpa_backward_flop_count(
        grad.shape, q.shape, k.shape, v.shape
    ),
}
"""Floating-point operations by operator."""

_storage_address = torch._C._storage_address  # type: ignore[attr-defined]
"""What `untyped_storage()._cdata` is, without an object in Python for each."""

ACTIVATIONS = "activations"
"""The kind of all that operations return."""


class Counter(TorchDispatchMode):
    """Floating-point operations, and the most bytes that tensors hold at a time: each storage once, of the tensors that
    it is shown and of all that operations return while it is on.

    Not `FlopCounterMode`: inside it, what was computed again for a backward pass stays alive.
    """

    def __init__(self, tensors: Iterable[Tensor] = ()):
        super().__init__()
        self.flops = self.now = self.peak = 0
        self.by_kind: Sums[str] = Sums()
        """Bytes that tensors hold now, by what they are."""
        self.peaks: dict[str, tuple[int, Sums[str]]] = {}
        """For each kind of weights: the most bytes held while an operation or those after it worked with them, and what
        they were."""
        self._part = ""
        self._known: dict[int, tuple[str, int]] = {}
        self.see(tensors)

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self._enter(args)
        result = function(*args, **(kwargs or {}))
        if (formula := FLOPS.get(function._overloadpacket)) is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        self.see(leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
        return result

    def see(self, tensors: Iterable[Tensor], kind: str = ACTIVATIONS, away: bool = False) -> None:
        """Count tensors as of a kind, those that are counted already as well. Those that are `away` are known, and
        count while they are `held` alone."""
        for tensor in tensors:
            key = _storage_address(tensor)
            if key in self._known and kind == ACTIVATIONS:
                continue
            storage = tensor.untyped_storage()
            size = 0 if away else storage.nbytes()
            if key not in self._known:
                self.now += size
                weakref.finalize(storage, self._forget, key)
            else:
                self.now += size - self._drop(key)
            self._known[key] = (kind, size)
            self.by_kind[kind] += size
        self._note()

    @contextmanager
    def held(self, tensors: Iterable[Tensor], kind: str) -> Iterator[None]:
        """Count tensors inside the block, which lie elsewhere outside of it."""
        size = sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())
        self.add(size, kind)
        try:
            yield
        finally:
            self.add(-size, kind)

    def add(self, size: int, kind: str) -> None:
        """Count bytes that no tensor here stands for."""
        self.now += size
        self.by_kind[kind] += size
        self._note()

    def _note(self) -> None:
        self.peak = max(self.peak, self.now)
        if self.now > self.peaks.get(self._part, (-1,))[0]:
            self.peaks[self._part] = self.now, Sums(self.by_kind)

    def _enter(self, args: tuple) -> None:
        """Note whose weights an operation takes."""
        for leaf in tree_leaves(args):
            if isinstance(leaf, Tensor):
                kind, _ = self._known.get(_storage_address(leaf), (ACTIVATIONS, 0))
                if kind != ACTIVATIONS and kind != self._part:
                    self._part = kind
                    self._note()
                    return

    def _drop(self, key: int) -> int:
        kind, size = self._known.pop(key)
        self.by_kind[kind] -= size
        return size

    def _forget(self, key: int) -> None:
        self.now -= self._drop(key)

    def shift(self, size: int, kind: str) -> None:
        """Count bytes as if they had been held all along."""
        self.add(size, kind)
        self.peak += size
        for part, (most, sums) in self.peaks.items():
            self.peaks[part] = most + size, sums + Sums({kind: size})
