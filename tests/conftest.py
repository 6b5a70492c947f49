import os

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # an unknown model is unknown at once

import torch

from hypernoise_core import NoiseHypernetwork, RewardEnsemble, load_generator, load_reward
from hypernoise_core.embedded.benchmark import cases
from hypernoise_core.embedded.prompts import RELATIONS
from hypernoise_core.embedded.scenes import COLORS, Scene, Thing, random_background
from hypernoise_core.lora import lora_parameters

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def generator():
    """The embedded generator: real SANA-Sprint classes, a few million parameters."""
    return load_generator("embedded")


@pytest.fixture(scope="session")
def reward():
    return load_reward("embedded")


@pytest.fixture
def redness():
    return RewardEnsemble([(load_reward("redness"), 1.0)])


@pytest.fixture
def prompts():
    return [case.prompt.text for case in cases(60)[::10]]


@pytest.fixture
def hypernetwork(generator):
    """One that is not zero: as if trained a little."""
    return randomized(NoiseHypernetwork(generator, rank=4, alpha=8))


def randomized(lora, scale=0.02):
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in lora_parameters(lora.network).items():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * scale)
    return lora


def scene_for(prompt, rng):
    """A drawn scene that shows a prompt."""
    while True:
        things = []
        for want in prompt.wants:
            for _ in range(want.count):
                color = want.color or str(rng.choice(list(COLORS)))
                x, y = rng.uniform(9, 55, size=2)
                things.append(Thing(want.shape, color, x, y, 7))
        if any(max(abs(a.x - b.x), abs(a.y - b.y)) < 17 for i, a in enumerate(things) for b in things[:i]):
            continue
        if prompt.relation:
            dx, dy = things[0].x - things[1].x, things[0].y - things[1].y
            ux, uy = RELATIONS[prompt.relation]
            if dx * ux + dy * uy < 0.6 * np.hypot(dx, dy):
                continue
        return Scene(tuple(things), random_background(rng))
