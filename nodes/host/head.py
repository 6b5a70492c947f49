"""The head in ComfyUI: it reads one call of the MODEL as it is, with whatever LoRAs, quantization, offloading and
patches the MODEL has."""

from __future__ import annotations

from pathlib import Path

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from hypernoise_core.hypernetworks.critic_network import CriticNetwork
from hypernoise_core.hypernetworks.head import HeadHypernetwork, check_fit
from hypernoise_core.hypernetworks.head_file import HeadInfo, read_head, write_head
from hypernoise_core.hypernetworks.head_network import HeadNetwork
from hypernoise_core.reading import Reading

from .adapter import FittedHyperNoise, HyperNoise
from .call import FirstCall, still
from .features import entering_last_layer, picture_grid
from .identity import identity, latent_space

PARTS = ("area", "mask")
"""What a cond for a part of the picture has."""


class HyperNoiseHead(HyperNoise):
    def __init__(self, name: str, path: str | Path):
        super().__init__(name)
        self.network, self.info, self.critic = read_head(path)
        self.training = self.info.training

    def save(self, path: str | Path) -> None:
        write_head(path, self.network.state_dict(), self.info, self.critic)

    def _fit(self, model: ModelPatcher) -> FittedHead:
        family, name = identity(model)
        check_fit(self.info, f"hypernoise: {self.name}", name, family, latent_space(model))
        return FittedHead(f"hypernoise: {self.name}", self.network, self.info, self.critic, model)


class FittedHead(FittedHyperNoise):
    keeps_norm, is_told = HeadHypernetwork.keeps_norm, HeadHypernetwork.is_told

    def __init__(
        self, name: str, network: HeadNetwork, info: HeadInfo, critic: CriticNetwork | None, model: ModelPatcher
    ):
        self.name, self.network, self.coarsen = name, network, info.coarsen
        self.critic = None if critic is None else _OfStills(critic)
        both = nn.ModuleList([network] if critic is None else [network, critic])
        self.patcher = ModelPatcher(
            both, load_device=model.load_device, offload_device=comfy.model_management.unet_offload_device()
        )

    def delta(self, call: FirstCall, remaining: int) -> Tensor:
        if (first := _whole_picture(call)) is not None:
            return self.moves(call.noise, self._read(call, first), remaining)
        delta, total = torch.zeros_like(call.noise), torch.zeros_like(call.noise)
        for cond in call.conds:
            if (weight := call.weight(cond)) is not None:
                whole = {key: value for key, value in cond.items() if key not in PARTS}
                delta += weight * self.moves(call.noise, self._read(call, whole), remaining)
                total += weight.abs()
        return delta / total.where(total > 0, 1)

    def moves(self, noise: Tensor, reading: Reading, remaining: int = 1) -> Tensor:
        """The residual for `noise` that was read, of its shape."""
        try:
            return self.network(still(noise), reading, remaining).view(noise.shape)
        except ValueError as error:
            raise ValueError(f"{self.name} does not fit this model: {error}") from error

    def read(self, call: FirstCall) -> Reading:
        """What the denoiser makes of the noise for the first prompt that covers the picture.

        Raises:
            ValueError: no prompt does, or a patch of the MODEL splits the call up.
        """
        if (cond := _whole_picture(call)) is None:
            raise ValueError(
                "conditioning: every prompt is for an area, a mask or later steps, and a critic and a free reading "
                "need one for the whole picture: add it with Conditioning (Combine), or set candidates to 1, refine to "
                "0 and free_reading off"
            )
        return self._read(call, cond)

    def _read(self, call: FirstCall, cond: dict) -> Reading:
        still(call.noise)  # a video is refused before it is read
        conds = [cond]
        if not self.network.shape.features:
            return Reading(still(call.denoised(conds)))
        denoiser = call.model.diffusion_model
        with entering_last_layer(denoiser) as received:
            denoised = call.denoised(conds)
        if len(received) != 1 or len(received[0]) != len(call.noise):
            raise ValueError(
                f"model: it calls its denoiser {len(received)} times for one reading, and a head reads one whole call: "
                "connect Modulate Noise before the node that patches the model this way"
            )
        return Reading(still(denoised), picture_grid(denoiser, received[0], *call.noise.shape[-2:]))


class _OfStills(nn.Module):
    """A critic for noise that may have a time axis of one picture."""

    def __init__(self, critic: CriticNetwork):
        super().__init__()
        self.critic = critic

    def forward(self, x: Tensor, reading: Reading) -> Tensor:
        return self.critic(still(x), reading)

    def with_bound(self, x: Tensor, reading: Reading) -> tuple[Tensor, Tensor]:
        return self.critic.with_bound(still(x), reading)


def _whole_picture(call: FirstCall) -> dict | None:
    """The first cond that is about the whole picture and counts at the first step. Prompts for areas and masks tell of
    a part, and what the denoiser makes of each is a call of its own."""
    whole = (cond for cond in call.conds if not any(key in cond for key in PARTS))
    return next((cond for cond in whole if call.weight(cond) is not None), None)
