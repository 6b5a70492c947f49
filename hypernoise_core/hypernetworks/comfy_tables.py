"""How ComfyUI and diffusers call the layers of the transformers that they name differently."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

OUTPUT_MODULATION = "final_layer.adaLN_modulation.1"
"""Gives shift then scale in ComfyUI, scale then shift in diffusers."""

QKV = ("to_q", "to_k", "to_v")
ADDED_QKV = ("add_q_proj", "add_k_proj", "add_v_proj")


@dataclass(frozen=True)
class Table:
    """One family's names. A layer of ComfyUI's may compute several of diffusers', in the order of its output rows."""

    comfy: frozenset[str]
    """First parts of names that together tell the family, in ComfyUI."""
    diffusers: frozenset[str]
    """The same in diffusers."""
    ends: dict[str, str]
    """Layers outside of blocks, ComfyUI's to diffusers'."""
    blocks: dict[str, tuple[str, dict[str, tuple[str, ...]]]]
    """ComfyUI's name of a list of blocks to diffusers' name of it, and the layers of each block."""
    swaps: bool = False
    """The halves of `OUTPUT_MODULATION` change places."""
    last_context: str | None = None
    """A layer of the blocks whose halves change places in the last block alone."""

    def to_diffusers(self, name: str) -> tuple[str, ...]:
        """Raises KeyError for a layer that the table lacks."""
        if name in self.ends:
            return (self.ends[name],)
        for comfy, (ours, layers) in self.blocks.items():
            if name.startswith(f"{comfy}."):
                number, rest = name.removeprefix(f"{comfy}.").split(".", 1)
                return tuple(f"{ours}.{number}.{part}" for part in layers[rest])
        raise KeyError(name)

    def to_comfy(self, name: str) -> str:
        """Raises KeyError for a layer that the table lacks."""
        for comfy, ours in self.ends.items():
            if name == ours:
                return comfy
        for comfy, (ours, layers) in self.blocks.items():
            if name.startswith(f"{ours}."):
                number, rest = name.removeprefix(f"{ours}.").split(".", 1)
                for layer, parts in layers.items():
                    if rest in parts:
                        return f"{comfy}.{number}.{layer}"
        raise KeyError(name)

    def swapped(self, names: Iterable[str]) -> frozenset[str]:
        """Of ComfyUI's layers, those whose halves of outputs change places."""
        found = {OUTPUT_MODULATION} if self.swaps else set()
        if self.last_context:
            blocks = [name for name in names if name.endswith(f".{self.last_context}")]
            found |= {max(blocks, key=lambda name: int(name.split(".")[1]))} if blocks else set()
        return frozenset(found)


def _attention(side: str, parts: tuple[str, ...], output: str) -> dict[str, tuple[str, ...]]:
    """A fused attention of a two-stream block."""
    return {f"{side}.qkv": tuple(f"attn.{part}" for part in parts), f"{side}.proj": (f"attn.{output}",)}


def _alike(*names: str, **others: str) -> dict[str, tuple[str, ...]]:
    """Layers of the same name, and pairs of names with `__` for a dot."""
    pairs = {name: name for name in names} | {a.replace("__", "."): b.replace("__", ".") for a, b in others.items()}
    return {comfy: (ours,) for comfy, ours in pairs.items()}


FLUX = Table(
    frozenset({"double_blocks", "single_blocks"}),
    frozenset({"single_transformer_blocks"}),
    {
        "img_in": "x_embedder",
        "txt_in": "context_embedder",
        "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
        "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
        "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
        "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
        "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
        "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
        OUTPUT_MODULATION: "norm_out.linear",
        "final_layer.linear": "proj_out",
    },
    {
        "double_blocks": (
            "transformer_blocks",
            {
                **_attention("img_attn", QKV, "to_out.0"),
                **_attention("txt_attn", ADDED_QKV, "to_add_out"),
                "img_mod.lin": ("norm1.linear",),
                "txt_mod.lin": ("norm1_context.linear",),
                "img_mlp.0": ("ff.net.0.proj",),
                "img_mlp.2": ("ff.net.2",),
                "txt_mlp.0": ("ff_context.net.0.proj",),
                "txt_mlp.2": ("ff_context.net.2",),
            },
        ),
        "single_blocks": (
            "single_transformer_blocks",
            {
                "modulation.lin": ("norm.linear",),
                "linear1": (*(f"attn.{part}" for part in QKV), "proj_mlp"),
                "linear2": ("proj_out",),
            },
        ),
    },
    swaps=True,
)

