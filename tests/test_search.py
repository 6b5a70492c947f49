"""Searches that stay on what noise looks like, and end where they leave it."""

import json
import re
from functools import partial

import pytest
import torch
from toy_world import ToyGenerator, ToyReward

from hypernoise_core import HeadHypernetwork, Reward, RewardEnsemble, best_of_n, load_reward
from hypernoise_core.hypernetworks.critic import Critic
from hypernoise_core.hypernetworks.critic_network import CriticNetwork
from hypernoise_core.objective import PerSampleClip
from hypernoise_core.search import check_search, random_path, reno_path, search_path, zero_order_path
from hypernoise_core.white_noise import (
    CRITIC_REACH,
    DEVIATION,
    MEAN,
    REACH,
    NoiseLimits,
    _blocks,
    kurtosis,
    neighbours,
    whiten,
)
from train import generate

PROMPTS = ["two crosses", "a red square", "a blue square"]


@pytest.fixture(scope="module")
def toy():
    """(generator, reward, x0, conditioning, text), as searches take them."""
    generator, reward = ToyGenerator(), ToyReward()
    x0 = torch.cat([generator.noise(1, seed=seed) for seed in range(3)])
    return generator, reward, x0, generator.encode(PROMPTS), reward.encode_text(PROMPTS)


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [(8, 8), (16, 12), (5, 7), (64, 64), (1, 3)])
def test_every_block_of_frequencies_becomes_as_strong_as_noise(size):
    """Of a smooth field; and a mirror image is in its frequency's block, so that nothing imaginary is lost."""
    smooth = noise(2, 3, *size).cumsum(-1).cumsum(-2)
    white, blocks = whiten(smooth), _blocks(*size)
    magnitudes = torch.fft.fft2(white, norm="ortho").abs().flatten(-2)
    for block in blocks.unique():
        own = magnitudes[..., blocks == block]
        if own.shape[-1] > 4:
            assert torch.allclose(own.mean(-1), torch.full((2, 3), MEAN), atol=0.3)
            assert torch.allclose(own.std(-1, unbiased=False), torch.full((2, 3), DEVIATION), atol=0.3)
    grid = torch.arange(blocks.numel()).view(size)
    mirrored = torch.roll(grid.flip(0, 1), (1, 1), (0, 1)).flatten()
    assert torch.equal(blocks, blocks[mirrored])


def test_white_noise_stays_and_a_smooth_field_becomes_noise():
    x = noise(4, 16, 32, 32)
    assert (whiten(x) - x).norm() < 0.35 * x.norm()
    assert (whiten(whiten(x)) - whiten(x)).norm() < 0.02 * x.norm()
    smooth = torch.nn.functional.avg_pool2d(x, 3, 1, 1)
    assert (neighbours(smooth) > 0.6).all()
    assert (neighbours(whiten(smooth)) < 0.2).all()
    assert torch.allclose(whiten(smooth).square().mean((1, 2, 3)), torch.ones(4), atol=0.05)
    assert whiten(torch.zeros(1, 2, 4, 4)).isfinite().all()


def test_kurtosis_and_neighbours_are_what_they_say():
    x = noise(2, 16, 64, 64)
    assert torch.allclose(kurtosis(x), torch.full((2,), 3.0), atol=0.1)
    assert torch.allclose(neighbours(x), torch.zeros(2), atol=0.02)
    assert kurtosis(x**3).min() > 10
    assert torch.allclose(neighbours(torch.ones(1, 1, 4, 4)), torch.ones(1))


def test_reno_along_white_noise_climbs_and_keeps_the_norm(toy):
    x0 = toy[2]
    *_, best = reno_path(*toy, iterations=10, lr=20.0, white=True)
    *_, plain = reno_path(*toy, iterations=10, lr=20.0)
    first = next(reno_path(*toy, iterations=10))
    assert (best.scores > first.scores).all()
    assert torch.allclose(best.x0.flatten(1).norm(dim=1), x0.flatten(1).norm(dim=1), rtol=1e-4)
    assert neighbours(best.x0).abs().mean() < neighbours(plain.x0).abs().mean()
    moved = (best.x0 - x0).flatten(1).norm(dim=1) / x0.flatten(1).norm(dim=1)
    assert (moved < 1.01 * REACH).all()
    assert ((plain.x0 - x0).flatten(1).norm(dim=1) / x0.flatten(1).norm(dim=1) > 1.5 * REACH).all()


