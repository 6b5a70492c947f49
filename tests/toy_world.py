"""A generator and a reward of a few hundred weights with the embedded world's interfaces, to test what is around."""

from zlib import crc32

import torch
from torch import nn
from torch.nn import functional as F

from hypernoise_core import Generator, TensorBatch
from hypernoise_core.rewards.base import Backbone, BackboneReward


def features(prompts, size):
    """A vector of each prompt, always the same."""
    rows = [torch.randn(size, generator=torch.Generator().manual_seed(crc32(p.encode()))) for p in prompts]
    return torch.stack(rows)


class ToyDenoiser(nn.Sequential):
    dtype = torch.float32

    def __init__(self):
        super().__init__(nn.Conv2d(8, 16, 3, padding=1), nn.Tanh(), nn.Conv2d(16, 4, 1))


class ToyGenerator(Generator):
    """Pictures of 8x8 coloured cells, so that the detector finds squares by chance."""

    family = name = "toy"
    latent_channels, latent_scale, default_size = 4, 8, 64
    device = torch.device("cpu")
    adds_noise = True  # it draws none, and takes what it is given

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.denoiser = ToyDenoiser()
        self.denoiser.requires_grad_(False)

    def encode(self, prompts):
        return TensorBatch({"embeds": features(prompts, 4)})

    def first_call(self, denoiser, x0, conditioning):
        text = conditioning["embeds"].view(-1, 4, 1, 1).expand(-1, -1, *x0.shape[2:])
        return denoiser(torch.cat([x0, text], 1))

    def clean(self, x0, prediction):
        return x0 - prediction

    def denoise(self, x0, conditioning, steps, seed, denoiser=None, between=None, first=None):
        for _ in range(steps):
            x0 = x0 - self.first_call(denoiser or self.denoiser, x0, conditioning) / steps
        return x0

    def decode(self, latents):
        return F.interpolate((3 * latents[:, :3]).sigmoid(), scale_factor=8)

    def checkpoint_gradients(self, enabled=True):
        pass


class ToyBackbone(Backbone):
    def image_features(self, images):
        return F.normalize(F.adaptive_avg_pool2d(images - 0.5, 2).flatten(1), dim=-1)

    def to(self, device):
        return self

    def checkpoint_gradients(self, enabled=True):
        pass


class ToyReward(BackboneReward):
    name, backbone = "embedded", ToyBackbone()

    def encode_text(self, prompts):
        return TensorBatch({"features": F.normalize(features(prompts, 12), dim=-1)})

    def score_features(self, features, text):
        return (features * text["features"]).sum(-1)
