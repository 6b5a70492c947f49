"""The head: zero when made, any size, float32, its norm, strength and readings, its file and what it fits."""

import pytest
import torch
from conftest import randomized_head
from tiny_pipelines import PROMPTS, tiny_generator

from hypernoise_core import HeadHypernetwork, load_generator, load_hypernetwork
from hypernoise_core.hypernetworks.base import with_norm_of
from hypernoise_core.hypernetworks.head_file import HeadInfo, LatentSpace, read_head, write_head
from hypernoise_core.hypernetworks.head_network import MAX_TOLD, HeadNetwork, HeadShape, rotary_angles, rotated
from hypernoise_core.reading import Reading

SMALL = dict(width=32, depth=1)


@pytest.fixture(scope="module")
def pipelines():
    """Toy generators by family; sd-turbo's and sdxl-turbo's live in one latent space."""
    return {name: tiny_generator(name) for name in ("sd-turbo", "sdxl-turbo", "sana-sprint")}


@pytest.mark.parametrize("reads", ["features", "prediction"])
def test_exactly_zero_when_made(generator, prompts, reads):
    head = HeadHypernetwork.new(generator, **SMALL, reads=reads)
    x0, conditioning = generator.noise(2, seed=1), generator.encode(prompts[:2])
    delta = head(x0, conditioning)
    assert delta.shape == x0.shape
    assert torch.count_nonzero(delta) == 0
    assert torch.allclose(head.modulate(x0, conditioning, iterations=2), x0, atol=1e-6)


