"""ComfyUI's image families at toy size, with random weights: one of each denoiser class."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from unittest.mock import patch

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch
from torch import nn

FLUX = dict(
    image_model="flux", in_channels=16, out_channels=16, vec_in_dim=32, context_in_dim=64, hidden_size=128,
    mlp_ratio=2.0, num_heads=1, depth=1, depth_single_blocks=1, axes_dim=[16, 56, 56], theta=10000, patch_size=2,
    qkv_bias=True, guidance_embed=False, txt_ids_dims=[],
)  # fmt: skip
FLUX2 = FLUX | dict(
    image_model="flux2", in_channels=128, out_channels=128, vec_in_dim=None, axes_dim=[32, 32, 32, 32], theta=2000,
    patch_size=1, qkv_bias=False, txt_ids_dims=[3], global_modulation=True, mlp_silu_act=True, ops_bias=False,
)  # fmt: skip
CHROMA = dict(
    image_model="chroma", in_channels=64, out_channels=64, in_dim=64, out_dim=128, hidden_dim=64, n_layers=1,
    hidden_size=128, context_in_dim=64, mlp_ratio=2.0, num_heads=1, depth=1, depth_single_blocks=1,
    axes_dim=[16, 56, 56], theta=10000, patch_size=2, qkv_bias=True, txt_ids_dims=[], vec_in_dim=None,
)  # fmt: skip
LUMINA = dict(
    image_model="lumina2", patch_size=2, in_channels=16, dim=256, cap_feat_dim=64, n_layers=1, n_refiner_layers=1,
    qk_norm=True, n_heads=2, n_kv_heads=2, axes_dims=[32, 48, 48], axes_lens=[300, 512, 512], rope_theta=256.0,
    ffn_dim_multiplier=2.0,
)  # fmt: skip
Z_IMAGE = LUMINA | dict(z_image_modulation=True, time_scale=1000.0, pad_tokens_multiple=32)
UNET = dict(
    image_size=32, in_channels=4, out_channels=4, model_channels=32, num_res_blocks=[1], channel_mult=[1],
    transformer_depth=[1], transformer_depth_middle=1, transformer_depth_output=[1, 1], num_head_channels=32,
    num_heads=-1, use_spatial_transformer=True, legacy=False, context_dim=64, use_linear_in_transformer=True,
    adm_in_channels=None, use_temporal_attention=False,
)  # fmt: skip
COSMOS = dict(
    image_model="cosmos_predict2", max_img_h=32, max_img_w=32, max_frames=4, in_channels=16, out_channels=16,
    patch_spatial=2, patch_temporal=1, model_channels=64, concat_padding_mask=True, crossattn_emb_channels=64,
    pos_emb_cls="rope3d", pos_emb_learnable=True, pos_emb_interpolation="crop", min_fps=1, max_fps=30,
    use_adaln_lora=True, adaln_lora_dim=16, num_blocks=1, num_heads=1,
)  # fmt: skip


@dataclass(frozen=True)
class Family:
    """A class of `comfy.supported_models`, and the arguments of its denoiser."""

    config: str
    settings: dict
    width: int = 64
    """Of the text's tokens."""
    pooled: int = 32
    more: dict = field(default_factory=dict)
    """Shapes of what its text encoder gives beside tokens and pooled text."""
    side: int = 64
    """Pixels: the least that it can do, or what is fast."""
    unused: str = ""
    """A class of its denoiser's that is left away, because its size is fixed."""


