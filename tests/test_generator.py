"""The SANA-Sprint family against diffusers' own pipeline."""

import pytest
import torch
from reference import pipeline_pictures

from hypernoise_core import load_generator


@pytest.fixture(scope="module")
def exact():
    """In float64: the pipeline pads its texts to 300 tokens, and how that rounds is each CPU's own (1.5e-5 on one)."""
    return load_generator("embedded", dtype=torch.float64)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_pictures_equal_the_pipelines(exact, prompts, steps):
    x0 = exact.noise(len(prompts), seed=3)
    expected = pipeline_pictures(exact, x0, prompts, steps, seed=7)
    got = exact.generate(x0, exact.encode(prompts), steps, seed=7)
    assert (got - expected).abs().max() < 1e-6


@pytest.mark.parametrize("steps", [1, 2])
def test_gradients_equal_the_pipelines(exact, prompts, steps):
    x0 = exact.noise(2, seed=3).requires_grad_()
    expected = torch.autograd.grad(pipeline_pictures(exact, x0, prompts[:2], steps).square().mean(), x0)[0]
    pictures = exact.generate(x0, exact.encode(prompts[:2]), steps)
    got = torch.autograd.grad(pictures.square().mean(), x0)[0]
    assert expected.abs().max() > 0
    # A pixel on the edge of [0, 1] may be clamped in one and not in the other: padding changes the last digit.
    assert (got - expected).norm() < 1e-3 * expected.norm()


def test_pictures_need_not_be_square(generator):
    x0 = generator.noise(1, height=64, width=96)
    assert x0.shape == (1, 16, 8, 12)
    assert generator.generate(x0, generator.encode(["a red square"])).shape == (1, 3, 64, 96)


def test_noise_is_the_same_everywhere_and_unit(generator):
    assert torch.equal(generator.noise(2, seed=5), generator.noise(2, seed=5))
    assert not torch.equal(generator.noise(2, seed=5), generator.noise(2, seed=6))
    noise = generator.noise(64, seed=0)
    assert abs(noise.mean()) < 0.01
    assert abs(noise.std() - 1) < 0.01


def test_padding_and_the_complex_instruction_leave_the_picture_alone(generator):
    """The embedded tokenizer strips SANA's instruction, so plain diffusers code makes the same pictures."""
    x0 = generator.noise(1, seed=1)
    ours = generator.generate(x0, generator.encode(["a photo of a red cross"]))
    theirs = generator.pipeline(
        "a photo of a red cross", num_inference_steps=1, intermediate_timesteps=None, height=64, width=64,
        latents=x0, use_resolution_binning=False, output_type="pt",
    ).images  # fmt: skip
    assert (ours - theirs).abs().max() < 1e-4


def test_checkpointed_gradients_are_equal(generator):
    conditioning, x0 = generator.encode(["two squares"]), generator.noise(1, seed=2)

    def gradient():
        x = x0.clone().requires_grad_()
        return torch.autograd.grad(generator.generate(x, conditioning).mean(), x)[0]

    plain = gradient()
    generator.checkpoint_gradients()
    try:
        assert torch.allclose(gradient(), plain, atol=1e-8)
    finally:
        generator.checkpoint_gradients(False)
    assert torch.equal(gradient(), plain)


@pytest.mark.parametrize(("size", "steps"), [((60, 64), 1), ((64, 64), 0)])
def test_wrong_sizes_and_steps_are_named(generator, size, steps):
    with pytest.raises(ValueError, match=r"multiples of 8|at least 1"):
        x0 = generator.noise(1, *size)
        generator.generate(x0, generator.encode([""]), steps)


def test_unknown_models_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        load_generator(str(tmp_path / "nowhere"))
    (tmp_path / "model_index.json").write_text('{"_class_name": "KandinskyPipeline"}')
    with pytest.raises(ValueError, match="KandinskyPipeline"):
        load_generator(str(tmp_path))
