"""Still pictures through Qwen-Image's autoencoder of videos, which several families share."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .diffusers_generator import as_pictures
from .latents import denormalize, normalize
from .rectified_flow import RectifiedFlow


class VideoAutoencoder(RectifiedFlow):
    """A family whose pipeline has an `AutoencoderKLQwenImage`: latents [B, C, h, w] are the one frame of a video, with
    a mean and a deviation for each channel. Its transformer sees 2x2 of their cells as one token."""

    def __init__(self, pipeline, name: str, offload: bool = False):
        super().__init__(pipeline, name, offload)
        self.latent_channels = self.denoiser.config.in_channels // self.patch**2

    def _decode(self, latents: Tensor) -> Tensor:
        config = self.autoencoder.config
        latents = denormalize(latents.to(self.autoencoder.dtype), config.latents_mean, config.latents_std)
        return as_pictures(self._first_frame(latents.unsqueeze(2)).squeeze(2))

    def encode_pictures(self, pictures: Tensor) -> Tensor:
        config = self.autoencoder.config
        return normalize(self._encoded(pictures.unsqueeze(2)).squeeze(2), config.latents_mean, config.latents_std)

    def _first_frame(self, latents: Tensor) -> Tensor:
        """As `autoencoder.decode`, without its memory of earlier frames. A single frame needs none, and layers that are
        recomputed would find in it what they left there themselves."""
        module = self.autoencoder
        if module.use_tiling:  # which keeps that memory, so that it is recomputed as a whole
            return checkpoint(module.decode, latents, False, use_reentrant=False)[0]
        rows = latents.split(1) if module.use_slicing else [latents]
        return torch.cat([module.decoder(module.post_quant_conv(row)) for row in rows])

    def checkpoint_gradients(self, enabled: bool = True) -> None:
        if self.autoencoder.use_tiling:
            self._checkpoint(self.denoiser, enabled)
        else:
            super().checkpoint_gradients(enabled)
