"""Rewards and the search over noise that they drive."""

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import scene_for
from torch.nn import functional as F

from hypernoise_core import RewardEnsemble, best_of_n, load_reward, reno
from hypernoise_core.embedded.prompts import NUMBERS
from hypernoise_core.embedded.prompts import prompts as prompts_of_the_world
from hypernoise_core.embedded.scenes import SHAPES, draw
from hypernoise_core.rewards import check_weights, parse_rewards
from hypernoise_core.rewards.redness import Redness
from hypernoise_core.search import reno_path


def test_redness():
    pictures = torch.zeros(3, 3, 8, 8)
    pictures[0, 0] = 1
    pictures[1, 1] = 1
    pictures[2] = 0.7
    assert load_reward("redness").score(pictures, None) == pytest.approx([1.0, -0.5, 0.0], abs=1e-6)


def test_the_embedded_reward_knows_what_belongs_to_what(reward):
    """Drawn scenes score higher under their own prompt than under its near misses."""
    rng = np.random.default_rng(0)
    wins = []
    for held_out in (False, True):
        for prompt in prompts_of_the_world(held_out):
            misses = near_misses(prompt)
            scene = torch.from_numpy(draw(scene_for(prompt, rng))).permute(2, 0, 1)[None]
            texts = [prompt.text, *misses]
            own, *others = reward.score(scene.expand(len(texts), -1, -1, -1), reward.encode_text(texts)).tolist()
            wins += [own > other for other in others]
    assert len(wins) > 150
    assert np.mean(wins) > 0.85


def near_misses(prompt):
    """The prompt with its colours swapped, another number or another shape."""
    words = prompt.text.split()
    if prompt.category == "color_attr":
        words[4], words[8] = words[8], words[4]
        return [" ".join(words)]
    if prompt.category == "counting":
        return [prompt.text.replace(words[3], number) for number in NUMBERS if number != words[3]]
    return [prompt.text.replace(want.shape, s) for want in prompt.wants for s in SHAPES if s not in prompt.text]


def test_a_batch_equals_its_singles_and_text_is_cached(reward):
    pictures = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    text = reward.encode_text(["a red square", "two crosses", "a triangle"])
    batch = reward.score(pictures, text)
    singles = torch.cat([reward.score(pictures[i : i + 1], text.rows([i])) for i in range(3)])
    assert torch.allclose(batch, singles, atol=1e-4)


@pytest.mark.parametrize("shape", [(64, 96), (200, 100), (40, 64)])
def test_pictures_of_any_shape_are_scored(reward, shape):
    pictures = torch.rand(1, 3, *shape, requires_grad=True)
    score = reward.score(pictures, reward.encode_text(["a red square"]))
    assert torch.autograd.grad(score.sum(), pictures)[0].abs().max() > 0


def test_an_ensemble_adds_what_its_rewards_say(reward):
    ensemble = RewardEnsemble([(reward, 2.0), (Redness(), -3.0)])
    pictures = torch.rand(2, 3, 64, 64)
    text = ensemble.encode_text(["a red square", "two crosses"])
    apart = ensemble.scores(pictures, text)
    assert torch.allclose(ensemble.score(pictures, text), 2 * apart["embedded"] - 3 * apart["redness"])


def test_your_own_reward_is_a_file_with_a_class(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(
        "from hypernoise_core import Reward\n"
        "class Brightness(Reward):\n"
        "    def score(self, images, text):\n"
        "        return images.mean((1, 2, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    ensemble = parse_rewards("redness=100, my_rewards:Brightness=0.5")
    assert ensemble.weights == {"redness": 100.0, "brightness": 0.5}
    assert ensemble.score(torch.ones(1, 3, 4, 4), ensemble.encode_text(["x"])) == pytest.approx([0.5])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("beauty", "unknown reward 'beauty'"),
        ("redness=lots", "not a number"),
        ("redness=0", "no reward has a weight"),
        ("redness,redness", "twice"),
        ("", "no reward has a weight"),
        ("nowhere:Thing", "does not load"),
        ("json:JSONDecoder", "not a subclass"),
    ],
)
def test_wrong_rewards_are_named(names, message):
    with pytest.raises(ValueError, match=message):
        parse_rewards(names)


