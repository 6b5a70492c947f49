"""What the L2 penalty does not see: the rest of the KL, how far the map stretches, and whether noise stays noise.

KL of x -> x + f(x) from a unit Gaussian is ½E‖f‖² + E[tr J - log|det(I + J)|] (paper, equation 8), whose second term
is ½ tr J² to second order. The paper bounds it for Lipschitz constants below 1 (theorem 1); here it is measured.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Map = Callable[[Tensor], Tensor]
"""A residual as a function of the noise alone: [B, …] -> [B, …], samples independent of one another."""


def _linearize(f: Map, x: Tensor) -> tuple[Map, Map]:
    """(v -> J v, u -> Jᵀ u) of `f` at `x`, per sample. J v is the gradient of <Jᵀ u, v> in u: exact, and any module
    that can be differentiated twice will do."""
    x = x.detach().requires_grad_()
    y = f(x)
    u = torch.zeros_like(y, requires_grad=True)
    (pulled_back,) = torch.autograd.grad(y, x, u, create_graph=True)

    def jvp(v: Tensor) -> Tensor:
        return torch.autograd.grad(pulled_back, u, v, retain_graph=True)[0]

    def vjp(v: Tensor) -> Tensor:
        return torch.autograd.grad(y, x, v, retain_graph=True)[0]

    return jvp, vjp


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).clamp_min(1e-30).view(-1, *[1] * (x.dim() - 1))


def second_order_kl(f: Map, x: Tensor, seed: int = 0) -> Tensor:
    """Hutchinson's estimate of ½ tr J(x)² with one probe a sample: [B]. Unbiased; average over many samples."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention cannot be differentiated twice
        jvp, vjp = _linearize(f, x)
        probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).sign().to(x)
        return 0.5 * (vjp(probe) * jvp(probe)).flatten(1).sum(1)


def local_lipschitz(f: Map, x: Tensor, iterations: int = 8, seed: int = 0) -> Tensor:
    """The largest singular value of J(x) of each sample, [B], by power iteration on JᵀJ: a lower bound that tightens
    with `iterations`. Theorem 1 of the paper asks for less than 1 everywhere."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        jvp, vjp = _linearize(f, x)
        v = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
        for _ in range(iterations):
            v = vjp(jvp(v / _norm(v)))
        return _norm(jvp(v / _norm(v))).flatten()


def noise_statistics(x: Tensor) -> dict[str, float]:
    """Mean, standard deviation and root-mean-square norm (relative to √dim) of noise [B, C, h, w]: 0, 1 and 1 for
    unit Gaussian noise."""
    x = x.float()
    norm = x.flatten(1).square().mean().sqrt()
    return {"noise_mean": x.mean().item(), "noise_std": x.std().item(), "noise_norm": norm.item()}