class Words(Reward):
    """What answers in numbers that have no gradient."""

    name, differentiable = "words", False

    def score(self, images, text):
        return (images[:, 0].mean((1, 2)) * 50).round()


def test_a_search_without_gradients_takes_any_reward(toy):
    generator, _, x0, conditioning, text = toy
    arguments = (generator, Words(), x0, conditioning, text)
    for search in ("zero-order", "random"):
        bests = list(search_path(search, *arguments, 12))
        scores = torch.stack([best.scores for best in bests])
        assert len(bests) == 13
        assert (scores[1:] >= scores[:-1]).all()
        assert scores[-1].sum() > scores[0].sum()
    for search in ("reno", "reno-white"):
        with pytest.raises(ValueError, match=r"no gradient, which ReNO follows: search without one .*zero-order"):
            next(search_path(search, *arguments))
        with pytest.raises(ValueError, match=r"reward words has no gradient, .*teacher critic on it and refine by"):
            check_search(search, RewardEnsemble([(Words(), 1.0), (load_reward("redness"), 1.0)]))
    with pytest.raises(ValueError, match="search is 'hill': choose from reno, reno-white, zero-order, random"):
        search_path("hill", *arguments)
    with pytest.raises(ValueError, match="iterations is -1"):
        next(search_path("random", *arguments, -1))


def test_zero_order_stays_around_the_best_and_on_noise(toy):
    generator, reward, x0, *_ = toy
    *_, best = zero_order_path(*toy, iterations=30)
    *_, drawn = random_path(*toy, iterations=30)
    assert best.scores.mean() > drawn.scores.mean()
    assert torch.allclose(best.x0.flatten(1).norm(dim=1), x0.flatten(1).norm(dim=1), rtol=1e-4)
    assert abs(kurtosis(best.x0).mean() - 3) < 0.5
    one = (generator, reward, x0[1:2], generator.encode(PROMPTS[1:2]), reward.encode_text(PROMPTS[1:2]))
    *_, alone = zero_order_path(*one, iterations=30)
    assert torch.allclose(alone.x0, best.x0[1:2], atol=1e-5)  # of a picture by itself


def test_every_search_begins_where_a_hypernetwork_leads(toy):
    generator, reward, x0, conditioning, text = toy
    f = HeadHypernetwork.new(generator, width=16, depth=1)
    with torch.no_grad():
        for parameter in f.parameters():
            parameter.copy_(noise(*parameter.shape) * 0.1)
    start = partial(f.modulate, strength=0.5)
    for search in ("reno", "reno-white", "zero-order", "random"):
        first = next(search_path(search, *toy, 2, start=start))
        assert torch.allclose(first.x0, start(x0, conditioning))
    *_, best = random_path(*toy, iterations=3, start=start)
    from hypernoise_core.noise import another

    noises = torch.stack([x0, *(another(x0, i) for i in (1, 2, 3))])
    assert torch.equal(best.scores, best_of_n(generator, reward, noises, conditioning, text, start=start).scores)


def test_a_search_ends_where_its_noise_is_none_any_more(toy):
    """A reward that wants one cell bright: its value grows without bound, and everything else stays."""
    limits = NoiseLimits()
    settings = dict(iterations=60, lr=60.0, regularization=0.0)
    free, kept = list(reno_path(*toy, **settings)), list(reno_path(*toy, **settings, limits=limits))
    assert len(kept) < len(free) == 61
    start = free[0].x0
    assert not limits.inside(free[-1].x0, start).all()
    assert limits.inside(kept[-1].x0, start).all()
    assert (kept[-1].scores >= kept[0].scores).all()
    assert len(list(search_path("reno", *toy, 60, lr=60.0))) < 61  # by default


