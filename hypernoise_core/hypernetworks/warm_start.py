"""A closed-form first step for a noise hypernetwork: its last layer, solved for instead of searched for.

While f_φ is zero, the objective is ½‖Δ‖² - <Δ, g> to first order, g the (clipped) gradient of r / α at x0. Over all
residuals that are linear in what the last layer receives, its minimiser is a ridge regression of g on those features.
Gradient descent on the LoRA finds that solution late, because the features are far from isotropic and most of each
picture's gradient is noise to them; what it learns beyond them starts from there.
"""

from typing import cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional as F

from ..batch import TensorBatch
from .lora import LoraHypernetwork
from .lora_clone import ADAPTER

RIDGE = 1e-5
"""Of the mean diagonal of the features' Gram matrix."""


class LastLayerRegression:
    """Gathers batches of wanted residuals, then writes the regression into the last layer's LoRA."""

    def __init__(self, hypernetwork: LoraHypernetwork):
        self.hypernetwork = hypernetwork
        self.layer = cast(LoraLayer, hypernetwork.network.get_submodule(hypernetwork.last_layer))
        weight = self.layer.get_base_layer().weight.flatten(1)  # [out, in]
        self.gram = torch.zeros(weight.shape[1], weight.shape[1], device=weight.device)
        self.cross = torch.zeros(weight.shape[1], weight.shape[0], device=weight.device)
        """Sums over what was added, float32: they add up over processes too."""

    def add(self, x0: Tensor, conditioning: TensorBatch, wanted: Tensor) -> None:
        """Take in a batch: noises and the residuals [B, C, h, w] wanted for them."""
        received: list[Tensor] = []
        probes: list[Tensor] = []

        def probe(module, args, output):
            received.append(args[0].detach())
            probes.append(torch.zeros_like(output, requires_grad=True))
            return output.detach() + probes[0]

        handle = self.layer.register_forward_hook(probe)
        try:
            with torch.enable_grad():
                delta = self.hypernetwork(x0, conditioning)
            # From layer to residual is a rearrangement, known to the family alone: its transpose undoes it.
            (at_layer,) = torch.autograd.grad(delta, probes[0], wanted.to(delta.dtype))
        finally:
            handle.remove()
        features, targets = self._inputs(received[0].float()), self._outputs(at_layer.float())
        self.gram += features.T @ features
        self.cross += features.T @ targets

    @torch.no_grad()
    def solve_(self) -> None:
        """Set the last layer's LoRA to the regression, or to its best approximation of the LoRA's rank; nothing added
        leaves it as it is."""
        if not self.gram.any():
            return
        gram = self.gram.double()
        ridge = RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weight = torch.linalg.solve(gram + ridge, self.cross.double()).T.float()  # [out, in]
        a, b = self.layer.lora_A[ADAPTER].weight, self.layer.lora_B[ADAPTER].weight
        left, size, right = torch.linalg.svd(weight, full_matrices=False)
        count = min(len(a), len(size))
        length = a.flatten(1).norm(dim=1).mean()  # as the Gaussian rows that it replaces
        a[:count] = (length * right[:count]).view(count, *a.shape[1:])
        b.zero_()
        b[:, :count] = (left[:, :count] * size[:count] / (length * self.layer.scaling[ADAPTER])).view(
            -1, count, *b.shape[2:]
        )

    @torch.no_grad()
    def scale_(self, factor: float) -> None:
        """Multiply the hypernetwork's residual by `factor`."""
        self.layer.lora_B[ADAPTER].weight.mul_(factor)

    def _inputs(self, x: Tensor) -> Tensor:
        """What each output value is linear in: [N, in]."""
        base = self.layer.get_base_layer()
        if isinstance(base, nn.Linear):
            return x.flatten(0, -2)
        columns = F.unfold(x, base.kernel_size, base.dilation, base.padding, base.stride)
        return columns.transpose(1, 2).flatten(0, 1)

    def _outputs(self, y: Tensor) -> Tensor:
        """The layer's output in the same order: [N, out]."""
        base = self.layer.get_base_layer()
        return y.flatten(0, -2) if isinstance(base, nn.Linear) else y.flatten(2).transpose(1, 2).flatten(0, 1)
