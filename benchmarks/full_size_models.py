"""The released models' configurations, to be built with random weights: no download, the real shapes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
    DiffusionPipeline,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
    Krea2Pipeline,
    Krea2Transformer2DModel,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import nn

from hypernoise_core import TensorBatch
from hypernoise_core.generators import FAMILIES, DiffusersGenerator

SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Model:
    """A full-size model: how it is built, what stands for a prompt, and how the paper trains it."""

    title: str
    denoiser: Callable[[], nn.Module]
    autoencoder: Callable[[], nn.Module]
    pipeline: Callable[[nn.Module, nn.Module], DiffusionPipeline]
    """Of denoiser and autoencoder; schedulers are made here, outside of whatever the modules are built under."""
    conditioning: dict[str, tuple[int, ...]]
    """Shapes of one prompt's tensors; `mask` is all ones."""
    rank: int
    alpha: float
    optimizer: str

    def generator(self, denoiser: nn.Module, autoencoder: nn.Module, name: str, device: str) -> DiffusersGenerator:
        """The family's, with random conditionings. Text encoders are left out: training calls them once a prompt,
        before it starts, and may keep them off the device."""
        del autoencoder.encoder  # nothing here reads images
        pipeline = self.pipeline(denoiser, autoencoder)
        generator = FAMILIES[type(pipeline).__name__](pipeline, name)

        def encode(prompts: Sequence[str]) -> TensorBatch:
            shapes = {name: (len(prompts), *shape) for name, shape in self.conditioning.items()}
            make = {"mask": torch.ones}
            return TensorBatch({name: make.get(name, torch.randn)(shape) for name, shape in shapes.items()}).to(device)

        generator.encode = encode
        return generator


def sd_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=64, cross_attention_dim=1024, attention_head_dim=(5, 10, 20, 20), use_linear_projection=True
    )


def sdxl_unet() -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=64,
        block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 2, 10),
        attention_head_dim=(5, 10, 20),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    )


def autoencoder_kl(**config) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        **config,
    )


def flux_autoencoder() -> AutoencoderKL:
    return autoencoder_kl(
        latent_channels=16, scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False, use_post_quant_conv=False
    )


def sana_transformer(layers: int, heads: int, cross_heads: int) -> SanaTransformer2DModel:
    width = 32 * heads
    return SanaTransformer2DModel(
        num_layers=layers,
        num_attention_heads=heads,
        attention_head_dim=32,
        num_cross_attention_heads=cross_heads,
        cross_attention_head_dim=width // cross_heads,
        cross_attention_dim=width,
        caption_channels=2304,
        sample_size=32,
        patch_size=1,
        qk_norm="rms_norm_across_heads",
        guidance_embeds=True,
    )


def autoencoder_dc() -> AutoencoderDC:
    channels, blocks = (128, 256, 512, 512, 1024, 1024), ("ResBlock",) * 3 + ("EfficientViTBlock",) * 3
    scales = ((), (), (), (5,), (5,), (5,))
    return AutoencoderDC(
        latent_channels=32,
        encoder_block_types=blocks,
        decoder_block_types=blocks,
        encoder_block_out_channels=channels,
        decoder_block_out_channels=channels,
        encoder_layers_per_block=(2, 2, 2, 3, 3, 3),
        decoder_layers_per_block=(3, 3, 3, 3, 3, 3),
        encoder_qkv_multiscales=scales,
        decoder_qkv_multiscales=scales,
        upsample_block_type="interpolate",
        downsample_block_type="conv",
        scaling_factor=0.41407,
    )


def sd_pipeline(unet, vae) -> StableDiffusionPipeline:
    scheduler = EulerDiscreteScheduler(**SCHEDULE)
    return StableDiffusionPipeline(vae, None, None, unet, scheduler, None, None, requires_safety_checker=False)


def sdxl_pipeline(unet, vae) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(vae, None, None, None, None, unet, EulerAncestralDiscreteScheduler(**SCHEDULE))


def sana_pipeline(transformer, vae) -> SanaSprintPipeline:
    return SanaSprintPipeline(None, None, vae, transformer, SCMScheduler(sigma_data=0.5))


def flux_pipeline(transformer, vae) -> FluxPipeline:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    return FluxPipeline(scheduler, vae, None, None, None, None, transformer)


