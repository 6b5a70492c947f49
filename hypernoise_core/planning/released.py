"""The released models' configurations, one for each short name: everything but their weights."""

from collections.abc import Callable
from dataclasses import dataclass

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
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import nn
from transformers import PreTrainedModel

from . import text_encoders

SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "timestep_spacing": "trailing",
    "steps_offset": 1,
}


@dataclass(frozen=True)
class Configuration:
    """How a model is built. Nothing is made before the functions are called."""

    denoiser: Callable[[], nn.Module]
    autoencoder: Callable[[], nn.Module]
    pipeline: Callable[[nn.Module, nn.Module], DiffusionPipeline]
    """Of denoiser and autoencoder, without text encoders."""
    text_encoders: tuple[Callable[[], PreTrainedModel], ...]


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


def sd3_transformer() -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=128,
        num_layers=38,
        num_attention_heads=38,
        caption_projection_dim=2432,
        joint_attention_dim=4096,
        pooled_projection_dim=2048,
        pos_embed_max_size=192,
        qk_norm="rms_norm",
    )


def sd3_autoencoder() -> AutoencoderKL:
    return autoencoder_kl(
        latent_channels=16, scaling_factor=1.5305, shift_factor=0.0609, use_quant_conv=False, use_post_quant_conv=False
    )


def sd3_pipeline(transformer, vae) -> StableDiffusion3Pipeline:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    return StableDiffusion3Pipeline(transformer, scheduler, vae, *[None] * 6)


def flux2_klein_transformer(layers: int, single_layers: int) -> Flux2Transformer2DModel:
    return Flux2Transformer2DModel(
        num_layers=layers,
        num_single_layers=single_layers,
        num_attention_heads=24,
        joint_attention_dim=7680,
        guidance_embeds=False,
    )


def _sana(layers: int, heads: int, cross_heads: int) -> Configuration:
    return Configuration(
        lambda: sana_transformer(layers, heads, cross_heads), autoencoder_dc, sana_pipeline, (text_encoders.gemma2_2b,)
    )


CONFIGURATIONS = {
    "sana": _sana(28, 36, 16),
    "sana-1.6b": _sana(20, 70, 20),
    "sd-turbo": Configuration(
        sd_unet, lambda: autoencoder_kl(latent_channels=4), sd_pipeline, (text_encoders.openclip_h,)
    ),
    "sdxl-turbo": Configuration(
        sdxl_unet,
        lambda: autoencoder_kl(latent_channels=4, scaling_factor=0.13025),
        sdxl_pipeline,
        (text_encoders.clip_l, text_encoders.openclip_g),
    ),
    "flux": Configuration(
        FluxTransformer2DModel, flux_autoencoder, flux_pipeline, (text_encoders.clip_l, text_encoders.t5_xxl)
    ),
    "z-image-turbo": Configuration(
        ZImageTransformer2DModel, flux_autoencoder, z_image_pipeline, (text_encoders.qwen3_4b,)
    ),
    "flux2-klein-4b": Configuration(
        lambda: flux2_klein_transformer(5, 20), AutoencoderKLFlux2, flux2_klein_pipeline, (text_encoders.qwen3_4b,)
    ),
    "krea2-turbo": Configuration(
        Krea2Transformer2DModel, AutoencoderKLQwenImage, krea2_pipeline, (text_encoders.qwen3_vl_4b,)
    ),
    "qwen-image": Configuration(
        QwenImageTransformer2DModel, AutoencoderKLQwenImage, qwen_image_pipeline, (text_encoders.qwen25_vl_7b,)
    ),
    "sd3.5-turbo": Configuration(
        sd3_transformer,
        sd3_autoencoder,
        sd3_pipeline,
        (text_encoders.clip_l, text_encoders.openclip_g, text_encoders.t5_xxl),
    ),
}
"""By short name. The embedded generator is a folder, as any other model that was saved by diffusers."""
