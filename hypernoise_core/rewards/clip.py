"""Cosine between image and prompt in a CLIP: HPSv2.1, PickScore, CLIP-H, the embedded reward, any `CLIPModel`."""

import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerBase
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from ..batch import TensorBatch
from ..checkpointing import checkpoint_layers
from ..tensor_file import read_tensors, reason
from .base import Backbone, BackboneReward
from .checkpoints import Weights, find_file, find_folder, load_model
from .images import preprocess
from .text import LongPrompts, PromptCache, load_tokenizer, token_windows

CLIP_H = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
PICKSCORE = "yuvalkirstain/PickScore_v1"
CLIP_L = "openai/clip-vit-large-patch14"
HPSV2, HPSV2_FILE = "xswu/HPSv2", "HPS_v2.1_compressed.pt"


class ClipBackbone(Backbone):
    """A frozen `CLIPModel` with its tokenizer. It caches text features per prompt."""

    def __init__(self, model: CLIPModel, tokenizer: PreTrainedTokenizerBase):
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        self.size: int = model.config.vision_config.image_size
        self._caches: dict[str, PromptCache] = {}

    def image_features(self, images: Tensor) -> Tensor:
        """Unit vectors [B, D], float32, of pictures [B, 3, H, W] in [0, 1]."""
        vision = self.model.vision_model
        tokens = vision.pre_layrnorm(vision.embeddings(preprocess(images, self.size).to(self.model.dtype)))
        *layers, last = vision.encoder.layers
        for layer in layers:
            tokens = layer(tokens, attention_mask=None)
        pooled = vision.post_layernorm(_class_token(last, tokens))
        return F.normalize(self.model.visual_projection(pooled).float(), dim=-1)

    def text_features(self, prompts: Sequence[str], long_prompts: LongPrompts) -> Tensor:
        """Unit vectors [B, D], float32. For a prompt in several windows, their mean."""
        if long_prompts not in self._caches:
            self._caches[long_prompts] = PromptCache(lambda new: self._encode(new, long_prompts))
        return self._caches[long_prompts](prompts)["features"].to(self.model.device)

    @torch.no_grad()
    def _encode(self, prompts: Sequence[str], long_prompts: LongPrompts) -> TensorBatch:
        length = self.model.config.text_config.max_position_embeddings
        windows = token_windows(self.tokenizer, prompts, length, long_prompts)
        counts = [len(w) for w in windows]
        tokens = self.tokenizer.pad({"input_ids": list(chain.from_iterable(windows))}, return_tensors="pt").to(
            self.model.device
        )
        pooled = self.model.text_model(**tokens).pooler_output
        features = F.normalize(self.model.text_projection(pooled).float(), dim=-1)
        return TensorBatch({"features": torch.stack([part.mean(0) for part in features.split(counts)])})

    def checkpoint_gradients(self, enabled: bool = True) -> None:
        checkpoint_layers(self.model.vision_model.encoder.layers, enabled)

    def to(self, device: torch.device | str) -> "ClipBackbone":
        self.model.to(device)
        return self


def _class_token(layer: CLIPEncoderLayer, tokens: Tensor) -> Tensor:
    """A layer's output for the first of its tokens [B, T, C], as [B, C]. Nothing else of the last layer is used, and
    this takes a sixth of its arithmetic."""
    attention, normed = layer.self_attn, layer.layer_norm1(tokens)
    projected = (attention.q_proj(normed[:, :1]), attention.k_proj(normed), attention.v_proj(normed))
    query, key, value = (t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for t in projected)
    attended = F.scaled_dot_product_attention(query, key, value).flatten(1)
    hidden = tokens[:, 0] + attention.out_proj(attended)
    return hidden + layer.mlp(layer.layer_norm2(hidden))


class ClipReward(BackboneReward):
    """Cosine of image and prompt, times exp(logit_scale) if `scaled` (about 100 for released models)."""

    backbone: ClipBackbone

    def __init__(
        self, backbone: ClipBackbone, name: str = "clip", scaled: bool = True, long_prompts: LongPrompts = "report"
    ):
        self.backbone, self.name, self.scaled, self.long_prompts = backbone, name, scaled, long_prompts

    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        return TensorBatch({"features": self.backbone.text_features(prompts, self.long_prompts)})

    def score_features(self, features: Tensor, text: TensorBatch) -> Tensor:
        cosine = (features * text["features"]).sum(-1)
        return cosine * self.backbone.model.logit_scale.float().exp() if self.scaled else cosine

    def to(self, device: torch.device | str) -> "ClipReward":
        self.backbone.to(device)
        return self


_loaded: WeakValueDictionary[tuple, ClipBackbone] = WeakValueDictionary()
"""Rewards loaded from one place share a backbone. It is freed with the last of them."""


