"""Measure what the L2 penalty leaves out: the rest of the KL, the Lipschitz constant, and the statistics of the noise.

The KL of x -> x + f(x) from a unit Gaussian is ½E‖f‖² + E[tr J - log|det(I + J)|] (paper, equation 8). To second order
its second term is ½ tr J². The paper bounds that term for Lipschitz constants below 1 (theorem 1); this file measures
it.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

Map = Callable[[Tensor], Tensor]
"""A residual as a function of the noise: [B, …] -> [B, …]. Samples are independent of one another."""


def _linearize(f: Map, x: Tensor) -> tuple[Map, Map]:
    """(v -> J v, u -> Jᵀ u) of `f` at `x`, per sample. J v is computed exactly, as the gradient of <Jᵀ u, v> with
    respect to u. Any module that can be differentiated twice works."""
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
    """Hutchinson's estimate of ½ tr J(x)² with one probe per sample: [B]. Unbiased; average over many samples."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # fused attention cannot be differentiated twice
        jvp, vjp = _linearize(f, x)
        probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).sign().to(x)
        return 0.5 * (vjp(probe) * jvp(probe)).flatten(1).sum(1)


def local_lipschitz(f: Map, x: Tensor, iterations: int = 8, seed: int = 0) -> Tensor:
    """The largest singular value of J(x) per sample, [B], by power iteration on JᵀJ. It is a lower bound that tightens
    with `iterations`. Theorem 1 of the paper requires less than 1 everywhere."""
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        jvp, vjp = _linearize(f, x)
        v = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
        for _ in range(iterations):
            v = vjp(jvp(v / _norm(v)))
        return _norm(jvp(v / _norm(v))).flatten()


def jacobian(f: Map, x: Tensor, rows: int = 64) -> Tensor:
    """The whole J(x) of one sample `x` [1, …]: [D, D], rows are outputs and columns are inputs. It takes D backward
    passes of one sample, `rows` of them at a time: seconds for small latents (D about a thousand)."""
    x = x.detach().expand(rows, *x.shape[1:]).clone().requires_grad_()
    size = x[0].numel()
    with torch.enable_grad():
        y = f(x)
    parts = []
    for first in range(0, size, rows):
        count = min(rows, size - first)
        wanted = torch.zeros(rows, size, device=x.device, dtype=y.dtype)
        wanted[torch.arange(count), torch.arange(first, first + count)] = 1
        (pulled_back,) = torch.autograd.grad(y, x, wanted.view_as(y), retain_graph=True)
        parts.append(pulled_back[:count].flatten(1))
    return torch.cat(parts)


def exact_kl(f: Map, x: Tensor) -> dict[str, float]:
    """The terms of the KL at one sample `x` [1, …], in nats, from its whole Jacobian (paper, equation 8). `l2` is
    ½‖f‖², `error` is tr J - log|det(I + J)|, `exact` is their sum, `second_order` is ½ tr J². `lipschitz` is the
    largest singular value; `determinant_sign` is -1 where the map folds. Only the mean over samples is a KL."""
    j = jacobian(f, x).double()
    identity = torch.eye(len(j), dtype=j.dtype, device=j.device)
    sign, log_determinant = torch.linalg.slogdet(identity + j)
    with torch.no_grad():
        l2 = 0.5 * f(x).double().square().sum()
    error = j.trace() - log_determinant
    return {
        "l2": l2.item(),
        "error": error.item(),
        "exact": (l2 + error).item(),
        "second_order": 0.5 * (j * j.T).sum().item(),
        "lipschitz": torch.linalg.matrix_norm(j, 2).item(),
        "determinant_sign": sign.item(),
    }


def noise_statistics(x: Tensor) -> dict[str, float]:
    """Mean, standard deviation and root-mean-square norm (divided by √dim) of noise [B, C, h, w]: 0, 1 and 1 for unit
    Gaussian noise."""
    x = x.float()
    norm = x.flatten(1).square().mean().sqrt()
    return {"noise_mean": x.mean().item(), "noise_std": x.std().item(), "noise_norm": norm.item()}
