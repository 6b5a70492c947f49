"""Every family on toy pipelines of the real classes, against diffusers' own `__call__` and the paper's arithmetic."""

import pytest
import torch
from conftest import randomized
from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler
from reference import first_prediction, pipeline_pictures, reference_delta
from tiny_pipelines import BUILDERS, PROMPTS, SCHEDULE, tiny_generator

from hypernoise_core import LoraHypernetwork, TensorBatch

LAST_LAYER = {
    "sd-turbo": "conv_out",
    "sdxl-turbo": "conv_out",
    "z-image": "all_final_layer.2-1.linear",
    "krea2": "final_layer.linear",
}
"""Where it is not `proj_out`."""


@pytest.fixture(scope="module", params=BUILDERS)
def family(request):
    return tiny_generator(request.param)


def close(a, b, tolerance=1e-5):
    return (a - b).abs().max() <= tolerance * max(1.0, b.abs().max().item())


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_pictures_equal_the_pipelines(family, steps):
    x0 = family.noise(3, 32, 64, seed=3)
    got = family.generate(x0, family.encode(PROMPTS), steps, seed=7)
    assert got.shape == (3, 3, 32, 64)
    assert got.std() > 0.05
    with torch.no_grad():
        assert close(got, pipeline_pictures(family, x0, PROMPTS, steps, seed=7))


@torch.no_grad()
def test_what_the_autoencoder_makes_of_pictures_is_what_it_is_given_back(family, monkeypatch):
    pictures, given = torch.rand(2, 3, 32, 64), []
    made = family._encoded(pictures.unsqueeze(2) if family.family in ("qwen-image", "krea2") else pictures)
    latents = family.encode_pictures(pictures)
    assert latents.shape == family.noise(2, 32, 64).shape
    decoder = (family, "_first_frame") if made.dim() == 5 else (family.autoencoder, "decode")
    decode = getattr(*decoder)
    monkeypatch.setattr(*decoder, lambda x, *args, **kwargs: given.append(x) or decode(x, *args, **kwargs))
    family.decode(latents)
    assert close(given[0], made)


def test_prompts_of_different_lengths_in_one_batch_equal_one_by_one(family):
    x0, seeds = family.noise(3, 64, 32, seed=5), [7, 8, 9]
    together = family.generate(x0, family.encode(PROMPTS), 2, seeds)
    encoded = [family.encode([prompt]) for prompt in PROMPTS]
    assert close(family.generate(x0, TensorBatch.cat(encoded), 2, seeds), together)
    for i, conditioning in enumerate(encoded):
        assert close(family.generate(x0[i : i + 1], conditioning, 2, seeds[i : i + 1])[0], together[i])


@pytest.mark.parametrize("scheduler", [EulerDiscreteScheduler, LCMScheduler, DDIMScheduler])
@pytest.mark.parametrize(
    ("name", "kind"), [("sd-turbo", "v_prediction"), ("sd-turbo", "sample"), ("sdxl-turbo", "v_prediction")]
)
def test_pictures_of_other_predictions_equal_the_pipelines(name, kind, scheduler):
    generator = tiny_generator(name)
    generator.pipeline.scheduler = scheduler.from_config({**SCHEDULE, "prediction_type": kind, "clip_sample": False})
    x0, conditioning = generator.noise(2, 32, 64, seed=3), generator.encode(PROMPTS[:2])
    for steps in (1, 2, 4):
        with torch.no_grad():
            expected = pipeline_pictures(generator, x0, PROMPTS[:2], steps, seed=7)
            assert close(generator.generate(x0, conditioning, steps, seed=7), expected)
            if steps == 1:
                assert close(generator.decode(generator.read(x0, conditioning).prediction), expected, 1e-3)


@pytest.mark.parametrize("steps", [1, 4])
def test_gradients_equal_the_pipelines(family, steps):
    x0 = family.noise(2, 32, 32, seed=3).requires_grad_()
    pictures = family.generate(x0, family.encode(PROMPTS[:2]), steps)
    got = torch.autograd.grad(pictures.square().mean(), x0)[0]
    expected = torch.autograd.grad(pipeline_pictures(family, x0, PROMPTS[:2], steps).square().mean(), x0)[0]
    assert expected.abs().max() > 0
    assert (got - expected).abs().max() < 1e-4 * expected.abs().max()


