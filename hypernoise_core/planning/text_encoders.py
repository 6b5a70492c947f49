"""The text encoders of released models, by their configurations."""

from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    Gemma2Config,
    Gemma2Model,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3Config,
    Qwen3Model,
    Qwen3VLConfig,
    Qwen3VLModel,
    T5Config,
    T5EncoderModel,
)


def clip_l() -> PreTrainedModel:
    """OpenAI's CLIP ViT-L/14."""
    return CLIPTextModel(_clip(768, 12))


def openclip_h() -> PreTrainedModel:
    """OpenCLIP's ViT-H/14 without its last layer, as Stable Diffusion 2 and SD-Turbo have it."""
    return CLIPTextModel(_clip(1024, 23))


def openclip_g() -> PreTrainedModel:
    """OpenCLIP's ViT-bigG/14."""
    return CLIPTextModelWithProjection(_clip(1280, 32))


def _clip(width: int, layers: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        projection_dim=width,
    )


def t5_xxl() -> PreTrainedModel:
    """The encoder of T5 v1.1 XXL."""
    return T5EncoderModel(
        T5Config(d_model=4096, d_ff=10240, num_layers=24, num_heads=64, feed_forward_proj="gated-gelu")
    )


def gemma2_2b() -> PreTrainedModel:
    return Gemma2Model(Gemma2Config())


def qwen3_4b() -> PreTrainedModel:
    return Qwen3Model(
        Qwen3Config(
            hidden_size=2560,
            intermediate_size=9728,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            head_dim=128,
        )
    )


def qwen3_vl(width: int, inner: int, layers: int, heads: int, vision: dict, tied: bool = True) -> Qwen3VLConfig:
    """One of the sizes of Qwen3-VL."""
    text = {
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
    }
    return Qwen3VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=tied)


SMALLER_VISION = {"depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "deepstack_visual_indexes": [5, 11, 17]}
"""Of Qwen3-VL's 2B and 4B; the 8B has the default of transformers."""


def qwen3_vl_4b_config() -> Qwen3VLConfig:
    return qwen3_vl(2560, 9728, 36, 32, SMALLER_VISION | {"out_hidden_size": 2560})


def qwen3_vl_4b() -> PreTrainedModel:
    return Qwen3VLModel(qwen3_vl_4b_config())


def qwen25_vl_7b() -> PreTrainedModel:
    text = {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
    }
    vision = {"depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584}
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision))