def test_best_of_n_keeps_each_rows_best(generator, prompts):
    reward = Redness()
    x0 = torch.stack([generator.noise(2, seed=s) for s in range(5)])
    conditioning, text = generator.encode(prompts[:2]), reward.encode_text(prompts[:2])
    found = best_of_n(generator, reward, x0, conditioning, text)
    with torch.no_grad():
        scores = torch.stack([reward.score(generator.generate(x, conditioning), text) for x in x0])
    best = scores.argmax(0)
    assert torch.equal(found.scores, scores.max(0).values)
    assert torch.equal(found.x0, torch.stack([x0[best[i], i] for i in range(2)]))
    assert torch.equal(found.images, generator.generate(found.x0, conditioning))


def test_reno_finds_better_noise_and_starts_from_what_it_was_given(generator, prompts):
    reward, x0 = Redness(), generator.noise(2, seed=1)
    conditioning, text = generator.encode(prompts[:2]), reward.encode_text(prompts[:2])
    start = reno(generator, reward, x0, conditioning, text, iterations=0)
    assert torch.equal(start.x0, x0)
    found = reno(generator, reward, x0, conditioning, text, iterations=6)
    assert (found.scores > start.scores).all()
    assert found.x0.std() == pytest.approx(1, abs=0.1)
    assert not generator.denoiser.training


def test_searches_begin_where_a_hypernetwork_leads(generator, hypernetwork, prompts):
    reward = Redness()
    x0 = torch.stack([generator.noise(2, seed=s) for s in range(3)])
    conditioning, text = generator.encode(prompts[:2]), reward.encode_text(prompts[:2])
    start = partial(hypernetwork.modulate, strength=1.5)
    with torch.no_grad():
        moved = torch.stack([x + 1.5 * hypernetwork(x, conditioning) for x in x0])
    assert (moved - x0).abs().max() > 1e-3
    expected = best_of_n(generator, reward, moved, conditioning, text)
    found = best_of_n(generator, reward, x0, conditioning, text, start=start)
    assert torch.equal(found.images, expected.images)
    assert torch.equal(found.x0, moved[found.index, torch.arange(2)])
    with torch.no_grad():  # callers that only look at pictures have it off
        bests = list(reno_path(generator, reward, x0[0], conditioning, text, iterations=3, start=start))
    assert len(bests) == 4
    assert torch.equal(bests[0].x0, moved[0])
    assert all((b.scores >= a.scores).all() for a, b in pairwise(bests))
    assert torch.equal(bests[2].x0, reno(generator, reward, moved[0], conditioning, text, iterations=2).x0)
    assert not any(parameter.grad is not None for parameter in hypernetwork.parameters())


def test_searches_name_what_they_cannot_do(generator, prompts):
    reward, x0 = Redness(), generator.noise(1)
    conditioning, text = generator.encode(prompts[:1]), reward.encode_text(prompts[:1])
    with pytest.raises(ValueError, match="at least one"):
        best_of_n(generator, reward, x0[:0], conditioning, text)
    with pytest.raises(ValueError, match="iterations is -1"):
        reno(generator, reward, x0, conditioning, text, iterations=-1)


def test_clip_preprocessing_is_resize_crop_and_normalise(reward):
    """Against the same steps written out: short side to 64, centre crop, CLIP's statistics."""
    pictures = torch.rand(1, 3, 128, 160, generator=torch.Generator().manual_seed(0))
    small = F.interpolate(pictures, (64, 80), mode="bicubic", antialias=True)[..., 8:72]
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)
    features = reward.backbone.model.get_image_features(pixel_values=(small - mean) / std).pooler_output
    assert torch.allclose(reward.backbone.image_features(pictures), F.normalize(features, dim=-1), atol=1e-6)
    assert np.isfinite(features.numpy()).all()


@pytest.mark.parametrize(("name", "file"), [("clip", "model.safetensors"), ("hpsv2", "HPS_v2.1_compressed.pt")])
def test_a_pointer_of_git_lfs_in_place_of_a_rewards_weights_is_told_before_it_is_read(tmp_path, name, file):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / file).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    with pytest.raises(ValueError, match=f"{file} holds no data, it is a pointer of git-lfs"):
        check_weights(name, tmp_path)