FAMILIES = {
    "SD1.x": Family("SD15", UNET | dict(use_linear_in_transformer=False, num_heads=1, num_head_channels=-1)),
    "SD2.x": Family("SD20", UNET | dict(model_channels=64)),
    "SDXL": Family("SDXL", UNET | dict(model_channels=64, adm_in_channels=6 * 256 + 32, num_classes="sequential")),
    "Stable Cascade C": Family(
        "Stable_Cascade_C",
        dict(
            stable_cascade_stage="c", c_hidden=[64, 64], nhead=[1, 1], blocks=[[1, 1], [1, 1]], c_cond=64,
            c_clip_text=64, c_clip_text_pooled=32,
        ),
    ),
    "SD3": Family(
        "SD3",
        dict(
            in_channels=16, out_channels=16, pos_embed_scaling_factor=None, patch_size=2, depth=1, input_size=None,
            num_patches=64, pos_embed_max_size=8, adm_in_channels=32,
            context_embedder_config={"target": "torch.nn.Linear", "params": {"in_features": 64, "out_features": 64}},
        ),
    ),
    "AuraFlow": Family(
        "AuraFlow", dict(cond_seq_dim=64, dim=64, n_layers=2, n_double_layers=1, n_heads=1, max_seq=64)
    ),
    "PixArt-α": Family(
        "PixArtAlpha",
        dict(
            image_model="pixart_alpha", input_size=64, pe_interpolation=1, hidden_size=96, depth=1, num_heads=1,
            caption_channels=64, micro_condition=True,
        ),
        side=320,
    ),
    "PixArt-Σ": Family(
        "PixArtSigma",
        dict(
            image_model="pixart_sigma", input_size=128, pe_interpolation=2, hidden_size=64, depth=1, num_heads=1,
            caption_channels=64, micro_condition=False,
        ),
        side=320,
    ),
    "HunyuanDiT": Family(
        "HunyuanDiT",
        dict(
            image_model="hydit", hidden_size=64, depth=2, num_heads=1, text_states_dim=64, text_states_dim_t5=48,
            text_len=77, text_len_t5=16,
        ),
        more={"conditioning_mt5xl": (1, 16, 48), "attention_mask_mt5xl": (1, 16), "attention_mask": (1, 77)},
    ),
    "FLUX.1": Family("FluxSchnell", FLUX),
    "FLUX.1 dev": Family("Flux", FLUX | dict(guidance_embed=True)),
    "FLUX.2": Family("Flux2", FLUX2),
    "LongCat-Image": Family("LongCatImage", FLUX | dict(vec_in_dim=None, txt_ids_dims=[1, 2])),
    "Ovis-Image": Family(
        "Flux", FLUX | dict(vec_in_dim=None, txt_ids_dims=[1, 2], yak_mlp=True, txt_norm=True)
    ),
    "Chroma": Family("Chroma", CHROMA),
    "Chroma Radiance": Family(
        "ChromaRadiance",
        CHROMA | dict(
            image_model="chroma_radiance", in_channels=3, out_channels=3, patch_size=16, nerf_hidden_size=16,
            nerf_mlp_ratio=2, nerf_depth=1, nerf_max_freqs=4, nerf_tile_size=32, nerf_final_head_type="conv",
            nerf_embedder_dtype=torch.float32, use_x0=False, use_sequential_txt_ids=False,
        ),
    ),
    "Lens": Family(
        "Lens",
        dict(
            image_model="lens", num_layers=1, attention_head_dim=64, num_attention_heads=1, enc_hidden_dim=64,
            multi_layer_encoder_feature=False,
        ),
    ),
    "Lumina 2": Family("Lumina2", LUMINA | dict(axes_dims=[32, 48, 48])),
    "Z-Image": Family("ZImage", Z_IMAGE),
    "HiDream-I1": Family(
        "HiDream",
        dict(
            image_model="hidream", attention_head_dim=64, axes_dims_rope=[32, 16, 16], caption_channels=[64, 64],
            max_resolution=[8, 8], in_channels=16, llama_layers=[0, 1], num_attention_heads=1, num_routed_experts=2,
            num_activated_experts=1, num_layers=1, num_single_layers=1, out_channels=16, patch_size=2, text_emb_dim=32,
        ),
        more={"conditioning_llama3": (1, 2, 9, 64)},
    ),
    "OmniGen2": Family(
        "Omnigen2",
        dict(
            image_model="omnigen2", axes_dim_rope=[24, 20, 20], axes_lens=[64, 64, 64], hidden_size=64, in_channels=16,
            multiple_of=16, num_attention_heads=1, num_kv_heads=1, num_layers=1, num_refiner_layers=1, patch_size=2,
            text_feat_dim=64, timestep_scale=1000.0,
        ),
        more={"attention_mask": (1, 9)},
    ),
    "Boogu": Family(
        "Boogu",
        dict(
            image_model="boogu", axes_dim_rope=[24, 20, 20], axes_lens=[64, 64, 64], hidden_size=64, multiple_of=16,
            num_attention_heads=1, num_kv_heads=1, num_layers=1, num_double_stream_layers=1, num_refiner_layers=1,
            instruction_feat_dim=64,
        ),
        more={"attention_mask": (1, 9)},
    ),
    "Ideogram 4": Family(
        "Ideogram4",
        dict(
            image_model="ideogram4", in_channels=128, num_layers=1, num_attention_heads=1, attention_head_dim=256,
            intermediate_size=64, adaln_dim=32, llm_features_dim=64,
        ),
    ),
    "MageFlow": Family(
        "MageFlow",
        dict(
            image_model="mage_flow", in_channels=128, num_layers=1, num_attention_heads=1, joint_attention_dim=64,
        ),
    ),
    "HunyuanImage 2.1": Family(
        "HunyuanImage21",
        dict(
            image_model="hunyuan_video", vec_in_dim=None, in_channels=64, out_channels=64, patch_size=[1, 1],
            context_in_dim=64, hidden_size=128, mlp_ratio=2.0, num_heads=1, depth=1, depth_single_blocks=1,
            axes_dim=[64, 64], theta=256, qkv_bias=True, guidance_embed=False, byt5=False, meanflow=False,
            use_cond_type_embedding=False, vision_in_dim=None, meanflow_sum=False,
        ),
    ),
    "Kandinsky 5 Image": Family(
        "Kandinsky5Image",
        dict(
            image_model="kandinsky5", model_dim=128, visual_embed_dim=64, axes_dims=(32, 48, 48), time_dim=32,
            ff_dim=64, num_text_blocks=1, num_visual_blocks=1, rope_scale_factor=(1.0, 1.0, 1.0), in_text_dim=64,
            in_text_dim2=32,
        ),
    ),
    "ERNIE-Image": Family(
        "ErnieImage",
        dict(
            image_model="ernie", hidden_size=128, num_attention_heads=1, num_layers=1, ffn_hidden_size=64,
            text_in_dim=64,
        ),
    ),
    "Cosmos Predict2": Family("CosmosT2IPredict2", COSMOS),
    "Anima": Family("Anima", COSMOS | dict(image_model="anima"), unused="comfy.ldm.anima.model.LLMAdapter"),
    "Qwen-Image": Family(
        "QwenImage",
        dict(
            image_model="qwen_image", num_layers=1, attention_head_dim=128, num_attention_heads=1,
            joint_attention_dim=64,
        ),
    ),
    "Krea 2": Family(
        "Krea2",
        dict(
            image_model="krea2", features=128, tdim=32, txtdim=64, heads=1, kvheads=1, multiplier=2, layers=1,
            txtlayers=2, txtheads=1, txtkvheads=1,
        ),
        width=128,
    ),
    "JoyImage": Family(
        "JoyImage",
        dict(image_model="joyimage", hidden_size=128, num_attention_heads=1, text_dim=64, num_layers=1),
    ),
    "Wan 2.1": Family(
        "WAN21_T2V",
        dict(image_model="wan2.1", model_type="t2v", dim=128, ffn_dim=64, num_heads=1, num_layers=1, text_dim=64),
    ),
    "PixelDiT": Family(
        "PixelDiTT2I",
        dict(
            image_model="pixeldit_t2i", num_groups=1, hidden_size=64, pixel_hidden_size=4, pixel_attn_hidden_size=16,
            pixel_num_groups=1, patch_depth=1, pixel_depth=1, txt_embed_dim=64, txt_max_length=32,
        ),
    ),
    "Z-Image (pixels)": Family(
        "ZImagePixelSpace",
        Z_IMAGE | dict(
            image_model="zimage_pixel", in_channels=3, patch_size=16, decoder_hidden_size=32,
            decoder_num_res_blocks=1, decoder_max_freqs=2,
        ),
    ),
}  # fmt: skip
"""By the names that users know."""

