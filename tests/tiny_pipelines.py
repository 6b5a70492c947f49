"""The families' real pipelines at toy size, built in code with random weights: same classes, same arithmetic."""

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    SanaSprintPipeline,
    SanaTransformer2DModel,
    SCMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from hypernoise_core.generators import FAMILIES

WORDS = ["a", "photo", "of", "two", "three", "red", "blue", "square", "cross", "triangle", "and", "left", "right"]
PROMPTS = ["a photo of a red square", "two blue triangle and a cross", "three square"]


def tokenizer(length=16):
    ids = {token: i for i, token in enumerate(["<pad>", "<bos>", "<eos>", "<unk>", *WORDS])}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<bos>", ids["<bos>"]), ("<eos>", ids["<eos>"])]
    backend.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    special = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=length, padding_side="right", **special)


def clip_text(kind=CLIPTextModel):
    config = CLIPTextConfig(
        vocab_size=len(WORDS) + 4, hidden_size=32, intermediate_size=64, projection_dim=32, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return kind(config)


def autoencoder_kl(**config):
    return AutoencoderKL(
        block_out_channels=(8, 16), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, **config,
    )  # fmt: skip


def unet(**config):
    return UNet2DConditionModel(
        sample_size=16, block_out_channels=(16, 32), layers_per_block=1, norm_num_groups=4, cross_attention_dim=32,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        attention_head_dim=(2, 4), use_linear_projection=True, **config,
    )  # fmt: skip


SCHEDULE = {
    "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "timestep_spacing": "trailing",
    "steps_offset": 1,
}  # fmt: skip


def sd_turbo():
    return StableDiffusionPipeline(
        autoencoder_kl(), clip_text(), tokenizer(), unet(), EulerDiscreteScheduler(**SCHEDULE),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def sdxl_turbo():
    extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    return StableDiffusionXLPipeline(
        autoencoder_kl(), clip_text(), clip_text(CLIPTextModelWithProjection), tokenizer(), tokenizer(),
        UNet2DConditionModel.from_config(
            unet(**extra, projection_class_embeddings_input_dim=6 * 8 + 32).config, cross_attention_dim=64
        ),
        EulerAncestralDiscreteScheduler(**SCHEDULE),
    )  # fmt: skip


def sana_sprint():
    autoencoder = AutoencoderDC(
        latent_channels=4, attention_head_dim=8, encoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "ResBlock", "EfficientViTBlock"), encoder_block_out_channels=(8, 16, 32),
        decoder_block_out_channels=(8, 16, 32), encoder_layers_per_block=(1, 1, 1), decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), (5,)), decoder_qkv_multiscales=((), (), (5,)), scaling_factor=0.41407,
    )  # fmt: skip
    transformer = SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32, caption_channels=32,
        sample_size=8, patch_size=1, qk_norm="rms_norm_across_heads", guidance_embeds=True,
    )  # fmt: skip
    text = Gemma2Model(
        Gemma2Config(
            vocab_size=len(WORDS) + 4, hidden_size=32, intermediate_size=64, num_hidden_layers=1, head_dim=8,
            num_attention_heads=4, num_key_value_heads=4, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip
    return SanaSprintPipeline(tokenizer(300), text, autoencoder, transformer, SCMScheduler(sigma_data=0.5))


def flux_schnell():
    transformer = FluxTransformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
    )  # fmt: skip
    t5 = T5EncoderModel(T5Config(vocab_size=len(WORDS) + 4, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4))
    return FluxPipeline(
        FlowMatchEulerDiscreteScheduler(shift=1.0),
        autoencoder_kl(shift_factor=0.0609, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False),
        clip_text(), tokenizer(), t5, tokenizer(), transformer,
    )  # fmt: skip


BUILDERS = {"sd-turbo": sd_turbo, "sdxl-turbo": sdxl_turbo, "sana-sprint": sana_sprint, "flux": flux_schnell}


def tiny_pipeline(family, seed=0):
    """The toy pipeline of a family, the same every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline = BUILDERS[family]()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def tiny_generator(family, seed=0):
    pipeline = tiny_pipeline(family, seed)
    return FAMILIES[type(pipeline).__name__](pipeline, name=f"tiny-{family}")
