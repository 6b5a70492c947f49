"""Every family on a GPU that is not there: its tensors say that they are on one, and hold nothing. A tensor on another
device, or of another dtype, is an error as on a real GPU. A backward pass needs a real one."""

import pytest
import torch
from tiny_pipelines import BUILDERS, PROMPTS, tiny_generator

from hypernoise_core import HeadHypernetwork, LoraHypernetwork, RewardEnsemble, TrainingConfig, load_reward
from hypernoise_core.hypernetworks.critic import Critic
from hypernoise_core.hypernetworks.critic_network import CriticNetwork
from hypernoise_core.planning.rewards import every_window_used
from hypernoise_core.planning.without_data import with_numbers, without_data
from hypernoise_core.training.teachers.critic import critic_shape

pytestmark = pytest.mark.skipif(torch.version.cuda is None, reason="this torch is built without CUDA")


FAMILIES = set(BUILDERS) - {"z-image"}  # which asks each prompt's mask for its length
CRITIC = TrainingConfig(hypernetwork="head", teacher="critic", critic_width=16, critic_depth=1)


@pytest.fixture(params=sorted(FAMILIES))
def generator(request):
    """One that encodes its prompts on the CPU: pipelines look at the numbers of tokens."""
    generator = tiny_generator(request.param)
    assert generator.last_layer  # found by running it
    known = ["", *PROMPTS[:2]]
    encoded = generator.encode(known)
    generator.encode = lambda prompts: encoded.rows([known.index(prompt) for prompt in prompts]).to(generator.device)
    vars(generator).pop("empty", None)
    return generator


def moved(generator, dtype):
    for module in (generator.denoiser, generator.autoencoder, *generator.text_encoders):
        module.to("cuda", dtype)
        for part in module.modules():  # tables that are neither parameters nor buffers
            for name, value in vars(part).items():
                if isinstance(value, torch.Tensor):
                    setattr(part, name, value * 1)
    generator.device = torch.device("cuda")
    if hasattr(generator, "_scheduler"):  # it needs numbers, which nothing on that GPU has
        make = generator._scheduler
        on_cpu = lambda value: torch.device("cpu") if isinstance(value, torch.device) else value  # noqa: E731
        generator._scheduler = with_numbers(
            lambda *args, **named: make(*map(on_cpu, args), **{name: on_cpu(value) for name, value in named.items()})
        )
    return generator


def is_there(tensor):
    return tensor.device.type == "cuda" and tensor.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pictures_noise_and_scores_are_made_on_the_gpu(generator, dtype, monkeypatch):
    adds_noise = generator.adds_noise  # a scheduler is tried
    monkeypatch.setattr(type(generator), "adds_noise", adds_noise)
    with without_data(), torch.no_grad():
        moved(generator, dtype)
        conditioning = generator.encode(PROMPTS[:2])
        x0 = generator.noise(2, 32, 32, seed=1)
        assert is_there(x0)
        reading = generator.read(x0, conditioning)
        assert is_there(reading.prediction)
        for steps in (1, 2):
            pictures = generator.generate(x0, conditioning, steps, seed=[1, 2])
            assert is_there(pictures)
        head = HeadHypernetwork.new(generator, width=16, depth=1)
        head.critic = Critic(CriticNetwork(critic_shape(generator, CRITIC)).to("cuda"), generator.read)
        lora = LoraHypernetwork(generator, rank=2, alpha=4)
        between = "keep-moved" if adds_noise else "fresh"
        for f in (head, lora):
            assert is_there(f.modulate(x0, conditioning, iterations=2))
            assert is_there(f.generate(x0, conditioning, 2, between_steps=between))
        assert is_there(head.critic.score(x0, conditioning))
        rewards = RewardEnsemble([(load_reward("redness"), 1.0)]).to("cuda")
        assert is_there(rewards.score(pictures, rewards.encode_text(PROMPTS[:2])))


@pytest.mark.parametrize("name", ["hpsv2", "imagereward", "pickscore", "clip", "aesthetic", "embedded"])
def test_a_reward_scores_on_the_gpu(released, name):
    reward = load_reward(name, released) if name != "embedded" else load_reward(name)
    with without_data(), torch.no_grad(), every_window_used():
        reward.to("cuda")
        text = reward.encode_text(PROMPTS[:2])
        if name != "aesthetic":  # it reads no text
            assert all(tensor.device.type == "cuda" for tensor in text.tensors.values())
        pictures = torch.rand(2, 3, 64, 64, device="cuda")
        assert is_there(reward.score(pictures, text))
