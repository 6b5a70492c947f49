"""The critic at inference: what it says of noises, how it chooses and refines, and its part of a file."""

import pytest
import torch
from conftest import randomized_head
from safetensors import safe_open
from safetensors.torch import save_file

from hypernoise_core import HeadHypernetwork, load_hypernetwork
from hypernoise_core.hypernetworks.critic import Critic, another
from hypernoise_core.hypernetworks.critic_network import CriticNetwork
from hypernoise_core.hypernetworks.drawing import Modulation, draw
from hypernoise_core.hypernetworks.head_network import HeadShape
from hypernoise_core.reading import Reading

SHAPE = HeadShape(channels=4, features=6, width=32, depth=1, patch=2, feature_cell=2)


def network(shape=SHAPE, members=2):
    torch.manual_seed(0)
    return CriticNetwork(shape, members).requires_grad_(False)


def reading_of(x, cells, features=6):
    """A reading of random numbers, with features in cells of so many latent cells."""
    random = torch.Generator().manual_seed(1)
    grid = torch.randn(len(x), features, x.shape[-2] // cells, x.shape[-1] // cells, generator=random)
    return Reading(torch.randn(x.shape, generator=random), grid)


@pytest.fixture(scope="module")
def known(generator):
    """A head with a critic, both of random weights."""
    head = randomized_head(HeadHypernetwork.new(generator, width=32, depth=1))
    head.critic = Critic(network(head.info.shape), generator.read)
    return head


@pytest.mark.parametrize("size", [(8, 8), (4, 12), (10, 6)])
@torch.no_grad()
def test_a_batch_scores_as_its_pictures_do(size):
    critic, x = network(), torch.randn(3, 4, *size, generator=torch.Generator().manual_seed(0))
    reading = reading_of(x, 2)
    together = critic(x, reading)
    assert together.shape == (3,)
    assert together.std() > 1e-3
    for i in range(3):
        alone = critic(x[i : i + 1], Reading(reading.prediction[i : i + 1], reading.features[i : i + 1]))
        assert torch.allclose(alone, together[i : i + 1], atol=1e-5)


@torch.no_grad()
def test_features_finer_than_its_tokens_are_pooled_to_them():
    critic, x = network(), torch.randn(2, 4, 8, 12)
    fine = reading_of(x, 1)
    pooled = critic.pooled(fine)
    assert pooled.features.shape == (2, 6, 4, 6)
    assert torch.allclose(pooled.features[0, 0, 1, 2], fine.features[0, 0, 2:4, 4:6].mean(), atol=1e-6)
    assert critic.pooled(pooled) is pooled
    assert torch.equal(critic(x, fine), critic(x, pooled))


@torch.no_grad()
def test_scores_are_in_the_rewards_units_and_the_bound_is_below_them():
    critic, x = network(), torch.randn(5, 4, 8, 8)
    reading = reading_of(x, 2)
    own = critic.standardised(x, reading)
    critic.mean.fill_(3.0), critic.std.fill_(0.5)
    assert torch.allclose(critic(x, reading), 3 + 0.5 * own.mean(0), atol=1e-6)
    expected, bound = critic.with_bound(x, reading)
    less = expected - bound
    assert torch.equal(critic(x, reading), expected)
    assert torch.allclose(less, 0.25 * (own[0] - own[1]).abs(), atol=1e-6)
    assert (less > 0).all()


@torch.no_grad()
def test_it_chooses_what_it_expects_the_most_of(generator, known, prompts):
    x0, conditioning = generator.noise(3, seed=1), generator.encode(prompts[:3])
    every = torch.stack([x0, *(another(x0, i) for i in (1, 2, 3))])
    expected = torch.stack([known.critic.score(x, conditioning) for x in every])
    wanted = torch.stack([every[best, i] for i, best in enumerate(expected.argmax(0).tolist())])
    found = known.critic.choose(x0, conditioning, 4)
    assert torch.equal(found.noise, wanted)
    assert torch.equal(found.before, expected[0])
    assert torch.equal(found.after, expected.amax(0))
    assert not torch.equal(wanted, x0)
    assert known.critic.choose(x0, conditioning, 1).noise is x0
    with pytest.raises(ValueError, match="candidates is 0"):
        known.critic.choose(x0, conditioning, 0)


def test_other_candidates_follow_from_a_noise_alone(generator):
    x0 = generator.noise(2, seed=1)
    found = another(x0, 1)
    assert torch.equal(another(x0[1:], 1), found[1:])
    assert not torch.equal(another(x0, 2), found)
    many = torch.cat([another(generator.noise(1, seed=seed), 1) for seed in range(60)])
    assert abs(many.mean()) < 0.02
    assert abs(many.std() - 1) < 0.02
    same = torch.cat([generator.noise(1, seed=seed) for seed in range(60)])
    assert abs((many * same).mean()) < 0.02


def test_refining_climbs_the_bound_on_the_sphere_and_keeps_the_best(generator, known, prompts):
    x0, conditioning = generator.noise(2, seed=1), generator.encode(prompts[:2])

    def bound(x):
        with torch.no_grad():
            return known.critic.network.with_bound(x, generator.read(x, conditioning))[1]

    found = [known.critic.refine(x0, conditioning, k, lr=1.0) for k in (0, 1, 4, 8)]
    for x, before, after in found:
        assert torch.allclose(before, known.critic.score(x0, conditioning), atol=1e-5)
        assert torch.allclose(after, known.critic.score(x, conditioning), atol=1e-5)
    found = [x for x, _, _ in found]
    bounds = torch.stack([bound(x) for x in found])
    assert torch.equal(found[0], x0)
    assert (bounds.diff(dim=0) > -1e-5).all()
    assert (bounds[-1] > bounds[0] + 0.01).all()
    for x in found:
        assert torch.allclose(x.flatten(1).norm(dim=1), x0.flatten(1).norm(dim=1), rtol=1e-4)
    wild = known.critic.refine(x0, conditioning, 3, lr=1e4).noise
    assert (bound(wild) >= bound(x0) - 1e-5).all()
    with pytest.raises(ValueError, match="refine is -1"):
        known.critic.refine(x0, conditioning, -1)


@torch.no_grad()
def test_drawing_chooses_moves_and_refines_in_that_order(generator, known, prompts):
    x0, conditioning = generator.noise(2, seed=1), generator.encode(prompts[:2])
    how = Modulation(candidates=3, iterations=2, strength=0.5, refine=2)
    start, images = draw(generator, known, x0, conditioning, how=how)
    chosen = known.critic.choose(x0, conditioning, 3).noise
    wanted = known.critic.refine(known.modulate(chosen, conditioning, 0.5, 2), conditioning, 2).noise
    assert torch.equal(start, wanted)
    assert torch.equal(images, generator.generate(wanted, conditioning))


@pytest.mark.parametrize("asked", [{"candidates": 2}, {"refine": 1}])
def test_a_hypernetwork_without_a_critic_is_refused(generator, head, asked):
    with pytest.raises(ValueError, match="saved without a critic, which candidates and refine ask"):
        Modulation(**asked).check(generator, head, 1)


def test_a_free_reading_leaves_nothing_for_a_critic(generator, known):
    with pytest.raises(ValueError, match="free_reading makes no call"):
        Modulation(free_reading=True, refine=1).check(generator, known, 2)


def test_a_file_brings_its_critic(generator, known, prompts, tmp_path):
    known.critic.network.mean.fill_(1.5), known.critic.network.std.fill_(0.25)
    known.save(tmp_path / "a.safetensors")
    read = load_hypernetwork(generator, tmp_path / "a.safetensors")
    x0, conditioning = generator.noise(2, seed=1), generator.encode(prompts[:2])
    kept = read.critic.score(x0, conditioning)
    assert torch.allclose(kept, known.critic.score(x0, conditioning), atol=0.25 * 0.02)  # weights in bfloat16
    assert not torch.equal(kept[:1], kept[1:])
    with torch.no_grad():
        assert torch.equal(read(x0, conditioning), known(x0, conditioning))
    read.save(tmp_path / "b.safetensors")
    again = load_hypernetwork(generator, tmp_path / "b.safetensors")
    assert torch.equal(again.critic.score(x0, conditioning), kept)


def spoiled(path, target, header=(), tensors=()):
    """A copy of a head's file with some header entries and tensors changed; None removes one."""
    with safe_open(path, framework="pt") as file:
        metadata = dict(file.metadata())
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for into, changes in ((metadata, dict(header)), (weights, dict(tensors))):
        for key, value in changes.items():
            if value is None:
                del into[key]
            else:
                into[key] = value
    save_file(weights, target, metadata)
    return target


OUT = "critic.members.1.out.2.bias"
HEADERS = [f"hypernoise.critic{end}" for end in ("s", "_width", "_depth", "_patch", "_feature_cell")]
HOSTILE = {
    "no header": (dict.fromkeys(HEADERS), {}),
    "weights missing": ({}, {OUT: None}),
    "a weight more": ({}, {"critic.members.7.out.2.bias": torch.zeros(1)}),
    "more members": ({"hypernoise.critics": "3"}, {}),
    "no members": ({"hypernoise.critics": "0"}, {}),
    "many members": ({"hypernoise.critics": "1000000"}, {}),
    "members in words": ({"hypernoise.critics": "two"}, {}),
    "another width": ({"hypernoise.critic_width": "64"}, {}),
    "a huge width": ({"hypernoise.critic_width": "99999999"}, {}),
    "an odd width": ({"hypernoise.critic_width": "33"}, {}),
    "width missing": ({"hypernoise.critic_width": None}, {}),
    "another depth": ({"hypernoise.critic_depth": "2"}, {}),
    "another patch": ({"hypernoise.critic_patch": "8"}, {}),
    "a cell that does not divide": ({"hypernoise.critic_feature_cell": "3"}, {}),
    "not finite": ({}, {OUT: torch.full((1,), float("nan"))}),
    "infinite mean": ({}, {"critic.mean": torch.tensor(float("inf"))}),
    "no spread": ({}, {"critic.std": torch.zeros(())}),
    "a spread below zero": ({}, {"critic.std": torch.tensor(-1.0)}),
    "whole numbers": ({}, {OUT: torch.zeros(1, dtype=torch.int64)}),
    "a shape that lies": ({}, {OUT: torch.zeros(2)}),
    "mean of a vector": ({}, {"critic.mean": torch.zeros(3)}),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_damaged_critic_is_refused_in_a_sentence(generator, known, tmp_path, case):
    known.save(tmp_path / "whole.safetensors")
    file = spoiled(tmp_path / "whole.safetensors", tmp_path / "spoiled.safetensors", *HOSTILE[case])
    with pytest.raises(ValueError, match=r"spoiled.safetensors (is|has|holds) ") as caught:
        load_hypernetwork(generator, file)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)


def test_the_critic_may_be_left_out(generator, known, prompts, tmp_path):
    known.save(tmp_path / "whole.safetensors")
    with safe_open(tmp_path / "whole.safetensors", framework="pt") as file:
        critics = [name for name in file.keys() if name.startswith("critic.")]  # noqa: SIM118
    without = spoiled(
        tmp_path / "whole.safetensors",
        tmp_path / "without.safetensors",
        dict.fromkeys(HEADERS),
        dict.fromkeys(critics),
    )
    read = load_hypernetwork(generator, without)
    x0, conditioning = generator.noise(2, seed=1), generator.encode(prompts[:2])
    assert read.critic is None
    with torch.no_grad():
        assert torch.equal(read(x0, conditioning), known(x0, conditioning))