FLUX2 = Table(
    frozenset({"double_stream_modulation_img", "double_blocks"}),
    frozenset({"double_stream_modulation_img", "transformer_blocks"}),
    {
        "img_in": "x_embedder",
        "txt_in": "context_embedder",
        "time_in.in_layer": "time_guidance_embed.timestep_embedder.linear_1",
        "time_in.out_layer": "time_guidance_embed.timestep_embedder.linear_2",
        "guidance_in.in_layer": "time_guidance_embed.guidance_embedder.linear_1",
        "guidance_in.out_layer": "time_guidance_embed.guidance_embedder.linear_2",
        "double_stream_modulation_img.lin": "double_stream_modulation_img.linear",
        "double_stream_modulation_txt.lin": "double_stream_modulation_txt.linear",
        "single_stream_modulation.lin": "single_stream_modulation.linear",
        OUTPUT_MODULATION: "norm_out.linear",
        "final_layer.linear": "proj_out",
    },
    {
        "double_blocks": (
            "transformer_blocks",
            {
                **_attention("img_attn", QKV, "to_out.0"),
                **_attention("txt_attn", ADDED_QKV, "to_add_out"),
                "img_mlp.0": ("ff.linear_in",),
                "img_mlp.2": ("ff.linear_out",),
                "txt_mlp.0": ("ff_context.linear_in",),
                "txt_mlp.2": ("ff_context.linear_out",),
            },
        ),
        "single_blocks": (
            "single_transformer_blocks",
            {"linear1": ("attn.to_qkv_mlp_proj",), "linear2": ("attn.to_out",)},
        ),
    },
    swaps=True,
)

_Z_IMAGE_BLOCK = {
    "attention.qkv": tuple(f"attention.{part}" for part in QKV),
    "attention.out": ("attention.to_out.0",),
    **_alike("feed_forward.w1", "feed_forward.w2", "feed_forward.w3", "adaLN_modulation.0"),
}
Z_IMAGE = Table(
    frozenset({"cap_embedder", "noise_refiner", "context_refiner", "x_embedder"}),
    frozenset({"cap_embedder", "noise_refiner", "context_refiner", "all_x_embedder"}),
    {
        "x_embedder": "all_x_embedder.2-1",
        "cap_embedder.1": "cap_embedder.1",
        "t_embedder.mlp.0": "t_embedder.mlp.0",
        "t_embedder.mlp.2": "t_embedder.mlp.2",
        OUTPUT_MODULATION: f"all_{OUTPUT_MODULATION.replace('layer.', 'layer.2-1.')}",
        "final_layer.linear": "all_final_layer.2-1.linear",
    },
    {name: (name, _Z_IMAGE_BLOCK) for name in ("layers", "noise_refiner", "context_refiner")},
)

_KREA2_BLOCK = _alike(
    attn__wq="attn__to_q",
    attn__wk="attn__to_k",
    attn__wv="attn__to_v",
    attn__gate="attn__to_gate",
    attn__wo="attn__to_out__0",
    mlp__gate="ff__gate",
    mlp__up="ff__up",
    mlp__down="ff__down",
)
KREA2 = Table(
    frozenset({"txtfusion", "tproj"}),
    frozenset({"text_fusion", "time_mod_proj"}),
    {
        "first": "img_in",
        "tmlp.0": "time_embed.linear_1",
        "tmlp.2": "time_embed.linear_2",
        "tproj.1": "time_mod_proj",
        "txtmlp.1": "txt_in.linear_1",
        "txtmlp.3": "txt_in.linear_2",
        "txtfusion.projector": "text_fusion.projector",
        "last.linear": "final_layer.linear",
    },
    {
        "blocks": ("transformer_blocks", _KREA2_BLOCK),
        "txtfusion.layerwise_blocks": ("text_fusion.layerwise_blocks", _KREA2_BLOCK),
        "txtfusion.refiner_blocks": ("text_fusion.refiner_blocks", _KREA2_BLOCK),
    },
)

SD3 = Table(
    frozenset({"joint_blocks", "y_embedder"}),
    frozenset({"transformer_blocks", "pos_embed", "context_embedder", "time_text_embed"}),
    {
        "x_embedder.proj": "pos_embed.proj",
        "context_embedder": "context_embedder",
        "t_embedder.mlp.0": "time_text_embed.timestep_embedder.linear_1",
        "t_embedder.mlp.2": "time_text_embed.timestep_embedder.linear_2",
        "y_embedder.mlp.0": "time_text_embed.text_embedder.linear_1",
        "y_embedder.mlp.2": "time_text_embed.text_embedder.linear_2",
        OUTPUT_MODULATION: "norm_out.linear",
        "final_layer.linear": "proj_out",
    },
    {
        "joint_blocks": (
            "transformer_blocks",
            {
                **_attention("x_block.attn", QKV, "to_out.0"),
                **_attention("context_block.attn", ADDED_QKV, "to_add_out"),
                "x_block.attn2.qkv": tuple(f"attn2.{part}" for part in QKV),
                "x_block.attn2.proj": ("attn2.to_out.0",),
                "x_block.adaLN_modulation.1": ("norm1.linear",),
                "context_block.adaLN_modulation.1": ("norm1_context.linear",),
                "x_block.mlp.fc1": ("ff.net.0.proj",),
                "x_block.mlp.fc2": ("ff.net.2",),
                "context_block.mlp.fc1": ("ff_context.net.0.proj",),
                "context_block.mlp.fc2": ("ff_context.net.2",),
            },
        )
    },
    swaps=True,
    last_context="context_block.adaLN_modulation.1",
)

TABLES = (FLUX2, FLUX, Z_IMAGE, KREA2, SD3)
"""FLUX.2 before FLUX.1, whose blocks are called alike."""