def test_a_prompt_that_is_cut_is_told(family, recwarn):
    long = "red " * 1200
    kept = family.encode([long])
    told = [str(w.message) for w in recwarn if "is cut to the first" in str(w.message)]
    assert len(told) == 1
    assert family.name in told[0]
    more = family.encode([long + "square " * 100])
    assert all(torch.equal(more[name], tensor) for name, tensor in kept.tensors.items())
    recwarn.clear()
    family.encode(["red"])
    assert not [w for w in recwarn if "is cut" in str(w.message)]


def test_the_first_call_is_what_the_paper_feeds_the_denoiser(family):
    x0 = family.noise(3, 32, 48, seed=1)
    got = family.first_call(family.denoiser, x0, family.encode(PROMPTS))
    assert close(got, first_prediction(family, x0, PROMPTS))


def test_hypernetworks_start_at_exactly_zero(family):
    f = LoraHypernetwork(family, rank=4, alpha=8)
    delta = f(family.noise(3, 32, 48), family.encode(PROMPTS))
    assert delta.shape == (3, family.latent_channels, 32 // family.latent_scale, 48 // family.latent_scale)
    assert torch.count_nonzero(delta) == 0


@pytest.mark.parametrize("steps", [1, 4])
def test_modulated_pictures_equal_the_references(family, steps):
    f = randomized(LoraHypernetwork(family, rank=4, alpha=8), scale=0.1)
    x0, conditioning = family.noise(3, 32, 32, seed=1), family.encode(PROMPTS)
    with torch.no_grad():
        delta = reference_delta(family, f, x0, PROMPTS)
        own = f(x0, conditioning)
        assert delta.abs().max() > 0.01
        assert close(own, delta)
        expected = pipeline_pictures(family, x0 + own, PROMPTS, steps)  # four steps make much of a rounding error
        assert close(f.generate(x0, conditioning, steps), expected)
        assert not close(f.generate(x0, conditioning, steps), family.generate(x0, conditioning, steps))


def gradients(pictures, parameters):
    """All in a row, with 0 where a parameter has no part in the pictures: a last block's text may go nowhere."""
    found = torch.autograd.grad(pictures.square().mean(), parameters, materialize_grads=True)
    return torch.cat([gradient.flatten() for gradient in found])


def test_training_gradients_equal_those_through_the_pipeline(family):
    f = randomized(LoraHypernetwork(family, rank=4, alpha=8), scale=0.1)
    x0, parameters = family.noise(2, 32, 32, seed=1), list(f.parameters())
    ours = f.generate(x0, family.encode(PROMPTS[:2]))
    reference = pipeline_pictures(family, x0 + reference_delta(family, f, x0, PROMPTS[:2]), PROMPTS[:2], steps=1)
    assert close(ours, reference)
    got, expected = gradients(ours, parameters), gradients(reference, parameters)
    assert (got - expected).norm() < 1e-4 * expected.norm()


def test_the_last_layer_is_found_by_running(family):
    assert family.last_layer == LAST_LAYER.get(family.family, "proj_out")


def test_checkpointing_keeps_gradients_and_saves_activations(family):
    conditioning = family.encode(PROMPTS[:1])

    def gradient():
        x, saved = family.noise(1, 64, 64, seed=2).requires_grad_(), []

        def note(tensor):
            saved.append(tensor.untyped_storage().nbytes())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            picture = family.generate(x, conditioning)
        return torch.autograd.grad(picture.mean(), x)[0], sum(saved)

    plain, memory = gradient()
    family.checkpoint_gradients()
    try:
        again, less = gradient()
    finally:
        family.checkpoint_gradients(False)
    assert close(again, plain, 1e-7)
    assert less < 0.7 * memory
    assert torch.equal(gradient()[0], plain)


def test_sizes_that_do_not_fit_are_named(family):
    with pytest.raises(ValueError, match=rf"multiples of {family.size_multiple}"):
        family.noise(1, 32 + family.size_multiple // 2, 32)


def test_half_precision_stays_close_and_noise_stays_float32(family):
    half = tiny_generator(family.family)
    half.pipeline.to(torch.bfloat16)
    x0, conditioning = family.noise(2, 32, 32), half.encode(PROMPTS[:2])
    f = LoraHypernetwork(half, rank=4, alpha=8)
    assert f(x0, conditioning).dtype == half.generate(x0, conditioning).dtype == torch.float32
    assert all(p.dtype == torch.float32 for p in f.parameters())
    difference = half.generate(x0, conditioning) - family.generate(x0, family.encode(PROMPTS[:2]))
    assert 0 < difference.abs().mean() < 0.05
