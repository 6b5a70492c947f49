"""ImageReward (Xu et al. 2023, arXiv 2304.05977): BLIP's image encoder, BLIP's text encoder with cross-attention to the
image, and a chain of linear layers on the first token."""

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    PreTrainedTokenizerBase,
)

from ..batch import TensorBatch
from ..checkpointing import checkpoint_layers
from ..tensor_file import read_tensors
from .base import Reward
from .checkpoints import Weights, find_file, load_model
from .heads import load_head
from .images import preprocess
from .text import LongPrompts, PromptCache, load_tokenizer, token_windows

HUB, FILE = "THUDM/ImageReward", "ImageReward.pt"
TOKENIZER = "google-bert/bert-base-uncased"
"""The original adds [DEC] and [ENC] to it, which scoring never uses."""

WINDOW = 35
"""Tokens per prompt, including the first and last special ones."""

MEAN, STD = 0.16717362830052426, 1.0333394966054072
"""Mean and standard deviation of the raw score over the original's images; the output is standardised with them."""

HEAD_CHANNELS = 64
"""Channels per attention head, in both encoders."""


class ImageReward(Reward):
    """A standardised preference score, about -2 to 2."""

    name = "imagereward"

    def __init__(
        self,
        vision: BlipVisionModel,
        text: BlipTextModel,
        head: nn.Sequential,
        tokenizer: PreTrainedTokenizerBase,
        long_prompts: LongPrompts = "report",
    ):
        self.vision, self.text, self.head = vision, text, head
        self.tokenizer, self.long_prompts = tokenizer, long_prompts
        self.size: int = vision.config.image_size
        self._cache = PromptCache(self._tokens)

    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        """Tokens only. The text encoder looks at the image, so nothing else can be computed beforehand."""
        return self._cache(prompts).to(self.text.device)

    def _tokens(self, prompts: Sequence[str]) -> TensorBatch:
        """`ids` and `mask` [B, windows, 35]. A window that a prompt does not need has an empty mask."""
        windows = token_windows(self.tokenizer, prompts, WINDOW, self.long_prompts)
        ids = torch.full((len(prompts), max(map(len, windows)), WINDOW), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, parts in enumerate(windows):
            for column, part in enumerate(parts):
                ids[row, column, : len(part)] = torch.tensor(part)
                mask[row, column, : len(part)] = 1
        return TensorBatch({"ids": ids, "mask": mask})

    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        pixels = preprocess(images, self.size).to(self.vision.dtype)
        seen = self.vision(pixel_values=pixels).last_hidden_state
        row, ids, mask = used_windows(text)
        read = self.text(input_ids=ids, attention_mask=mask, encoder_hidden_states=seen[row]).last_hidden_state[:, 0]
        scores = (self.head(read.float()).squeeze(-1) - MEAN) / STD
        total = torch.zeros(len(images), device=scores.device).index_add(0, row, scores)
        return total / text["mask"].any(-1).sum(-1)

    def checkpoint_gradients(self, enabled: bool = True) -> None:
        checkpoint_layers(self.vision.encoder.layers, enabled)
        checkpoint_layers(self.text.encoder.layer, enabled)

    def to(self, device: torch.device | str) -> "ImageReward":
        for module in (self.vision, self.text, self.head):
            module.to(device)
        return self


def used_windows(text: TensorBatch) -> tuple[Tensor, Tensor, Tensor]:
    """The windows [N, 35] that prompts need: whose they are [N], their tokens and their masks."""
    used = text["mask"].any(-1)
    return used.nonzero()[:, 0], text["ids"][used], text["mask"][used]


def load_imagereward(weights: str | Path | None, dtype: torch.dtype, long_prompts: LongPrompts) -> ImageReward:
    """`weights` is as in `checkpoints.find_file`. The tokenizer of bert-base-uncased is beside the file or in its own
    folder.

    Raises:
        ValueError: the file or the tokenizer is missing, or the file is another one.
    """
    path = find_file("imagereward", weights, HUB, FILE)
    state = read_tensors(path)[0]
    if not {"blip.visual_encoder.pos_embed", "blip.text_encoder.embeddings.word_embeddings.weight"} <= state.keys():
        raise ValueError(f"{path} is not ImageReward's: download {FILE} from huggingface.co/{HUB} again")
    hub = [] if weights and Path(weights).exists() else [TOKENIZER]
    tokenizer = load_tokenizer(
        "imagereward",
        [path.parent / Path(TOKENIZER).name, path.parent, *hub],
        f"put a folder {Path(TOKENIZER).name} with the tokenizer of huggingface.co/{TOKENIZER} beside {path}",
    )
    vision, text = blip_to_transformers(state)
    vision_config, text_config = blip_configs(vision, text)
    return ImageReward(
        load_model(BlipVisionModel, vision_config, vision, dtype, path),
        load_model(BlipTextModel, text_config, text, dtype, path, add_pooling_layer=False),
        load_head(state, "mlp.layers.", text_config.hidden_size, path),
        tokenizer,
        long_prompts,
    )


def blip_configs(vision: Weights, text: Weights) -> tuple[BlipVisionConfig, BlipTextConfig]:
    """Sizes, read from remapped weights."""
    width, _, patch, _ = vision["embeddings.patch_embedding.weight"].shape
    side = round((vision["embeddings.position_embedding"].shape[1] - 1) ** 0.5)
    words, hidden = text["embeddings.word_embeddings.weight"].shape
    vision_config = BlipVisionConfig(
        hidden_size=width,
        intermediate_size=len(vision["encoder.layers.0.mlp.fc1.bias"]),
        num_hidden_layers=_layers(vision),
        num_attention_heads=width // HEAD_CHANNELS,
        image_size=side * patch,
        patch_size=patch,
        layer_norm_eps=1e-6,
    )
    text_config = BlipTextConfig(
        vocab_size=words,
        hidden_size=hidden,
        encoder_hidden_size=width,
        intermediate_size=len(text["encoder.layer.0.intermediate.dense.bias"]),
        num_hidden_layers=_layers(text),
        num_attention_heads=hidden // HEAD_CHANNELS,
        max_position_embeddings=len(text["embeddings.position_embeddings.weight"]),
        layer_norm_eps=1e-12,
    )
    return vision_config, text_config


def blip_to_transformers(state: Weights) -> tuple[Weights, Weights]:
    """ImageReward's image and text encoder with the names of `BlipVisionModel` and `BlipTextModel`. The projections
    that BLIP was pretrained with are left out, and so are the position numbers that older files hold."""
    vision = {
        _vision_key(key.removeprefix("blip.visual_encoder.")): value
        for key, value in state.items()
        if key.startswith("blip.visual_encoder.")
    }
    text = {
        key.removeprefix("blip.text_encoder."): value
        for key, value in state.items()
        if key.startswith("blip.text_encoder.") and not key.endswith("position_ids")
    }
    return vision, text


BLIP_VISION_NAMES = (
    (r"^cls_token$", "embeddings.class_embedding"),
    (r"^pos_embed$", "embeddings.position_embedding"),
    (r"^patch_embed\.proj\.", "embeddings.patch_embedding."),
    (r"^blocks\.", "encoder.layers."),
    (r"\.attn\.qkv\.", ".self_attn.qkv."),
    (r"\.attn\.proj\.", ".self_attn.projection."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"^norm\.", "post_layernorm."),
)


def _vision_key(key: str) -> str:
    for pattern, name in BLIP_VISION_NAMES:
        key = re.sub(pattern, name, key)
    return key


def _layers(weights: Weights) -> int:
    return len({match[1] for key in weights if (match := re.match(r"encoder\.layers?\.(\d+)\.", key))})