def test_a_search_ends_where_a_held_out_reward_falls(toy):
    generator, reward, x0, conditioning, _ = toy

    class Against(ToyReward):
        name = "against"

        def score_features(self, features, text):
            return -super().score_features(features, text)

    watched = RewardEnsemble([(reward, 1.0)], held_out=[Against()])
    arguments = (generator, watched, x0, conditioning, watched.encode_text(PROMPTS))
    found = list(search_path("reno", *arguments, 20, limits=NoiseLimits(kurtosis=100, neighbours=1)))
    assert len(found) < 6
    assert torch.equal(found[-1].x0, found[0].x0)
    assert len(list(search_path("reno", *arguments, 20, limits=None))) == 21


def test_a_critic_refines_along_white_noise(toy):
    generator, _, x0, conditioning, _ = toy
    f = HeadHypernetwork.new(generator, width=16, depth=1)
    torch.manual_seed(0)
    network = CriticNetwork(f.info.shape, 2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    critic = Critic(network, generator.read)
    plain = critic.refine(x0, conditioning, 5, lr=50.0)
    white = critic.refine(x0, conditioning, 5, lr=50.0, white=True)
    assert (white.after >= white.before - 1e-6).all()
    assert not torch.allclose(plain.noise, white.noise)
    assert torch.allclose(white.noise.flatten(1).norm(dim=1), x0.flatten(1).norm(dim=1), rtol=1e-4)
    moved = (white.noise - x0).flatten(1).norm(dim=1) / x0.flatten(1).norm(dim=1)
    assert (moved < 1.01 * CRITIC_REACH).all()


def test_training_follows_a_white_gradient_at_its_own_norm():
    """And clips it as it clips any."""
    smooth = noise(3, 4, 16, 16).cumsum(-1)

    def given(**how):
        x = torch.zeros_like(smooth, requires_grad=True)
        (PerSampleClip(share=0.5, **how).attach(x) * smooth).sum().backward()
        return x.grad

    norms = smooth.flatten(1).norm(dim=1)
    white = given(max_norm=None, white=True)
    assert torch.allclose(white.flatten(1).norm(dim=1), norms, rtol=1e-3)
    assert (neighbours(white) < 0.5 * neighbours(smooth)).all()
    assert torch.equal(given(max_norm=None), smooth)
    clipped = given(max_norm=1.0, white=True).flatten(1).norm(dim=1)
    assert torch.allclose(clipped, torch.full((3,), 0.5), rtol=1e-3)


@pytest.mark.parametrize("search", ["reno-white", "zero-order", "random"])
def test_generate_searches_by_name(toy_model, tmp_path, monkeypatch, search):
    monkeypatch.chdir(tmp_path)
    line = [
        "--prompt=two crosses",
        "--model=toy",
        "--n=1",
        "--reno=3",
        f"--search={search}",
        "--reward=redness",
        "--save_dir=out",
    ]
    generate.main([*line, "--held_out=diversity"])
    (rows,) = json.loads((tmp_path / "out/scores.json").read_text())["0000"].values()
    assert rows[0]["redness"] >= rows[0]["before_reno"]
    assert "diversity" in rows[0]
    with pytest.raises(ValueError, match=re.escape("--search")):
        generate.main([*line, "--search=hill"])


def test_generate_refuses_to_follow_a_reward_without_a_gradient(toy_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_words.py").write_text(
        "from hypernoise_core import Reward\n\n\nclass Words(Reward):\n    differentiable = False\n\n"
        "    def score(self, images, text):\n        return images.mean((1, 2, 3))\n"
    )
    line = ["--prompt=two crosses", "--model=toy", "--n=1", "--reno=3", "--reward=my_words:Words", "--save_dir=out"]
    told = r"--reward words has no gradient, .*--search zero-order or random.*teacher critic on it and --refine by"
    with pytest.raises(ValueError, match=told):
        generate.main(line)
    assert not (tmp_path / "out").exists()
