"""The transformers that people run at toy size, as diffusers pipelines here and as files with ComfyUI's names: Z-Image,
FLUX.2 klein, Qwen-Image, Krea 2 and SD3."""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from diffusers import (
    Flux2Transformer2DModel,
    Krea2Transformer2DModel,
    QwenImageTransformer2DModel,
    SD3Transformer2DModel,
    ZImageTransformer2DModel,
)
from diffusers.models.transformers.transformer_z_image import TimestepEmbedder
from safetensors.torch import save_file
from tiny_pipelines import tiny_pipeline
from torch import Tensor, nn

from hypernoise_core import TensorBatch
from hypernoise_core.generators import FAMILIES
from hypernoise_core.hypernetworks.comfy_keys import key_map
from hypernoise_core.layers import target_names

POOLED = 32


def z_image() -> nn.Module:
    transformer = ZImageTransformer2DModel(
        in_channels=16, dim=384, n_layers=1, n_refiner_layers=1, n_heads=3, n_kv_heads=3, cap_feat_dim=64,
        axes_dims=[32, 48, 48], axes_lens=[256, 64, 64],
    )  # fmt: skip
    transformer.t_embedder = TimestepEmbedder(256, mid_size=384)  # ComfyUI's is 1024 wide at full size alone
    return transformer


def flux2_klein() -> nn.Module:
    return Flux2Transformer2DModel(
        in_channels=128, num_layers=1, num_single_layers=1, attention_head_dim=128, num_attention_heads=1,
        joint_attention_dim=64, axes_dims_rope=(32, 32, 32, 32), guidance_embeds=False,
    )  # fmt: skip


def qwen_image() -> nn.Module:
    return QwenImageTransformer2DModel(
        in_channels=64, out_channels=16, num_layers=2, attention_head_dim=128, num_attention_heads=1,
        joint_attention_dim=64,
    )  # fmt: skip


def krea2() -> nn.Module:
    return Krea2Transformer2DModel(
        in_channels=64, num_layers=1, attention_head_dim=128, num_attention_heads=2, num_key_value_heads=1,
        intermediate_size=768, text_hidden_dim=64, num_text_layers=2, text_num_attention_heads=1,
        text_num_key_value_heads=1, text_intermediate_size=256,
    )  # fmt: skip


def stable_diffusion_3() -> nn.Module:
    return SD3Transformer2DModel(
        sample_size=16, patch_size=2, in_channels=16, num_layers=2, attention_head_dim=64, num_attention_heads=2,
        joint_attention_dim=64, caption_projection_dim=128, pooled_projection_dim=POOLED, out_channels=16,
        pos_embed_max_size=16, qk_norm="rms_norm", dual_attention_layers=(0,),
    )  # fmt: skip


@dataclass(frozen=True)
class Modern:
    """A family that is here and in ComfyUI."""

    transformer: Callable[[], nn.Module]
    config: str
    """Its class in `comfy.supported_models`."""
    settings: dict = field(default_factory=dict)
    """What ComfyUI does not tell from a file so small."""
    norms: dict[str, str] = field(default_factory=dict)
    """diffusers' names of what is no Linear and no Conv2d, to ComfyUI's: patterns and what they become."""
    tokens: int = 7
    text: tuple[int, ...] = (64,)
    """Shape of a token."""
    masks: bool = True
    """The core keeps a mask with the text."""
    size: tuple[int, int] = (96, 80)
    """Width and height, in pixels: no square, and an odd number of tokens along one side."""


