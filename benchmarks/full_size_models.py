"""Models to measure: the released ones with the paper's settings, and slices of them that a CPU can run."""

from collections.abc import Callable
from dataclasses import dataclass

from diffusers import (
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    FluxTransformer2DModel,
    Krea2Transformer2DModel,
    QwenImageTransformer2DModel,
    ZImageTransformer2DModel,
)

from hypernoise_core.planning import released
from hypernoise_core.planning.released import CONFIGURATIONS, Configuration


@dataclass(frozen=True, kw_only=True)
class Model(Configuration):
    """How a model is built, and how the paper trains it."""

    title: str
    rank: int
    alpha: float
    optimizer: str


def _model(title: str, configuration: Configuration, rank: int, alpha: float, optimizer: str) -> Model:
    return Model(**vars(configuration), title=title, rank=rank, alpha=alpha, optimizer=optimizer)


def _slice(title: str, denoiser: Callable, autoencoder: Callable, pipeline: Callable) -> Model:
    """Of a rectified flow, at the rank of FLUX."""
    return _model(title, Configuration(denoiser, autoencoder, pipeline, ()), 128, 256, "adamw")


MODELS = {
    "sd-turbo": _model("SD-Turbo", CONFIGURATIONS["sd-turbo"], 256, 256, "adamw"),
    # not in the paper: trained as SD-Turbo
    "sdxl-turbo": _model("SDXL-Turbo", CONFIGURATIONS["sdxl-turbo"], 256, 256, "adamw"),
    "sana": _model("SANA-Sprint 0.6B", CONFIGURATIONS["sana"], 128, 256, "sgd"),
    "sana-1.6b": _model("SANA-Sprint 1.6B", CONFIGURATIONS["sana-1.6b"], 128, 256, "sgd"),
    "flux": _model("FLUX.1-schnell", CONFIGURATIONS["flux"], 128, 640, "adamw"),
    "flux-two-blocks": _slice(
        "FLUX, one block of each kind",
        lambda: FluxTransformer2DModel(num_layers=1, num_single_layers=1),
        released.flux_autoencoder,
        released.flux_pipeline,
    ),
    "z-image-three-blocks": _slice(
        "Z-Image, one block of each kind",
        lambda: ZImageTransformer2DModel(n_layers=1, n_refiner_layers=1),
        released.flux_autoencoder,
        released.z_image_pipeline,
    ),
    "flux2-klein-two-blocks": _slice(
        "FLUX.2 klein 4B, one block of each kind",
        lambda: released.flux2_klein_transformer(1, 1),
        AutoencoderKLFlux2,
        released.flux2_klein_pipeline,
    ),
    "krea2-three-blocks": _slice(
        "Krea 2, one block of each kind",
        lambda: Krea2Transformer2DModel(num_layers=1, num_layerwise_text_blocks=1, num_refiner_text_blocks=1),
        AutoencoderKLQwenImage,
        released.krea2_pipeline,
    ),
    "qwen-image-one-block": _slice(
        "Qwen-Image, one block",
        lambda: QwenImageTransformer2DModel(num_layers=1),
        AutoencoderKLQwenImage,
        released.qwen_image_pipeline,
    ),
}
