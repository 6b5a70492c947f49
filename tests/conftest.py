import pytest
import torch

from hypernoise_core import NoiseHypernetwork, RewardEnsemble, load_generator, load_reward
from hypernoise_core.embedded.benchmark import cases
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
