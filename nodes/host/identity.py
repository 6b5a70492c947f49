"""Which model a MODEL is, in the words of files that the core writes."""

from __future__ import annotations

from pathlib import Path

from comfy.model_patcher import ModelPatcher

from hypernoise_core.hypernetworks.head_file import LatentSpace

FAMILIES = {
    "SD15": "sd-turbo",
    "SD20": "sd-turbo",
    "SDXL": "sdxl-turbo",
    "Flux": "flux",
    "FluxSchnell": "flux",
    "Flux2": "flux2-klein",
    "ZImage": "z-image",
    "QwenImage": "qwen-image",
    "Krea2": "krea2",
    "SD3": "sd3",
}
"""The core's names of the architectures that ComfyUI calls so; others go by ComfyUI's."""

STILLS_WITH_TIME = frozenset({"QwenImage", "Krea2", "Anima", "CosmosT2IPredict2", "JoyImage", "WAN21_T2V"})
"""Architectures whose latents have a time axis and that make still pictures, if it is one long."""


def makes_stills(model: ModelPatcher) -> bool:
    """Whether this MODEL's latents are those of pictures, not of video, sound or meshes."""
    dimensions = getattr(model.model.latent_format, "latent_dimensions", 2)
    return dimensions == 2 or (dimensions == 3 and type(model.model.model_config).__name__ in STILLS_WITH_TIME)


def identity(model: ModelPatcher) -> tuple[str, str]:
    """(family, name)."""
    own = getattr(model.model, "generator", None)  # of a model that the core loaded
    if own is not None:
        return own.family, own.name
    kind = type(model.model.model_config).__name__
    family = FAMILIES.get(kind, kind.lower())
    source = getattr(model, "cached_patcher_init", None)  # (loader, (file, …)); older hosts lack it
    return family, Path(source[1][0]).stem if source and isinstance(source[1][0], str) else family


def latent_space(model: ModelPatcher) -> LatentSpace:
    latents = model.model.latent_format
    return LatentSpace(
        channels=latents.latent_channels,
        scale=int(getattr(latents, "spacial_downscale_ratio", 8)),
        scaling=float(getattr(latents, "scale_factor", 1.0)),
    )