def load_clip(name: str, weights: str | Path | None, hub: str, dtype: torch.dtype) -> ClipBackbone:
    """A `CLIPModel` saved by transformers. `weights` is as in `checkpoints.find_folder`.

    Raises:
        ValueError: it is missing or of another kind.
    """
    source = find_folder(name, weights, hub)
    key = (source, dtype)
    if (backbone := _loaded.get(key)) is None:
        try:
            model, report = CLIPModel.from_pretrained(source, dtype=dtype, output_loading_info=True)
        except Exception as error:  # a damaged folder raises what its reader raises: JSON's, safetensors', torch's
            raise ValueError(
                f"reward {name!r}: no CLIPModel at {source} ({reason(error)}): give a folder saved by transformers "
                "or a hub id"
            ) from error
        if report["missing_keys"] or report.get("mismatched_keys"):
            raise ValueError(f"reward {name!r}: the weights at {source} are not those of a whole CLIPModel")
        tokenizer = load_tokenizer(name, [source], f"put the tokenizer.json of huggingface.co/{hub} into {source}")
        backbone = _loaded[key] = ClipBackbone(model, tokenizer)
    return backbone


def load_hpsv2(weights: str | Path | None, dtype: torch.dtype) -> ClipBackbone:
    """HPSv2.1 (Wu et al. 2023, arXiv 2306.09341), published as an OpenCLIP ViT-H-14. `weights` is as in
    `checkpoints.find_file`. Any CLIP's tokenizer works.

    Raises:
        ValueError: the file or the tokenizer is missing, or the file is another one.
    """
    path = find_file("hpsv2", weights, HPSV2, HPSV2_FILE)
    key = (str(path), dtype)
    if (backbone := _loaded.get(key)) is None:
        state = read_tensors(path)[0]
        if not {"visual.proj", "token_embedding.weight", "text_projection"} <= state.keys():
            raise ValueError(f"{path} is not HPSv2.1's, which is an OpenCLIP ViT-H-14: download {HPSV2_FILE} again")
        near: list[Path | str] = [path.parent, *(path.parent / Path(hub).name for hub in (CLIP_H, PICKSCORE, CLIP_L))]
        hub: list[Path | str] = [] if weights and Path(weights).exists() else [CLIP_H]
        hint = f"put the tokenizer.json of huggingface.co/{CLIP_H} beside {path}"
        tokenizer = load_tokenizer("hpsv2", near + hub, hint)
        config = openclip_config(state, tokenizer, path)
        model = load_model(CLIPModel, config, openclip_to_transformers(state), dtype, path)
        backbone = _loaded[key] = ClipBackbone(model, tokenizer)
    return backbone


def openclip_config(state: Weights, tokenizer: PreTrainedTokenizerBase, path: Path) -> CLIPConfig:
    """The sizes of an OpenCLIP ViT-H-14, read from its weights (attention heads have 80 channels for images, 64 for
    text)."""
    patches, vision = state["visual.positional_embedding"].shape
    width, _, patch, _ = state["visual.conv1.weight"].shape
    length, text = state["positional_embedding"].shape
    if vision % 80 or text % 64 or width != vision:
        raise ValueError(f"{path} is not HPSv2.1's, which is an OpenCLIP ViT-H-14: download {HPSV2_FILE} again")

    def tower(prefix: str, hidden: int, head: int) -> dict:
        layers = {int(m[1]) for key in state if (m := re.match(rf"{re.escape(prefix)}resblocks\.(\d+)\.", key))}
        return {
            "hidden_size": hidden,
            "num_attention_heads": hidden // head,
            "num_hidden_layers": len(layers),
            "intermediate_size": len(state[f"{prefix}resblocks.0.mlp.c_fc.bias"]) if layers else 0,
            "hidden_act": "gelu",
            "projection_dim": state["visual.proj"].shape[1],
        }

    return CLIPConfig(
        projection_dim=state["visual.proj"].shape[1],
        vision_config=tower("visual.transformer.", vision, 80)
        | {"patch_size": patch, "image_size": patch * round((patches - 1) ** 0.5)},
        text_config=tower("transformer.", text, 64)
        | {
            "vocab_size": len(state["token_embedding.weight"]),
            "max_position_embeddings": length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
    )


def openclip_to_transformers(state: Weights) -> Weights:
    """An OpenCLIP ViT's state dict with the names of `CLIPModel`: attention projections are split, output projections
    transposed, everything else is unchanged."""
    remapped: Weights = {}
    for key, value in state.items():
        if key in ("visual.proj", "text_projection"):
            remapped[_openclip_key(key) + ".weight"] = value.T.contiguous()
        elif match := re.fullmatch(r"(.*attn)\.in_proj_(weight|bias)", key):
            for part, piece in zip("qkv", value.chunk(3), strict=True):
                remapped[_openclip_key(f"{match[1]}.{part}_proj.{match[2]}")] = piece.clone()
        else:
            remapped[_openclip_key(key)] = value
    return remapped


OPENCLIP_NAMES = (
    (r"^visual\.proj$", "visual_projection"),
    (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
    (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
    (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
    (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
    (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
    (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
    (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
    (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
    (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
    (r"^ln_final\.", "text_model.final_layer_norm."),
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_(\d)\.", r".layer_norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)


def _openclip_key(key: str) -> str:
    for pattern, name in OPENCLIP_NAMES:
        key = re.sub(pattern, name, key)
    return key