VIDEO = {"Wan 2.1 for video": Family("WAN21_FlowRVS", FAMILIES["Wan 2.1"].settings)}
"""What is refused."""


def patcher_of(config, weights=None):
    """A MODEL of ComfyUI's own classes: float32, with these weights or with random ones."""
    config.set_inference_dtype(torch.float32, torch.float32 if config.quant_config else None)
    model = config.get_model(weights or {}, "")
    if weights:
        model.load_model_weights(weights, "")
    else:
        random = torch.Generator().manual_seed(0)
        for name, weight in model.diffusion_model.named_parameters():  # ComfyUI's layers come without any
            scale = weight[0].numel() ** -0.5 if weight.dim() > 1 else 0.1
            weight.copy_(torch.randn(weight.shape, generator=random) * scale + ("norm" in name and weight.dim() == 1))
        for buffer in (b for name, b in model.diffusion_model.named_buffers() if "pos_embed" in name):
            buffer.copy_(torch.randn(buffer.shape, generator=random))
    device = comfy.model_management.get_torch_device()
    return comfy.model_patcher.ModelPatcher(model, device, comfy.model_management.unet_offload_device())


def model_of(family: Family):
    config = getattr(comfy.supported_models, family.config)(dict(family.settings))
    config.unet_config |= family.settings  # it sets some itself
    with ExitStack() as stack:
        if family.unused:
            stack.enter_context(patch(family.unused, lambda **_: nn.Identity()))
        return patcher_of(config)


