"""A HyperNoise LoRA in a denoiser for the length of one call, without peft, without a clone, without touching a weight.

Training clones the denoiser and gives the clone a peft LoRA (`lora.py`). A host such as ComfyUI moves, offloads and
quantizes the weights of its denoiser as it likes, so for inference the LoRA goes where they are: each adapted layer
adds a low-rank branch to its output, and is afterwards what it was.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn


class LowRankBranch(nn.Module):
    """scale · B A x, the LoRA of one layer, as a module of its own.

    Args:
        layer: the Linear or Conv2d that it goes beside.
        a: [r, in] or [r, in, k, k]; `in` is never divided by the layer's groups, also where the layer is depthwise.
        b: [out, r] or [out, r, 1, 1].
        scale: alpha / rank.
        operations: a namespace with `Linear` and `Conv2d`: `torch.nn`, or a host's own classes that cast and offload.
    """

    def __init__(self, layer: nn.Module, a: Tensor, b: Tensor, scale: float, operations=nn):
        super().__init__()
        rank, width = a.shape[:2]
        if a.dim() == 2:
            self.down = operations.Linear(width, rank, bias=False, device="meta")
            self.up = operations.Linear(rank, len(b), bias=False, device="meta")
        else:
            how = {"stride": layer.stride, "padding": layer.padding, "dilation": layer.dilation}
            self.down = operations.Conv2d(width, rank, a.shape[2:], bias=False, device="meta", **how)
            self.up = operations.Conv2d(rank, len(b), 1, bias=False, device="meta")
        self.down.weight = nn.Parameter(a, requires_grad=False)
        self.up.weight = nn.Parameter(b * scale, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))


@contextmanager
def injected(
    denoiser: nn.Module, branches: Mapping[str, Callable[[Tensor], Tensor]], last_layer: str
) -> Iterator[None]:
    """Within the block, `denoiser` is f_φ: each named layer adds its branch, and `last_layer` gives its branch alone,
    as if its own weights were zero. However the block ends, the denoiser is afterwards as before."""
    before: dict[nn.Module, Callable | None] = {}
    try:
        for name, branch in branches.items():
            module = denoiser.get_submodule(name)
            before[module] = vars(module).get("forward")
            vars(module)["forward"] = branch if name == last_layer else _sum(module.forward, branch)
        yield
    finally:
        for module, forward in before.items():
            if forward is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = forward


def _sum(forward: Callable[..., Tensor], branch: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def both(x: Tensor, *args, **kwargs) -> Tensor:
        return forward(x, *args, **kwargs) + branch(x)

    return both
