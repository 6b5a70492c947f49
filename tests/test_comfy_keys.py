"""The key map against diffusers' own converters of original checkpoints, on the real models' layers (no weights)."""

import pytest
import torch
from diffusers import FluxTransformer2DModel, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_flux_transformer_checkpoint_to_diffusers,
    convert_ldm_unet_checkpoint,
)

from hypernoise_core.hypernetworks.comfy_keys import key_map
from hypernoise_core.layers import target_names

SD_TURBO = {
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SDXL_TURBO = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FLUX_SCHNELL = {"num_layers": 2, "num_single_layers": 2}


def layers_of(model_class, config):
    """Weight shapes of the layers of a model without weights."""
    with torch.device("meta"):
        model = model_class(**config)
    modules = dict(model.named_modules())
    return {name: tuple(modules[name].weight.shape) for name in target_names(model)}, dict(model.config)


def random_lora(shapes, rank=2, seed=0):
    random = torch.Generator().manual_seed(seed)
    lora = {}
    for name, (out, width, *kernel) in shapes.items():
        lora[f"{name}.lora_A.weight"] = torch.randn(rank, width, *kernel, generator=random)
        lora[f"{name}.lora_B.weight"] = torch.randn(out, rank, *[1] * len(kernel), generator=random)
    return lora


def updates(lora, columns=4):
    """B A of each layer, its first input columns."""
    names = {key.rsplit(".lora_", 1)[0] for key in lora}
    return {f"{n}.weight": lora[f"{n}.lora_B.weight"] @ lora[f"{n}.lora_A.weight"][:, :columns] for n in names}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("config", [SD_TURBO, SDXL_TURBO], ids=["sd-turbo", "sdxl-turbo"])
def test_unet_names_are_those_of_diffusers_own_converter(config):
    shapes, full_config = layers_of(UNet2DConditionModel, config)
    keys = key_map(shapes)
    assert not keys.comfy
    tensors = [f"{name}.{kind}" for name in shapes for kind in ("weight", "bias")]
    original = {}
    for tensor in tensors:
        name, kind = tensor.rsplit(".", 1)
        original[f"model.diffusion_model.{keys.comfy_name(name)}.{kind}"] = tensor
    assert len(original) == len(tensors)
    assert convert_ldm_unet_checkpoint(original, full_config) == {tensor: tensor for tensor in tensors}
    assert key_map(keys.layers).layers == keys.layers
    assert key_map(keys.layers).comfy


@pytest.fixture(scope="module")
def flux_shapes():
    return layers_of(FluxTransformer2DModel, FLUX_SCHNELL)[0]


def test_flux_updates_are_those_of_diffusers_own_converter(flux_shapes):
    lora = random_lora(flux_shapes)
    keys = key_map(flux_shapes)
    original = updates(keys.to_comfy(lora))
    original |= {key.replace(".weight", ".bias"): update[:, 0] for key, update in original.items()}
    for block in (f"{side}_blocks.{i}." for side in ("double", "single") for i in range(2)):
        for norm in ("norm", "img_attn.norm", "txt_attn.norm"):
            original |= {f"{block}{norm}.{which}_norm.scale": torch.ones(1) for which in ("query", "key")}
    converted = convert_flux_transformer_checkpoint_to_diffusers(original)
    expected = updates(lora)
    assert all((converted[key] - expected[key]).abs().max() < 1e-5 for key in expected)
    assert {key for key in converted if key.endswith(".weight") and ".norm_" not in key} == expected.keys()


def test_a_headless_lora_survives_a_visit_to_comfyui(flux_shapes):
    lora, keys = random_lora(flux_shapes), key_map(flux_shapes)
    there = keys.to_comfy(lora)
    assert there["double_blocks.0.img_attn.qkv.lora_A.weight"].shape == (6, 3072)
    assert there["single_blocks.0.linear1.lora_B.weight"].shape == (7 * 3072, 8)
    assert equal(key_map(keys.layers).to_diffusers(there), lora)


def test_a_lora_made_in_comfyui_survives_a_visit_to_diffusers(flux_shapes):
    keys = key_map(flux_shapes)
    comfy_shapes = {
        name: (sum(flux_shapes[part][0] for part in parts), *flux_shapes[parts[0]][1:])
        for name, parts in keys.layers.items()
    }
    assert keys.diffusers_shapes(comfy_shapes) == flux_shapes
    lora = random_lora(comfy_shapes, rank=12)
    there = keys.to_diffusers(lora)
    assert {key: t.shape[0] for key, t in there.items() if "lora_A" in key} == {
        f"{name}.lora_A.weight": 12 for name in flux_shapes
    }
    fused = updates(lora)["single_blocks.1.linear1.weight"]
    parts = [updates(there)[f"single_transformer_blocks.1.{p}.weight"] for p in ("attn.to_q", "attn.to_k", "attn.to_v")]
    assert torch.equal(fused[: 3 * 3072], torch.cat(parts))
    assert equal(keys.to_comfy(there), lora)


def test_models_with_one_spelling_map_to_themselves(generator):
    names = target_names(generator.denoiser)
    assert key_map(names).layers == {name: (name,) for name in names}


@pytest.mark.parametrize(
    "others",
    [
        ["double_blocks.0.img_attn.qkv", "double_stream_modulation_img.lin"],  # FLUX.2
        ["double_blocks.0.img_attn.qkv", "distilled_guidance_layer.in_proj"],  # Chroma
        ["double_blocks.0.img_attn.qkv", "double_blocks.0.img_mlp.gate_proj"],  # Ovis
        ["double_blocks.0.img_attn_qkv", "txt_in.individual_token_refiner.blocks.0.mlp.0"],  # HunyuanImage
        ["down_blocks.0.0.channelwise.0", "up_blocks.0.0.depthwise"],  # Stable Cascade
        ["input_blocks.1.0.in_layers.2", "input_blocks.1.0.other"],
        ["single_transformer_blocks.0.attn.to_qkv_mlp_proj"],
    ],
    ids=lambda names: names[-1],
)
def test_models_that_only_look_like_a_known_one_map_to_themselves(others):
    keys = key_map(others)
    assert keys.layers == {name: (name,) for name in others}
    assert not keys.comfy


def test_what_does_not_fit_is_named(flux_shapes):
    keys, lora = key_map(flux_shapes), random_lora(flux_shapes)
    with pytest.raises(ValueError, match="to_k"):
        keys.to_comfy({k: t for k, t in lora.items() if not k.startswith("transformer_blocks.1.attn.to_k.")})
    with pytest.raises(ValueError, match=r"more\.layer"):
        keys.to_comfy({**lora, "more.layer.lora_A.weight": torch.zeros(2, 2)})
    with pytest.raises(ValueError, match=r"x_embedder\.lora_B"):
        keys.to_comfy({k: t for k, t in lora.items() if k != "x_embedder.lora_B.weight"})
    with pytest.raises(ValueError, match="same input"):
        keys.to_comfy({**lora, "transformer_blocks.0.attn.to_v.lora_A.weight": torch.zeros(2, 5)})
    with pytest.raises(ValueError, match="fusion"):
        keys.diffusers_shapes({"double_blocks.0.img_attn.qkv": (3072 * 3 + 1, 3072)})