class RandomClip:
    """Conditionings of random numbers, each prompt its own and as long as it has letters."""

    def __init__(self, width, pooled, more=None):
        self.width, self.pooled, self.more = width, pooled, more or {}

    def tokenize(self, text):
        return text

    def encode_from_tokens_scheduled(self, text):
        random = torch.Generator().manual_seed(sum(map(ord, text)))
        count = self.more.get("attention_mask", (1, 1 + len(text)))[1]
        tokens = torch.randn(1, count, self.width, generator=random)
        rest = {name: torch.randn(shape, generator=random) for name, shape in self.more.items()}
        rest |= {name: torch.ones(shape, dtype=torch.long) for name, shape in self.more.items() if "mask" in name}
        return [[tokens, {"pooled_output": torch.randn(1, self.pooled, generator=random), **rest}]]


class RandomDecoder(nn.Module):
    """Latents of any number of channels and any scale to pictures, in one linear step."""

    def __init__(self, channels, scale):
        super().__init__()
        self.scale = scale
        random = torch.Generator().manual_seed(0)
        self.mix = nn.Parameter(torch.randn(3, channels, generator=random) / channels**0.5, requires_grad=False)

    def decode(self, latents, **_):
        pictures = torch.einsum("oc,bc...->bo...", self.mix, latents).tanh()
        return pictures.repeat_interleave(self.scale, -1).repeat_interleave(self.scale, -2)


def vae_of(model):
    """A VAE for the latents of any MODEL."""
    latents = model.model.latent_format
    vae = comfy.sd.VAE(sd={"pixel_space_vae": torch.tensor(1.0)})
    scale = int(getattr(latents, "spacial_downscale_ratio", 8))
    vae.first_stage_model = RandomDecoder(latents.latent_channels, scale)
    vae.latent_channels, vae.latent_dim = latents.latent_channels, latents.latent_dimensions
    vae.downscale_ratio = vae.upscale_ratio = scale
    if vae.latent_dim == 3:  # as Wan's
        vae.downscale_ratio = vae.upscale_ratio = (lambda frames: frames, scale, scale)
    vae.process_output = lambda image: image.add_(1.0).div_(2.0).clamp_(0.0, 1.0)
    vae.patcher = comfy.model_patcher.ModelPatcher(
        vae.first_stage_model, vae.device, comfy.model_management.vae_offload_device()
    )
    vae.vae_dtype, vae.size = torch.float32, None
    vae.memory_used_decode = lambda shape, dtype: 1
    return vae
