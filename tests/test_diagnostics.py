"""Estimates on linear maps, whose KL terms and Lipschitz constants are known."""

import pytest
import torch

from hypernoise_core.diagnostics import exact_kl, local_lipschitz, noise_statistics, second_order_kl
from hypernoise_core.objective import PerSampleClip, kl_l2

N = 24


def matrix(seed=0, scale=0.1):
    return torch.randn(N, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * scale


def linear(a):
    return lambda x: (x.flatten(1) @ a.T).view(x.shape)


def noise(batch, seed=1):
    return torch.randn(batch, 2, 3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_second_order_kl_of_a_linear_map():
    a = matrix()
    estimate = second_order_kl(linear(a), noise(4000)).mean()
    expected = 0.5 * torch.trace(a @ a)
    spread = second_order_kl(linear(a), noise(4000)).std() / 4000**0.5
    assert abs(estimate - expected) < 4 * spread


def test_second_order_kl_of_a_shrink_is_exact_and_completes_the_kl():
    """x -> 0.8 x: the true KL is n (0.64 - 1) / 2 - n log 0.8; the L2 term alone misses half of it."""
    a = -0.2 * torch.eye(N, dtype=torch.float64)
    x = noise(20_000)
    second = second_order_kl(linear(a), x)
    assert torch.allclose(second, torch.full_like(second, 0.5 * N * 0.04))
    true = N * ((0.64 - 1) / 2 - torch.tensor(0.8).log())
    l2 = kl_l2(linear(a)(x)).mean()
    assert l2 < 0.5 * true
    assert l2 + second.mean() == pytest.approx(true.item(), rel=0.15)


def test_lipschitz_of_a_linear_map_is_its_largest_singular_value():
    a = matrix()
    estimate = local_lipschitz(linear(a), noise(3), iterations=100)
    assert torch.allclose(estimate, torch.linalg.matrix_norm(a, 2).expand(3), rtol=1e-3)


def test_lipschitz_differs_from_sample_to_sample():
    estimate = local_lipschitz(lambda x: x * x.abs().amax((1, 2, 3), keepdim=True).detach(), noise(2), iterations=50)
    assert torch.allclose(estimate, noise(2).abs().amax((1, 2, 3)), rtol=1e-3)


@pytest.mark.slow
def test_estimates_run_through_the_real_network(generator, hypernetwork, prompts):
    conditioning, x0 = generator.encode(prompts[:2]), generator.noise(2)

    def f(x):
        return hypernetwork(x, conditioning)

    step = 1e-2
    direction = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        stretch = (f(x0 + step * direction) - f(x0 - step * direction)).flatten(1).norm(dim=1) / (2 * step)
    lower = stretch / direction.flatten(1).norm(dim=1)
    assert (local_lipschitz(f, x0) > lower).all()
    assert second_order_kl(f, x0).isfinite().all()


def test_kl_is_a_sum_in_nats_or_the_references_mean():
    delta = torch.full((2, 4, 8, 8), 0.5)
    assert torch.allclose(kl_l2(delta), torch.full((2,), 0.5 * 256 * 0.25))
    assert torch.allclose(kl_l2(delta, "mean"), torch.full((2,), 0.5 * 0.25))
    assert kl_l2(delta.bfloat16()).dtype == torch.float32


def test_gradients_are_clipped_sample_by_sample_and_only_there():
    x = torch.zeros(2, 3, requires_grad=True)
    clip = PerSampleClip(1.0)
    weights = torch.tensor([[3.0, 0.0, 4.0], [0.1, 0.0, 0.0]])
    loss = (clip.attach(x) * weights).sum() + (x * 10).sum()
    loss.backward()
    assert torch.allclose(x.grad - 10, torch.tensor([[0.6, 0.0, 0.8], [0.1, 0.0, 0.0]]), atol=1e-6)
    assert clip.clipped_fraction == 0.5
    assert torch.allclose(clip.norms, torch.tensor([5.0, 0.1]))


def test_the_clip_is_that_of_a_samples_own_loss():
    x = torch.zeros(4, 3, requires_grad=True)
    clip = PerSampleClip(1.0, share=1 / 4)
    (clip.attach(x) * 5).sum(1).mean().backward()
    assert torch.allclose(clip.norms, torch.full((4,), 5 * 3**0.5))
    assert torch.allclose(x.grad.norm(dim=1), torch.full((4,), 1 / 4))


def test_noise_statistics_of_unit_noise():
    statistics = noise_statistics(torch.randn(64, 16, 8, 8, generator=torch.Generator().manual_seed(0)))
    assert statistics == pytest.approx({"noise_mean": 0, "noise_std": 1, "noise_norm": 1}, abs=0.02)


def test_the_exact_kl_of_a_linear_map():
    """x -> (I + A) x of unit noise is N(0, M) with M = (I + A)(I + A)ᵀ: KL = ½ (tr M - n - log det M)."""
    a = matrix(scale=0.15)
    m = (torch.eye(N) + a) @ (torch.eye(N) + a).T
    expected = 0.5 * (m.trace() - N - torch.logdet(m))
    terms = [exact_kl(linear(a), x[None]) for x in noise(3000)]
    mean = {name: sum(t[name] for t in terms) / len(terms) for name in terms[0]}
    assert mean["exact"] == pytest.approx(expected.item(), rel=0.05)
    assert mean["second_order"] == pytest.approx(0.5 * torch.trace(a @ a).item())
    assert mean["lipschitz"] == pytest.approx(torch.linalg.matrix_norm(a, 2).item())
    assert mean["exact"] == pytest.approx(mean["l2"] + mean["error"])


@pytest.mark.slow
def test_the_whole_jacobian_agrees_with_the_estimates(generator, hypernetwork, prompts):
    conditioning, x0 = generator.encode(prompts[:1]), generator.noise(1, 32, 32)

    def f(x):
        return hypernetwork(x, conditioning.rows([0] * len(x)))

    terms = exact_kl(f, x0)
    assert 0.9 < local_lipschitz(f, x0).item() / terms["lipschitz"] < 1.001
    assert terms["l2"] == pytest.approx(kl_l2(f(x0)).item(), rel=1e-4)
    assert abs(terms["error"]) < 5 * abs(terms["second_order"]) + 1e-3