def network_on(height, width, patch, cell, features=6, batch=3):
    """(a network that is not zero, noise, a reading of it) for latents of that size."""
    torch.manual_seed(0)
    network = HeadNetwork(HeadShape(channels=4, features=features, width=32, depth=2, patch=patch, feature_cell=cell))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape))
    grid = torch.randn(batch, features, -(-height // cell), -(-width // cell)) if features else None
    return network, torch.randn(batch, 4, height, width), Reading(torch.randn(batch, 4, height, width), grid)


SIZES = [(8, 8, 1, 1), (4, 12, 1, 1), (5, 7, 2, 1), (9, 3, 4, 1), (1, 1, 2, 1), (6, 10, 4, 2), (2, 64, 8, 2)]
"""Height, width, patch and cell of the features: with sides that no patch divides."""


@pytest.mark.parametrize("features", [6, 0])
@pytest.mark.parametrize(("height", "width", "patch", "cell"), SIZES)
@torch.no_grad()
def test_any_size_and_a_batch_is_its_pictures(height, width, patch, cell, features):
    network, x, reading = network_on(height, width, patch, cell, features)
    delta = network(x, reading)
    assert delta.shape == x.shape
    assert delta.std() > 0.01
    for i in range(len(x)):
        grid = None if reading.features is None else reading.features[i : i + 1]
        alone = network(x[i : i + 1], Reading(reading.prediction[i : i + 1], grid))
        assert torch.allclose(alone, delta[i : i + 1], atol=1e-5)


@torch.no_grad()
def test_a_residual_lies_where_its_patch_does():
    """Tokens go out in the order that they came in by: with attention cut off, a patch depends on itself alone."""
    network, x, reading = network_on(6, 10, 2, 2)
    for layer in network.trunk.layers:
        layer.merge.weight.zero_()
    changed = x.clone()
    changed[..., 2:4, 6:8] += 1
    difference = (network(changed, reading) - network(x, reading)).abs().sum((0, 1))
    assert (difference[2:4, 6:8] > 0).all()
    difference[2:4, 6:8] = 0
    assert (difference == 0).all()


def test_positions_are_relative():
    """What attention makes of two tokens depends on their rows' and columns' distance, and not on the corner."""
    cos, sin = rotary_angles(6, 9, 8, torch.device("cpu"))
    q, k = torch.randn(2, 1, 1, 54, 8, generator=torch.Generator().manual_seed(0))[:, ..., :1, :].expand(2, 1, 1, 54, 8)
    scores = (rotated(q, (cos, sin)) @ rotated(k, (cos, sin)).mT).view(6, 9, 6, 9)
    assert torch.allclose(scores[:4, :6, :4, :6], scores[2:, 3:, 2:, 3:], atol=1e-5)
    assert not torch.allclose(scores[0, 0, 0, 1], scores[0, 0, 1, 0], atol=1e-3)
    assert not torch.allclose(scores[0, 0, 0, 1], scores[0, 1, 0, 0], atol=1e-3)


def test_float32_inside_a_bfloat16_model(generator, prompts):
    half = load_generator("embedded", dtype=torch.bfloat16)
    whole, head = (randomized_head(HeadHypernetwork.new(g, **SMALL)) for g in (generator, half))
    x0 = generator.noise(2, seed=1)
    delta = head(x0, half.encode(prompts[:2]))
    assert delta.dtype == head.modulate(x0, half.encode(prompts[:2])).dtype == torch.float32
    assert {p.dtype for p in head.parameters()} == {torch.float32}
    assert all(g.dtype == torch.float32 for g in torch.autograd.grad(delta.square().sum(), list(head.parameters())))
    expected = whole(x0, generator.encode(prompts[:2]))
    assert 0 < (delta - expected).norm() < 0.05 * expected.norm()


@torch.no_grad()
def test_the_norm_is_kept_at_every_strength_and_reading(generator, head, prompts):
    x0, conditioning = generator.noise(3, seed=1), generator.encode(prompts[:3])
    for strength, iterations in ((1, 1), (0.5, 3), (3, 2), (-1, 1)):
        moved = head.modulate(x0, conditioning, strength, iterations)
        assert not torch.allclose(moved, x0, atol=1e-2)
        assert torch.allclose(moved.flatten(1).norm(dim=1), x0.flatten(1).norm(dim=1), rtol=1e-5)


@torch.no_grad()
def test_strength_zero_and_no_reading_are_the_noise_itself(generator, head, prompts):
    x0, conditioning = generator.noise(2), generator.encode(prompts[:2])
    assert head.modulate(x0, conditioning, strength=0, iterations=3) is x0
    assert head.modulate(x0, conditioning, iterations=0) is x0
    base = generator.generate(x0, conditioning)
    assert torch.equal(head.generate(x0, conditioning, strength=0), base)
    assert torch.equal(head.generate(x0, conditioning, iterations=0), base)
    assert not torch.equal(head.generate(x0, conditioning), base)


@torch.no_grad()
def test_readings_to_come_are_told_by_a_number_or_row_by_row(generator, head, prompts):
    x0, conditioning = generator.noise(3, seed=1), generator.encode(prompts[:3])
    by_number = [head(x0, conditioning, remaining) for remaining in (1, 2, MAX_TOLD)]
    assert not torch.allclose(by_number[0], by_number[1], atol=1e-3)
    assert torch.equal(head(x0, conditioning, torch.tensor([2, 2, 2])), by_number[1])
    mixed = head(x0, conditioning, torch.tensor([1, 2, MAX_TOLD + 5]))
    for i, expected in enumerate(by_number):
        assert torch.allclose(mixed[i], expected[i], atol=1e-6)
    assert torch.equal(head(x0, conditioning, MAX_TOLD + 100), by_number[2])
    twice = x0
    for remaining in (2, 1):
        twice = with_norm_of(twice + 0.5 * head(twice, conditioning, remaining), x0)
    assert torch.equal(head.modulate(x0, conditioning, 0.5, 2), twice)


@torch.no_grad()
def test_following_a_reading_is_modulating_without_a_call(generator, head, prompts):
    x0, conditioning = generator.noise(2, seed=1), generator.encode(prompts[:2])
    reading, moved = generator.read(x0, conditioning), head.modulate(x0, conditioning, 0.7)
    assert torch.allclose(x0 + head.following(x0, 0.7)(reading), moved, atol=1e-6)
    with pytest.raises(ValueError, match="coarsen"):
        HeadHypernetwork.new(generator, **SMALL, coarsen=2).following(x0)


@pytest.mark.parametrize("reads", ["features", "prediction"])
def test_a_saved_head_is_the_same_again(generator, prompts, tmp_path, reads):
    head = randomized_head(HeadHypernetwork.new(generator, **SMALL, reads=reads, iterations=3))
    head.save(tmp_path / "a.safetensors", rewards="redness=1", steps_trained=3)
    again = load_hypernetwork(generator, tmp_path / "a.safetensors")
    assert isinstance(again, HeadHypernetwork)
    x0, conditioning = generator.noise(2), generator.encode(prompts[:2])
    assert torch.equal(again(x0, conditioning, 2), head(x0, conditioning, 2))
    assert again.info.shape == head.info.shape
    assert (again.info.shape.width, again.info.shape.depth) == (32, 1)
    assert (again.info.shape.features > 0) == (reads == "features")
    assert again.info.space == LatentSpace(channels=16, scale=8, scaling=generator.latent_scaling)
    assert (again.info.generator, again.info.family, again.iterations) == ("embedded", "sana-sprint", 3)
    assert again.training == {"rewards": "redness=1", "steps_trained": "3"}
    again.save(tmp_path / "b.safetensors")
    assert load_hypernetwork(generator, tmp_path / "b.safetensors").training == again.training
    assert [p.name for p in sorted(tmp_path.iterdir())] == ["a.safetensors", "b.safetensors"]


def test_a_head_on_predictions_serves_every_model_of_its_latent_space(pipelines, tmp_path):
    made_for, path = pipelines["sd-turbo"], tmp_path / "p.safetensors"
    head = randomized_head(HeadHypernetwork.new(made_for, **SMALL, reads="prediction"))
    head.save(path)
    other = pipelines["sdxl-turbo"]
    x0, conditioning = other.noise(2, 32, 64, seed=1), other.encode(PROMPTS[:2])
    delta = load_hypernetwork(other, path)(x0, conditioning)
    assert torch.equal(delta, head.network(x0, other.read(x0, conditioning)))
    with pytest.raises(ValueError) as error:
        load_hypernetwork(pipelines["sana-sprint"], path)
    assert str(error.value) == (
        f"{path} was made for tiny-sd-turbo (sd-turbo) and does not fit tiny-sana-sprint (sana-sprint), load it with "
        "its own model: its latents have 4 channels at 1/2, scaled by 0.18215, this model's 4 channels at 1/4, scaled "
        "by 0.41407"
    )


def test_features_are_one_familys_and_one_models(pipelines, tmp_path):
    path, model = tmp_path / "f.safetensors", pipelines["sd-turbo"]
    head = HeadHypernetwork.new(model, **SMALL)
    head.save(path)
    words = r"f\.safetensors was made for tiny-sd-turbo \(sd-turbo\) and does not fit tiny-sdxl-turbo \(sdxl-turbo\)"
    with pytest.raises(ValueError, match=f"{words}.*features"):
        load_hypernetwork(pipelines["sdxl-turbo"], path)
    shape = HeadShape(**{**vars(head.info.shape), "features": 320})
    write_head(path, HeadNetwork(shape).state_dict(), HeadInfo(**{**vars(head.info), "shape": shape}))
    with pytest.raises(ValueError, match="reads 320 features in cells of 1, this model gives 16 in cells of 1"):
        load_hypernetwork(model, path)
    x = torch.randn(1, 4, 8, 8)
    for features in (torch.randn(1, 16, 8, 8), None):
        with pytest.raises(ValueError, match="320 features"):
            HeadNetwork(shape)(x, Reading(x, features))


def test_large_latents_are_read_in_patches(monkeypatch):
    """So that no head looks at more than a thousand tokens at its model's own size."""
    flux = tiny_generator("flux")
    for side, patch in ((32, 2), (128, 2), (130, 4), (1024, 16)):
        monkeypatch.setattr(flux, "default_size", side * flux.latent_scale // 2)
        cells = side // 2
        shape = HeadHypernetwork.new(flux, **SMALL).info.shape
        assert shape.patch == patch
        assert shape.feature_cell == 2
        assert (cells / patch) ** 2 <= 1024 or patch == 2


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (dict(width=50), "width 50"),
        (dict(width=0), "width of 0"),
        (dict(depth=0), "depth of 0"),
        (dict(features=-1), "features of -1"),
        (dict(patch=3, feature_cell=2), "patches of 3"),
    ],
)
def test_shapes_that_cannot_be_built_are_named(wrong, words):
    with pytest.raises(ValueError, match=words):
        HeadShape(**{**dict(channels=4, features=0, width=32, depth=1, patch=1, feature_cell=1), **wrong})


def test_weights_in_half_precision_are_read_as_float32(generator, head, tmp_path):
    half = {name: weight.bfloat16() for name, weight in head.state_dict().items()}
    write_head(tmp_path / "a.safetensors", half, head.info)
    network, _, _ = read_head(tmp_path / "a.safetensors")
    assert all(torch.equal(p, half[name].float()) for name, p in network.named_parameters())