MODERN = {
    "z-image": Modern(
        z_image,
        "ZImage",
        dict(
            n_refiner_layers=1, n_heads=3, n_kv_heads=3, axes_dims=[32, 48, 48], axes_lens=[256, 64, 64],
            rope_theta=256.0, ffn_dim_multiplier=8 / 3, z_image_modulation=True, time_scale=1000.0,
            pad_tokens_multiple=32,
        ),
        {r"\.norm_([qk])\.": r".\1_norm."},
    ),
    "flux2-klein": Modern(
        flux2_klein,
        "Flux2",
        norms={
            r"^transformer_blocks\.(\d+)\.attn\.norm_q\.": r"double_blocks.\1.img_attn.norm.query_norm.",
            r"^transformer_blocks\.(\d+)\.attn\.norm_k\.": r"double_blocks.\1.img_attn.norm.key_norm.",
            r"^transformer_blocks\.(\d+)\.attn\.norm_added_q\.": r"double_blocks.\1.txt_attn.norm.query_norm.",
            r"^transformer_blocks\.(\d+)\.attn\.norm_added_k\.": r"double_blocks.\1.txt_attn.norm.key_norm.",
            r"^single_transformer_blocks\.(\d+)\.attn\.norm_q\.": r"single_blocks.\1.norm.query_norm.",
            r"^single_transformer_blocks\.(\d+)\.attn\.norm_k\.": r"single_blocks.\1.norm.key_norm.",
        },
        tokens=512,  # ComfyUI fills shorter texts up to so many
        masks=False,
    ),
    "qwen-image": Modern(
        qwen_image,
        "QwenImage",
        dict(num_attention_heads=1, joint_attention_dim=64),
        size=(96, 64),  # ComfyUI counts positions otherwise where a side is an odd number of tokens: docs/models.md
    ),
    "krea2": Modern(
        krea2,
        "Krea2",
        dict(txtheads=1, txtkvheads=1),
        {
            r"^transformer_blocks\.": "blocks.",
            r"^text_fusion\.": "txtfusion.",
            r"\.attn\.norm_([qk])\.weight$": r".attn.qknorm.\1norm.scale",
            r"\.norm1\.weight$": ".prenorm.scale",
            r"\.norm2\.weight$": ".postnorm.scale",
            r"^txt_in\.norm\.weight$": "txtmlp.0.scale",
            r"^final_layer\.norm\.weight$": "last.norm.scale",
            r"^final_layer\.scale_shift_table$": "last.modulation.lin",
            r"\.scale_shift_table$": ".mod.lin",
        },
        text=(2, 64),
    ),
    "sd3": Modern(
        stable_diffusion_3,
        "SD3",
        norms={
            r"^pos_embed\.pos_embed$": "pos_embed",
            r"^transformer_blocks\.(\d+)\.(attn2?)\.norm_([qk])\.": r"joint_blocks.\1.x_block.\2.ln_\3.",
            r"^transformer_blocks\.(\d+)\.attn\.norm_added_([qk])\.": r"joint_blocks.\1.context_block.attn.ln_\2.",
        },
        masks=False,
    ),
}  # fmt: skip
"""By the core's names of families."""


def modern_generator(name: str, path):
    """A core generator of a family, and its transformer in `path` under ComfyUI's names."""
    family = MODERN[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        transformer = family.transformer()
        with torch.no_grad():
            for parameter in transformer.parameters():  # as made, norms are 1 and tables 0: no mistake would show
                if parameter.dim() == 1 or not parameter.any():
                    parameter += 0.2 * torch.randn(parameter.shape)
    save_file(comfy_weights(transformer, family.norms), path)
    pipeline = tiny_pipeline(name)
    pipeline.transformer, pipeline.vae_scale_factor = transformer, 8
    generator = FAMILIES[type(pipeline).__name__](pipeline, name=f"tiny-{name}")
    generator.encode = lambda prompts: modern_text(name, len(prompts))  # the toy text encoders are narrower
    return generator


def modern_text(name: str, count: int, seed: int = 0) -> TensorBatch:
    """The random numbers of `ProbeConditioning`."""
    family, random = MODERN[name], torch.Generator().manual_seed(seed)
    embeds = torch.randn(1, family.tokens, math.prod(family.text), generator=random)
    text = {"embeds": embeds.view(1, family.tokens, *family.text)}
    pooled = torch.randn(1, POOLED, generator=random)
    if family.masks:
        text["mask"] = torch.ones(1, family.tokens, dtype=torch.bool)
    if name == "sd3":
        text["pooled"] = pooled
    return TensorBatch(text).repeat(count)


def comfy_model(g, name: str, file: str):
    """(MODEL, CONDITIONING) of a family in a graph; the outputs after MODEL are CLIP and VAE."""
    family = MODERN[name]
    size = dict(width=math.prod(family.text), pooled=POOLED)
    model = g.ProbeWeights(file=file, config=family.config, settings=json.dumps(family.settings), **size)
    return model, g.ProbeConditioning(**size, seed=0, tokens=family.tokens)


def comfy_weights(transformer: nn.Module, norms: dict[str, str]) -> dict[str, Tensor]:
    """A transformer's weights under ComfyUI's names, fused and swapped where ComfyUI's layers are."""
    keys, rest, result = key_map(target_names(transformer)), transformer.state_dict(), {}
    for name, parts in keys.layers.items():
        for kind in ("weight", "bias"):
            if tensors := [rest.pop(f"{part}.{kind}") for part in parts if f"{part}.{kind}" in rest]:
                whole = torch.cat(tensors)
                whole = torch.cat(whole.chunk(2)[::-1]) if name in keys.swapped else whole
                result[f"{name}.{kind}"] = whole
    for name, tensor in rest.items():
        for pattern, becomes in norms.items():
            name = re.sub(pattern, becomes, name)
        flat = re.search(r"blocks\.\d+\.mod\.lin$", name)  # Krea 2's
        result[name] = tensor.flatten() if flat else tensor
    return {name: tensor.contiguous() for name, tensor in result.items()}
