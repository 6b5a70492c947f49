"""Reading a noise: what each family's frozen denoiser makes of it, in unit space, and its features as a grid."""

import pytest
import torch
from diffusers import EulerDiscreteScheduler
from tiny_pipelines import BUILDERS, PROMPTS, SCHEDULE, tiny_generator
from torch import nn
from torch.nn import functional as F

from hypernoise_core import HeadHypernetwork
from hypernoise_core.reading import inputs_of, tokens_as_grid

SIZE = (32, 64)
"""Height and width in pixels: sides that differ tell rows from columns."""

CELL = dict.fromkeys(["flux", "z-image", "qwen-image", "krea2", "sd3"], 2)
"""Latent cells along each side of a cell of the features, where it is not 1."""


CHANNELS_LAST = ("z-image", "sd3")
"""Families whose last layer returns the cells of a patch one after the other, each with all of its channels."""


@pytest.fixture(scope="module", params=BUILDERS)
def family(request):
    return tiny_generator(request.param)


@pytest.fixture(scope="module")
def read(family):
    """(noise, conditioning, what is read of them)."""
    x0, conditioning = family.noise(2, *SIZE, seed=3), family.encode(PROMPTS[:2])
    with torch.no_grad():
        return x0, conditioning, family.read(x0, conditioning)


def close(a, b, tolerance=1e-4):
    return (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


def test_the_prediction_is_what_one_step_decodes(family, read):
    x0, conditioning, reading = read
    assert reading.prediction.dtype == torch.float32
    with torch.no_grad():
        assert close(reading.prediction, family.denoise(x0, conditioning, 1, 0))


@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_unet_may_predict_noise_velocity_or_latents_from_any_first_timestep(kind, spacing):
    generator = tiny_generator("sd-turbo")
    schedule = {**SCHEDULE, "timestep_spacing": spacing, "prediction_type": kind}
    generator.pipeline.scheduler = scheduler = EulerDiscreteScheduler(**schedule)
    x0, conditioning = generator.noise(2, *SIZE, seed=1), generator.encode(PROMPTS[:2])
    with torch.no_grad():
        got, said = (
            generator.read(x0, conditioning).prediction,
            generator.first_call(generator.denoiser, x0, conditioning),
        )
        assert close(got, generator.denoise(x0, conditioning, 1, 0), 1e-3)
    kept = scheduler.alphas_cumprod[{"trailing": 999, "leading": 1}[spacing]]
    seen = x0 * ((1 - kept).sqrt() if spacing == "trailing" else 1.0)
    if kind == "epsilon":
        expected = (seen - (1 - kept).sqrt() * said) / kept.sqrt()
    elif kind == "sample":
        expected = said
    else:
        expected = kept.sqrt() * seen - (1 - kept).sqrt() * said
    assert close(got, expected, 1e-3)


def test_features_are_what_the_last_layer_makes_the_prediction_of(family, read):
    """Exactly: the layer on the grid, its patches laid out again, is what the denoiser returned."""
    x0, conditioning, reading = read
    cell, layer = CELL.get(family.family, 1), family.denoiser.get_submodule(family.last_layer)
    assert reading.features.shape[2:] == (x0.shape[2] // cell, x0.shape[3] // cell)
    assert reading.features.dtype == torch.float32
    with torch.no_grad():
        if isinstance(layer, nn.Conv2d):
            said = layer(reading.features)
        else:
            said = layer(reading.features.movedim(1, -1)).movedim(-1, 1)
            if family.family in CHANNELS_LAST:
                said = said.unflatten(1, (cell**2, -1)).transpose(1, 2).flatten(1, 2)
            said = F.pixel_shuffle(said, cell) * (-1 if family.family == "z-image" else 1)
        assert close(said, family.first_call(family.denoiser, x0, conditioning), 1e-5)


@pytest.mark.parametrize("place", [(0, 0), (1, 5), (3, 2)])
def test_features_change_most_where_the_noise_did(family, place):
    cell = CELL.get(family.family, 1)
    x0, conditioning = family.noise(9, *SIZE, seed=4), family.encode(PROMPTS * 3)
    changed = x0.clone()
    rows, columns = (slice(cell * i, cell * (i + 1)) for i in place)
    changed[..., rows, columns] *= -1
    with torch.no_grad():
        change = family.read(changed, conditioning).features - family.read(x0, conditioning).features
    where = change.square().sum((0, 1))
    found = divmod(int(where.argmax()), where.shape[1])
    near = 1 if family.last_layer == "conv_out" else 0  # a UNet's convolutions mix neighbours
    assert all(abs(a - b) <= near for a, b in zip(found, place, strict=True))


def test_reading_is_differentiable_and_leaves_no_hook(family):
    x0, conditioning = family.noise(1, *SIZE, seed=5).requires_grad_(), family.encode(PROMPTS[:1])
    reading = family.read(x0, conditioning)
    (gradient,) = torch.autograd.grad(reading.prediction.square().sum() + reading.features.square().sum(), x0)
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0
    detached = reading.detach()
    assert not detached.prediction.requires_grad
    assert not detached.features.requires_grad
    layer = family.denoiser.get_submodule(family.last_layer)
    with pytest.raises(RuntimeError), inputs_of(layer):
        family.first_call(family.denoiser, x0[:, :1], conditioning)
    assert not layer._forward_pre_hooks


def test_half_precision_is_read_in_float32(family, read):
    half = tiny_generator(family.family)
    half.pipeline.to(torch.bfloat16)
    x0, _, expected = read
    with torch.no_grad():
        reading = half.read(x0, half.encode(PROMPTS[:2]))
    assert reading.prediction.dtype == reading.features.dtype == torch.float32
    relative = (reading.features - expected.features).norm() / expected.features.norm()
    assert 0 < relative < 0.1


def test_a_family_without_a_grid_gives_the_prediction_alone(monkeypatch):
    generator = tiny_generator("flux")
    monkeypatch.setattr(generator, "as_grid", lambda tokens, height, width: None)
    x0, conditioning = generator.noise(1, *SIZE), generator.encode(PROMPTS[:1])
    reading = generator.read(x0, conditioning)
    assert reading.features is reading.detach().features is None
    with pytest.raises(ValueError, match=r"tiny-flux.*does not give.*prediction"):
        HeadHypernetwork.new(generator, width=32, depth=1)
    head = HeadHypernetwork.new(generator, width=32, depth=1, reads="prediction")
    assert head(x0, conditioning).shape == x0.shape


@pytest.mark.parametrize(
    ("tokens", "sides", "expected"),
    [
        ((2, 32, 5), (4, 8), (2, 5, 4, 8)),
        ((2, 8, 5), (4, 8), (2, 5, 2, 4)),
        ((2, 2, 5), (4, 8), (2, 5, 1, 2)),
        ((2, 5, 4, 8), (4, 8), (2, 5, 4, 8)),
        ((2, 33, 5), (4, 8), None),  # one more than the picture's
        ((2, 16, 5), (4, 8), None),  # patches that are not square
        ((2, 9, 5), (7, 7), None),  # patches that do not cover the sides
        ((2, 64, 5), (4, 8), None),
        ((2, 0, 5), (4, 8), None),
        ((2, 5), (4, 8), None),
    ],
)
def test_tokens_become_a_grid_where_they_cover_the_picture(tokens, sides, expected):
    sequence = torch.arange(torch.Size(tokens).numel()).view(tokens)
    grid = tokens_as_grid(sequence, *sides)
    assert (None if grid is None else tuple(grid.shape)) == expected
    if expected and len(tokens) == 3:
        assert torch.equal(grid.flatten(2).transpose(1, 2), sequence)
