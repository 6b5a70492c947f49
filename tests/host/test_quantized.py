"""Heads and LoRAs are trained on quantized models, and the quantized weights are only read."""

import json

import pytest
import torch

from host.family_table import KINDS, works
from host.graphs import Graph, output
from host.server import saved

LEAST = {"float8_e4m3fn": 0.99, "int8_tensorwise": 0.99, "nvfp4": 0.8, "packed": 0.99}
"""Cosine with the gradient of the exact weights; four bits change weights and inputs a lot."""
FORMATS = list(LEAST)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", FORMATS)
def test_it_is_trained_saved_loaded_and_used(comfy, how, kind):
    assert works(comfy, "FLUX.1", kind, how) == "yes"


def gradients(comfy, how):
    """(kept, computed again) of the pictures in the noise."""
    g = Graph()
    model = g.ProbeFamily(family="FLUX.1", quantized=how)
    latent = g.ProbeEmptyLatent(model=model, latent=g.EmptyLatentImage(width=64, height=64, batch_size=2))
    made = g.ProbeGenerator(
        model=model, clip=output(model, 1), vae=output(model, 2), noise=g.RandomNoise(noise_seed=5), latent=latent,
        prompts="a cat|a red dog", steps=2, seed=5, sampling=json.dumps({"sampler_name": "euler"}),
    )  # fmt: skip
    for i in (1, 2):
        g.ProbeSave(latent=output(made, i))
    return [tensor for tensor, _ in saved(comfy, comfy.run(g.nodes))]


@pytest.fixture(scope="module")
def plain(comfy):
    return gradients(comfy, "")[0]


@pytest.mark.parametrize("how", FORMATS)
def test_the_gradient_is_that_of_the_weights_that_they_stand_for(comfy, plain, how):
    kept, again = gradients(comfy, how)
    assert torch.allclose(kept, again, rtol=1e-4, atol=1e-5 * kept.abs().max())
    assert torch.cosine_similarity(kept.flatten(), plain.flatten(), 0) > LEAST[how]


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_nobody_can_read_are_refused_by_the_layers_name(comfy, kind):
    told = works(comfy, "FLUX.1", kind, "unknown")
    assert told.startswith("not possible because model: ")
    assert "is quantized in a way (Linear) whose weights cannot be had for training" in told
