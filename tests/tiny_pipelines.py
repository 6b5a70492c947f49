"""The families' real pipelines at toy size, built in code with random weights: same classes, same arithmetic."""

import math

import torch
from diffusers import (
    AutoencoderDC,
    AutoencoderKL,
    AutoencoderKLFlux2,
    AutoencoderKLQwenImage,
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
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLModel,
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


CHAT = (
    "{% for message in messages %}{{ message['role'] + ' ' + message['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}assistant{% endif %}"
)
"""A chat template, which language models read prompts in."""


def chat_tokenizer(length=64):
    """Bytes, as those of language models: it tells every word, and adds no token of its own."""
    ids = {chr(i): i + 1 for i in range(32, 127)} | {"<pad>": 0, "\n": 1}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    special = {"pad_token": "<pad>", "chat_template": CHAT, "padding_side": "right"}
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=length, **special)


LANGUAGE = {
    "vocab_size": 128, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "pad_token_id": 0, "bos_token_id": None, "eos_token_id": None,
}  # fmt: skip
"""The shape of a language model."""

SECTIONS = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
"""What each of a vision-language model's three kinds of position turns."""


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


def z_image():
    transformer = ZImageTransformer2DModel(
        in_channels=4, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[4, 6, 6], axes_lens=[256, 64, 64],
    )  # fmt: skip
    autoencoder = autoencoder_kl(
        shift_factor=0.1159, scaling_factor=0.3611, use_quant_conv=False, use_post_quant_conv=False
    )
    return ZImagePipeline(
        FlowMatchEulerDiscreteScheduler(shift=3.0), autoencoder, Qwen3Model(Qwen3Config(**LANGUAGE)), chat_tokenizer(),
        transformer,
    )  # fmt: skip


def flux2_klein():
    transformer = Flux2Transformer2DModel(
        in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=3 * 16, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
    )  # fmt: skip
    autoencoder = AutoencoderKLFlux2(
        block_out_channels=(8, 16), norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4,
    )  # fmt: skip
    autoencoder.bn.running_mean.normal_()
    autoencoder.bn.running_var.uniform_(0.5, 2)
    text = Qwen3ForCausalLM(Qwen3Config(**LANGUAGE | {"num_hidden_layers": 28}))  # it reads layers 9, 18 and 27
    return Flux2KleinPipeline(
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), autoencoder, text, chat_tokenizer(), transformer,
        is_distilled=True,
    )  # fmt: skip


def video_autoencoder():
    return AutoencoderKLQwenImage(
        base_dim=8, z_dim=4, dim_mult=[1, 2], num_res_blocks=1, temperal_downsample=[True],
        latents_mean=[-0.7571, -0.7089, -0.9113, 0.1075], latents_std=[2.8184, 1.4541, 2.3275, 2.6558],
    )  # fmt: skip


def qwen_image():
    transformer = QwenImageTransformer2DModel(
        in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16}
    text = Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(text_config={**LANGUAGE, "rope_parameters": SECTIONS}, vision_config=vision)
    )
    shift = math.log(3)  # Lightning's: the same at every size, and none at the end
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=shift, max_shift=shift)
    return QwenImagePipeline(scheduler, video_autoencoder(), text, chat_tokenizer(1024), transformer)


def krea2():
    transformer = Krea2Transformer2DModel(
        in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=64, timestep_embed_dim=32, text_hidden_dim=16, num_text_layers=2, text_num_attention_heads=2,
        text_num_key_value_heads=2, text_intermediate_size=32, num_layerwise_text_blocks=1, num_refiner_text_blocks=1,
        axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
        "deepstack_visual_indexes": [0],
    }  # fmt: skip
    text = Qwen3VLModel(Qwen3VLConfig(text_config={**LANGUAGE, "rope_parameters": SECTIONS}, vision_config=vision))
    for parameter in transformer.parameters():  # its modulations start at 0, and so does all that they gate
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.2)
    return Krea2Pipeline(
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True), video_autoencoder(), text, chat_tokenizer(256),
        transformer, text_encoder_select_layers=(1, 2), is_distilled=True,
    )  # fmt: skip


def stable_diffusion_3():
    transformer = SD3Transformer2DModel(
        sample_size=32, patch_size=2, in_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64, out_channels=4,
        pos_embed_max_size=64, qk_norm="rms_norm",
    )  # fmt: skip
    t5 = T5EncoderModel(T5Config(vocab_size=len(WORDS) + 4, d_model=64, d_kv=8, d_ff=64, num_layers=1, num_heads=4))
    return StableDiffusion3Pipeline(
        transformer, FlowMatchEulerDiscreteScheduler(shift=3.0),
        autoencoder_kl(shift_factor=0.0609, scaling_factor=1.5305, use_quant_conv=False, use_post_quant_conv=False),
        clip_text(CLIPTextModelWithProjection), tokenizer(), clip_text(CLIPTextModelWithProjection), tokenizer(),
        t5, tokenizer(),
    )  # fmt: skip


BUILDERS = {
    "sd-turbo": sd_turbo,
    "sdxl-turbo": sdxl_turbo,
    "sana-sprint": sana_sprint,
    "flux": flux_schnell,
    "z-image": z_image,
    "flux2-klein": flux2_klein,
    "qwen-image": qwen_image,
    "krea2": krea2,
    "sd3": stable_diffusion_3,
}


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
