"""Run backward passes through ComfyUI's own modules, which were written for inference."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.autograd.graph import allow_mutation_on_saved_tensors
from torch.utils._pytree import tree_flatten, tree_unflatten


def leave_inference_mode(owners: Iterable[object]) -> None:
    """Replace inference tensors among parameters, buffers and attributes of `owners` with equal tensors that can be
    differentiated through. One at a time, so that there is never a second model in memory."""
    new: dict[int, tuple[Tensor, Tensor]] = {}
    for owner in owners:
        for place in (getattr(owner, "_parameters", {}), getattr(owner, "_buffers", {}), vars(owner)):
            for name, tensor in place.items():
                if torch.is_tensor(tensor) and tensor.is_inference():
                    if id(tensor) not in new:  # tied weights stay tied
                        copy = tensor.clone()
                        new[id(tensor)] = copy, tensor
                        if isinstance(tensor, nn.Parameter):
                            new[id(tensor)] = nn.Parameter(copy, requires_grad=False), tensor
                    place[name] = new[id(tensor)][0]


def each_with_mutations(events: Iterator) -> Iterator:
    """Yield `events`. While each is made (forward and backward pass), modules may overwrite tensors that the backward
    pass needs: FLUX adds residuals in place."""
    while True:
        with allow_mutation_on_saved_tensors():
            event = next(events, None)
        if event is None:
            return
        yield event


class Recomputation:
    """Gradient checkpointing of a module's blocks, which you can switch on and off.

    `torch.utils.checkpoint` does not work here. Without reentrance it silently returns wrong gradients if a block
    overwrites a tensor that it needs again. With reentrance it takes no keyword arguments.
    """

    def __init__(self):
        self._before: dict[nn.Module, Callable | None] = {}

    def wrap(self, root: nn.Module) -> None:
        """Make the blocks below `root` keep only their inputs, and run again in the backward pass."""
        for block in _blocks(root):
            self._before[block] = vars(block).get("forward")
            block.forward = partial(_recomputed, block.forward)

    def unwrap(self) -> None:
        """Restore all blocks."""
        for block, forward in self._before.items():
            if forward is None:
                vars(block).pop("forward", None)
            else:
                vars(block)["forward"] = forward
        self._before = {}


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost modules below this one that are called and hold layers. The children of a Sequential count
    separately, because UNets call them one by one."""
    for child in module.children():
        if isinstance(child, nn.Sequential) or type(child).forward is nn.Module.forward:
            yield from _blocks(child)
        elif any(True for _ in child.children()):
            yield child


def _recomputed(forward: Callable, *args, **kwargs):
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    leaves, tree = tree_flatten((args, kwargs))
    if any(map(_hides_gradients, leaves)):  # gradients would be lost: keep this block's activations instead
        return forward(*args, **kwargs)
    started = torch.zeros((), requires_grad=True)  # a block's own LoRA needs a gradient even if no input does
    return _Recomputed.apply(started, forward, tree, *leaves)


class _Recomputed(torch.autograd.Function):
    """Forward without a graph, on copies, because blocks overwrite their inputs. Backward through a new graph, where
    gradients of parameters are added to `.grad`. `each_with_mutations` keeps what a block overwrites in between;
    outside of it torch raises an error."""

    @staticmethod
    def forward(ctx, started, forward, tree, *leaves):
        ctx.call, ctx.tree = forward, tree
        ctx.others = [None if torch.is_tensor(leaf) else leaf for leaf in leaves]
        ctx.places = [i for i, leaf in enumerate(leaves) if torch.is_tensor(leaf)]
        ctx.save_for_backward(*(leaves[i] for i in ctx.places))
        return _call(forward, tree, [leaf.clone() if torch.is_tensor(leaf) else leaf for leaf in leaves])

    @staticmethod
    def backward(ctx, *slopes):
        leaves = list(ctx.others)
        wanted = []
        for place, tensor in zip(ctx.places, ctx.saved_tensors, strict=True):
            leaves[place] = tensor.detach()
            if ctx.needs_input_grad[3 + place]:
                leaves[place].requires_grad_()
                wanted.append(place)
        with torch.enable_grad():
            copies = [leaf.clone() if torch.is_tensor(leaf) else leaf for leaf in leaves]
            outputs = _call(ctx.call, ctx.tree, copies)
            outputs = (outputs,) if torch.is_tensor(outputs) else outputs
            pairs = [
                (o, s)
                for o, s in zip(outputs, slopes, strict=True)
                if torch.is_tensor(o) and o.requires_grad and s is not None
            ]
            if pairs:
                torch.autograd.backward([o for o, _ in pairs], [s for _, s in pairs])
        return None, None, None, *(leaf.grad if i in wanted else None for i, leaf in enumerate(leaves))


def _hides_gradients(leaf) -> bool:
    """Whether this is an object of the model's own that holds tensors with gradients, such as FLUX's modulations."""
    return any(torch.is_tensor(value) and value.requires_grad for value in getattr(leaf, "__dict__", {}).values())


def _call(forward: Callable, tree, leaves: list):
    args, kwargs = tree_unflatten(leaves, tree)
    return forward(*args, **kwargs)
