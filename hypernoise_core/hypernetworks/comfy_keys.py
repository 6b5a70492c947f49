"""A LoRA under diffusers' layer names and under those of ComfyUI's own models, exactly and both ways.

Our files hold diffusers' names. ComfyUI keeps the layers of the original releases: LDM's UNet blocks
(`input_blocks.4.1.proj_in`) and FLUX's fused linears (`double_blocks.0.img_attn.qkv` computes q, k and v in one).
Everything here is pure: names and tensors in, names and tensors out, and neither model is needed.

A LoRA is a dict of `<layer>.lora_A.weight` [r, in, …] and `<layer>.lora_B.weight` [out, r, …] without a prefix. Fusing
and splitting change ranks layer by layer (three LoRAs of rank r make one of rank 3r); the scale alpha / rank is one
number for the whole adapter and stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

A, B = "lora_A.weight", "lora_B.weight"

UNET_ENDS = {
    "input_blocks.0.0": "conv_in",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
}
UNET_RESNET = {
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
FLUX_ENDS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in.in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in.out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in.in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in.out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in.in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in.out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer.adaLN_modulation.1": "norm_out.linear",
    "final_layer.linear": "proj_out",
}
FLUX_BLOCKS = {
    "double_blocks": (
        "transformer_blocks",
        {
            "img_mod.lin": ("norm1.linear",),
            "txt_mod.lin": ("norm1_context.linear",),
            "img_attn.qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
            "txt_attn.qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
            "img_attn.proj": ("attn.to_out.0",),
            "txt_attn.proj": ("attn.to_add_out",),
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
            "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
            "linear2": ("proj_out",),
        },
    ),
}
SWAPPED = "final_layer.adaLN_modulation.1"
"""FLUX gives shift then scale here, diffusers scale then shift: the halves of the outputs change places."""


@dataclass(frozen=True)
class KeyMap:
    """How the layers of one denoiser are called on both sides."""

    layers: dict[str, tuple[str, ...]]
    """ComfyUI's layer to the diffusers layers whose outputs it computes, in the order of its output rows."""
    comfy: bool
    """The names that the map was made from are ComfyUI's own."""

    def diffusers_name(self, layer: str) -> str:
        """The diffusers name of a ComfyUI layer that is not fused."""
        (name,) = self.layers[layer]
        return name

    def comfy_name(self, layer: str) -> str:
        """The ComfyUI layer that computes a diffusers layer."""
        names = [name for name, parts in self.layers.items() if layer in parts]
        if not names:
            raise ValueError(f"this model has no layer {layer!r}")
        return names[0]

    def to_comfy(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same LoRA for ComfyUI's model.

        Raises:
            ValueError: weights of a layer that the map lacks, or of some parts of a fused layer only.
        """
        pairs = _pairs(weights, {part for parts in self.layers.values() for part in parts})
        result = {}
        for name, parts in self.layers.items():
            found = [pairs[part] for part in parts if part in pairs]
            if not found:
                continue
            if len(found) < len(parts):
                missing = next(part for part in parts if part not in pairs)
                raise ValueError(f"no LoRA for {missing}: ComfyUI's {name} needs all of {', '.join(parts)}")
            a, b = _fuse(found)
            result[f"{name}.{A}"], result[f"{name}.{B}"] = a, _swap_halves(b) if name == SWAPPED else b
        return result

    def to_diffusers(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same LoRA for diffusers' model.

        Raises:
            ValueError: weights of a layer that the map lacks.
        """
        result = {}
        for name, (a, b) in _pairs(weights, self.layers.keys()).items():
            parts = self.layers[name]
            split = _split(a, _swap_halves(b) if name == SWAPPED else b, len(parts))
            for part, (part_a, part_b) in zip(parts, split, strict=True):
                result[f"{part}.{A}"], result[f"{part}.{B}"] = part_a, part_b
        return result

    def diffusers_shapes(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        """Weight shapes [out, in, …] of ComfyUI's layers as those of diffusers' layers."""
        result = {}
        for name, (out, width, *kernel) in shapes.items():
            parts = self.layers[name]
            for part, rows in zip(parts, _part_rows(out, width, len(parts)), strict=True):
                result[part] = (rows, width, *kernel)
        return result


def key_map(names: Iterable[str]) -> KeyMap:
    """The map of the denoiser whose Linear and Conv2d layers have these names, diffusers' or ComfyUI's.

    Models whose names are known here on one side only map to themselves: those that ComfyUI runs under diffusers' own
    (SANA), and those that look like a UNet or FLUX.1 but have a layer of their own (FLUX.2, Chroma, Stable Cascade).
    """
    names = sorted(set(names))
    try:
        return _known(names)
    except _Unknown:
        return KeyMap({name: (name,) for name in names}, comfy=False)


class _Unknown(ValueError):
    """A layer that the tables here do not have."""


def _known(names: list[str]) -> KeyMap:
    """The map by the tables of UNets and FLUX.1.

    Raises:
        _Unknown: a layer is in none of them.
    """
    firsts = {name.split(".", 1)[0] for name in names}
    if "input_blocks" in firsts:
        resnets = _resnets_of_comfy(names)
        return KeyMap(_translated(names, lambda name: (_unet_to_diffusers(name, resnets),)), comfy=True)
    if firsts & {"double_blocks", "single_blocks"}:
        return KeyMap(_translated(names, _flux_to_diffusers), comfy=True)
    if "down_blocks" in firsts:
        count = len(_numbers(names, r"down_blocks\.0\.resnets\.(\d+)\."))
        attentions = _numbers(names, r"up_blocks\.(\d+)\.attentions\.")
        comfy_names = _translated(names, lambda name: _unet_to_comfy(name, count, attentions))
        return KeyMap({comfy_name: (name,) for name, comfy_name in comfy_names.items()}, comfy=False)
    if "single_transformer_blocks" in firsts:
        translated = sorted(set(_translated(names, _flux_to_comfy).values()))
        return KeyMap(_translated(translated, _flux_to_diffusers), comfy=False)
    raise _Unknown


def _translated(names: Iterable[str], translate: Callable) -> dict:
    """Each name to its translation."""
    result = {}
    for name in names:
        try:
            result[name] = translate(name)
        except (KeyError, ValueError, StopIteration) as error:
            raise _Unknown(name) from error
    return result


def _numbers(names: Iterable[str], pattern: str) -> set[int]:
    """What the pattern's group matches at the beginning of names."""
    return {int(match[1]) for name in names if (match := re.match(pattern, name))}


def _flux_to_diffusers(name: str) -> tuple[str, ...]:
    if name in FLUX_ENDS:
        return (FLUX_ENDS[name],)
    side, number, rest = name.split(".", 2)
    blocks, table = FLUX_BLOCKS[side]
    return tuple(f"{blocks}.{number}.{part}" for part in table[rest])


def _flux_to_comfy(name: str) -> str:
    if name in FLUX_ENDS.values():
        return _key_of(name, FLUX_ENDS)
    blocks, number, rest = name.split(".", 2)
    side, table = next((side, table) for side, (ours, table) in FLUX_BLOCKS.items() if ours == blocks)
    return f"{side}.{number}.{next(key for key, parts in table.items() if rest in parts)}"


def _key_of(value: str, table: dict[str, str]) -> str:
    return next(key for key, found in table.items() if found == value)


def _resnets_of_comfy(names: Sequence[str]) -> int:
    """Resnets in each down block: block 0 is conv_in, then resnets up to the first downsampler."""
    downsamplers = _numbers(names, r"input_blocks\.(\d+)\.0\.op$")
    return (min(downsamplers) if downsamplers else len(_numbers(names, r"input_blocks\.(\d+)\."))) - 1


def _unet_to_diffusers(name: str, resnets: int) -> str:
    if name in UNET_ENDS:
        return UNET_ENDS[name]
    side, number, rest = name.split(".", 2)
    if side == "middle_block":
        if number == "1":
            return f"mid_block.attentions.0.{rest}"
        return f"mid_block.resnets.{int(number) // 2}.{UNET_RESNET[rest]}"
    part, rest = rest.split(".", 1)
    block, layer = divmod(int(number) - (side == "input_blocks"), resnets + 1)
    direction = {"input_blocks": "down", "output_blocks": "up"}[side]
    if rest in ("op", "conv"):
        return f"{direction}_blocks.{block}.{direction}samplers.0.conv"
    kind = f"resnets.{layer}.{UNET_RESNET[rest]}" if part == "0" else f"attentions.{layer}.{rest}"
    return f"{direction}_blocks.{block}.{kind}"


def _unet_to_comfy(name: str, resnets: int, with_attention: set[int]) -> str:
    if name in UNET_ENDS.values():
        return _key_of(name, UNET_ENDS)
    side, rest = name.split(".", 1)
    if side == "mid_block":
        kind, layer, rest = rest.split(".", 2)
        if kind == "attentions":
            return f"middle_block.1.{rest}"
        return f"middle_block.{2 * int(layer)}.{_key_of(rest, UNET_RESNET)}"
    block, kind, layer, rest = rest.split(".", 3)
    first = int(block) * (resnets + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + resnets + 1}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{first + resnets}.{2 if int(block) in with_attention else 1}.conv"
    place = f"input_blocks.{1 + first + int(layer)}" if side == "down_blocks" else f"output_blocks.{first + int(layer)}"
    return f"{place}.0.{_key_of(rest, UNET_RESNET)}" if kind == "resnets" else f"{place}.1.{rest}"


def _pairs(weights: dict[str, Tensor], known: Iterable[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """Layer name to its (A, B)."""
    layers = {key.rsplit(".lora_", 1)[0] for key in weights}
    if unknown := sorted(layers - set(known)):
        raise ValueError(f"the LoRA has weights for {unknown[0]}, a layer that this model lacks")
    try:
        return {layer: (weights[f"{layer}.{A}"], weights[f"{layer}.{B}"]) for layer in sorted(layers)}
    except KeyError as error:
        raise ValueError(f"the LoRA lacks {error}") from error


def _swap_halves(b: Tensor) -> Tensor:
    first, second = b.chunk(2)
    return torch.cat([second, first])


def _part_rows(out: int, width: int, parts: int) -> list[int]:
    """Output rows of each part of a fused layer: q, k and v alike, or q, k, v as wide as the input and the MLP."""
    rows = [width, width, width, out - 3 * width] if parts == 4 else [out // parts] * parts
    if min(rows) < 1 or sum(rows) != out:
        raise ValueError(f"a layer of {width} inputs and {out} outputs cannot be a fusion of {parts}")
    return rows


def _fuse(pairs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """One LoRA with the outputs of several on the same input, stacked: A's stacked, B's on a block diagonal. What
    `_split` made out of one LoRA becomes that one again."""
    first = pairs[0][0]
    if len(pairs) == 1:
        return pairs[0]
    if any(t.dim() != 2 for pair in pairs for t in pair) or any(a.shape[1] != first.shape[1] for a, _ in pairs):
        raise ValueError("LoRAs of linear layers on the same input were expected, to be fused into one")
    if all(torch.equal(a, first) for a, _ in pairs[1:]):
        return first, torch.cat([b for _, b in pairs])
    return torch.cat([a for a, _ in pairs]), torch.block_diag(*(b for _, b in pairs))


def _split(a: Tensor, b: Tensor, parts: int) -> list[tuple[Tensor, Tensor]]:
    """A LoRA of each part: with its own block of A and B where B is block diagonal, else all of A and its rows of B."""
    if parts == 1:
        return [(a, b)]
    rows = b.split(_part_rows(len(b), a.shape[1], parts))
    rank, rest = divmod(len(a), parts)
    if not rest:
        blocks = [block.split(rank, dim=1) for block in rows]
        if not any(block[j].any() for i, block in enumerate(blocks) for j in range(parts) if i != j):
            return [(a_part.clone(), blocks[i][i].clone()) for i, a_part in enumerate(a.split(rank))]
    return [(a.clone(), block.clone()) for block in rows]
