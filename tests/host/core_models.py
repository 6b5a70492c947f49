"""SD 2.x, SDXL and FLUX-schnell at toy size, as diffusers pipelines here and as files that ComfyUI takes: its own
loaders, but for SDXL, which they know by its full depth alone (`ProbeWeights`)."""

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from safetensors.torch import save_file
from tiny_pipelines import flux_schnell, sd_turbo, sdxl_turbo
from torch import nn

from hypernoise_core import TensorBatch
from hypernoise_core.generators import FAMILIES
from hypernoise_core.hypernetworks.comfy_keys import KeyMap, key_map
from hypernoise_core.layers import target_names

TOKENS, POOLED = 7, 32
"""Of `random_text`."""

RESNET_NORMS = {"norm1": ("conv1", "in_layers.2", "in_layers.0"), "norm2": ("conv2", "out_layers.3", "out_layers.0")}


def tiny_sd(path):
    """A core generator, and its UNet in `path` under ComfyUI's names. ComfyUI knows SD 2.x by its widths alone."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(320,), layers_per_block=1, cross_attention_dim=1024, attention_head_dim=5,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), use_linear_projection=True,
    )  # fmt: skip
    save_file(comfy_state_dict(unet), path)
    pipeline = sd_turbo()
    pipeline.unet = unet
    _set_latents(pipeline, channels=4, scaling_factor=0.18215)
    return _with_random_text(FAMILIES["StableDiffusionPipeline"](pipeline, name="tiny-sd"), width=1024)


def tiny_sdxl(path):
    """As `tiny_sd`."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(64,), layers_per_block=1, cross_attention_dim=64, attention_head_dim=1,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("CrossAttnUpBlock2D",), use_linear_projection=True,
        addition_embed_type="text_time", addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=6 * 256 + POOLED,
    )  # fmt: skip
    save_file(comfy_state_dict(unet), path)
    pipeline = sdxl_turbo()
    pipeline.unet = unet
    _set_latents(pipeline, channels=4, scaling_factor=0.13025)
    return _with_random_text(FAMILIES["StableDiffusionXLPipeline"](pipeline, name="tiny-sdxl"), width=64)


def random_text(count, width, seed=0):
    """Conditionings of random numbers, such as `ProbeConditioning` makes."""
    random = torch.Generator().manual_seed(seed)
    embeds = torch.randn(1, TOKENS, width, generator=random)
    return TensorBatch({"embeds": embeds, "pooled": torch.randn(1, POOLED, generator=random)}).repeat(count)


def _with_random_text(generator, width):
    """The toy pipelines' text encoders are narrower than these denoisers."""
    generator.encode = lambda prompts: random_text(len(prompts), width)
    return generator


def _set_latents(pipeline, channels, **config):
    """An autoencoder with the full-size model's latent space: heads are refused where it differs."""
    pipeline.vae = AutoencoderKL(
        block_out_channels=(8,) * 4, norm_num_groups=4, down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=channels, **config,
    )  # fmt: skip
    pipeline.vae_scale_factor = 8


def comfy_state_dict(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """A UNet's weights under ComfyUI's names; diffusers' own converter agrees with them."""
    keys = key_map(target_names(unet))
    original = {f"{_comfy_layer(keys, n)}.{kind}": t for n, kind, t in _tensors(unet)}
    again = convert_ldm_unet_checkpoint({f"model.diffusion_model.{k}": t for k, t in original.items()}, unet.config)
    assert again.keys() == unet.state_dict().keys()
    return original


def tiny_flux(path):
    """A core generator, and its transformer in `path` under diffusers' names, which ComfyUI converts by itself."""
    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        in_channels=64, num_layers=1, num_single_layers=1, attention_head_dim=128, num_attention_heads=1,
        joint_attention_dim=64, pooled_projection_dim=32, axes_dims_rope=(16, 56, 56),
    )  # fmt: skip
    save_file(transformer.state_dict(), path)
    pipeline = flux_schnell()
    pipeline.transformer = transformer
    _set_latents(pipeline, channels=16, scaling_factor=0.3611, shift_factor=0.1159)
    return _with_random_text(FAMILIES["FluxPipeline"](pipeline, name="tiny-flux"), width=64)


def _tensors(module: nn.Module):
    for key, tensor in module.state_dict().items():
        name, kind = key.rsplit(".", 1)
        yield name, kind, tensor


def _comfy_layer(keys: KeyMap, name: str) -> str:
    """The ComfyUI name of any layer of a UNet, found by that of a LoRA target beside it."""
    if name == "conv_norm_out":
        return "out.0"
    head, _, last = name.rpartition(".")
    if ".resnets." in name and last in RESNET_NORMS:
        sibling, old, new = RESNET_NORMS[last]
        return keys.comfy_name(f"{head}.{sibling}").replace(old, new)
    if "norm" in last:
        attention, _, rest = name.partition(".transformer_blocks.")
        place = keys.comfy_name(f"{attention if rest else head}.proj_in").removesuffix("proj_in")
        return place + (f"transformer_blocks.{rest}" if rest else "norm")
    return keys.comfy_name(name)