def z_image_pipeline(transformer, vae) -> ZImagePipeline:
    return ZImagePipeline(FlowMatchEulerDiscreteScheduler(shift=3.0), vae, None, None, transformer)


def flux2_klein_pipeline(transformer, vae) -> Flux2KleinPipeline:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return Flux2KleinPipeline(scheduler, vae, None, None, transformer, is_distilled=True)


def krea2_pipeline(transformer, vae) -> Krea2Pipeline:
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    return Krea2Pipeline(scheduler, vae, None, None, transformer, is_distilled=True)


def qwen_image_pipeline(transformer, vae) -> QwenImagePipeline:
    return QwenImagePipeline(FlowMatchEulerDiscreteScheduler(shift=3.0), vae, None, None, transformer)


def _flow(title: str, denoiser: Callable, autoencoder: Callable, pipeline: Callable, **conditioning) -> Model:
    """A rectified flow that the paper does not train: at the rank of FLUX."""
    return Model(title, denoiser, autoencoder, pipeline, conditioning, rank=128, alpha=256, optimizer="adamw")


def _sana(title: str, layers: int, heads: int, cross_heads: int) -> Model:
    return Model(
        title,
        lambda: sana_transformer(layers, heads, cross_heads),
        autoencoder_dc,
        sana_pipeline,
        {"embeds": (64, 2304), "mask": (64,)},
        rank=128,
        alpha=256,
        optimizer="sgd",
    )


def _flux(title: str, **blocks: int) -> Model:
    return Model(
        title,
        lambda: FluxTransformer2DModel(**blocks),
        flux_autoencoder,
        flux_pipeline,
        {"embeds": (256, 4096), "pooled": (768,)},
        rank=128,
        alpha=640,
        optimizer="adamw",
    )


MODELS = {
    "sd-turbo": Model(
        "SD-Turbo",
        sd_unet,
        lambda: autoencoder_kl(latent_channels=4),
        sd_pipeline,
        {"embeds": (77, 1024)},
        rank=256,
        alpha=256,
        optimizer="adamw",
    ),
    "sdxl-turbo": Model(  # not in the paper: trained as SD-Turbo
        "SDXL-Turbo",
        sdxl_unet,
        lambda: autoencoder_kl(latent_channels=4, scaling_factor=0.13025),
        sdxl_pipeline,
        {"embeds": (77, 2048), "pooled": (1280,)},
        rank=256,
        alpha=256,
        optimizer="adamw",
    ),
    "sana": _sana("SANA-Sprint 0.6B", 28, 36, 16),
    "sana-1.6b": _sana("SANA-Sprint 1.6B", 20, 70, 20),
    "flux": _flux("FLUX.1-schnell", num_layers=19, num_single_layers=38),
    "flux-two-blocks": _flux("FLUX, one block of each kind", num_layers=1, num_single_layers=1),
    "z-image-three-blocks": _flow(
        "Z-Image, one block of each kind",
        lambda: ZImageTransformer2DModel(n_layers=1, n_refiner_layers=1),
        flux_autoencoder,
        z_image_pipeline,
        embeds=(128, 2560),
        mask=(128,),
    ),
    "flux2-klein-two-blocks": _flow(
        "FLUX.2 klein 4B, one block of each kind",
        lambda: Flux2Transformer2DModel(
            num_layers=1, num_single_layers=1, num_attention_heads=24, joint_attention_dim=7680, guidance_embeds=False
        ),
        AutoencoderKLFlux2,
        flux2_klein_pipeline,
        embeds=(512, 7680),
    ),
    "krea2-three-blocks": _flow(
        "Krea 2, one block of each kind",
        lambda: Krea2Transformer2DModel(num_layers=1, num_layerwise_text_blocks=1, num_refiner_text_blocks=1),
        AutoencoderKLQwenImage,
        krea2_pipeline,
        embeds=(128, 12, 2560),
        mask=(128,),
    ),
    "qwen-image-one-block": _flow(
        "Qwen-Image, one block",
        lambda: QwenImageTransformer2DModel(num_layers=1),
        AutoencoderKLQwenImage,
        qwen_image_pipeline,
        embeds=(128, 3584),
        mask=(128,),
    ),
}
