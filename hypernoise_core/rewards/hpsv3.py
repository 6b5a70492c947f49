"""HPSv3 (Ma et al. 2025, arXiv 2508.03789): Qwen2-VL-7B with a small head that reads its state at a token for the
reward."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import ProcessorMixin, Qwen2VLConfig, Qwen2VLModel

from ..batch import TensorBatch
from ..tensor_file import read_tensors
from .base import Reward
from .checkpoints import Weights, check_keys, find_file, load_model
from .quantized import Quantize, loading
from .vision_language import as_batch, as_texts, chat, fitted, load_processor

HUB, FILE = "MizzenAI/HPSv3", "HPSv3.safetensors"
PROCESSOR = "Qwen/Qwen2-VL-7B-Instruct"
"""Tokenizer, image processor and chat template; its weights are not needed."""

PIXELS = 256 * 28 * 28
"""Every picture is brought to about this many."""

REWARD_TOKEN = "<|Reward|>"

HEAD_CHANNELS, VISION_HEAD_CHANNELS = 128, 80
"""Channels per attention head of Qwen2-VL, in the language model and in the vision tower."""

INSTRUCTION = "instruction.txt"
"""A file beside the weights: what the model was trained to be told, as its authors publish it, with `{prompt}` where
the prompt goes. The text is theirs, and no part of this project."""


class HPSv3(Reward):
    """μ, the mean of the preference score; about -5 to 15 for pictures of today's models. The head's σ is left out."""

    name = "hpsv3"
    differentiable = False

    def __init__(self, model: Qwen2VLModel, head: nn.Sequential, processor: ProcessorMixin, instruction: str):
        self.model, self.head, self.processor, self.instruction = model, head, processor, instruction
        self.token: int = processor.tokenizer.convert_tokens_to_ids(REWARD_TOKEN)

    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        """What the model is told. It sees the picture first, so nothing else can be computed beforehand."""
        taken = fitted(self.processor, prompts, self.model.config)
        return as_batch([self.instruction.replace("{prompt}", prompt) for prompt in taken])

    @torch.no_grad()
    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        size = {"shortest_edge": PIXELS, "longest_edge": PIXELS}
        batch = chat(self.processor, as_texts(text), images, images_kwargs={"size": size}, padding_side="right")
        batch = batch.to(self.model.device, self.model.dtype)
        seen = self.model(**batch, position_ids=_positions(batch["input_ids"]), use_cache=False).last_hidden_state
        return self.head(seen[batch["input_ids"] == self.token].float())[:, 0]

    def to(self, device: torch.device | str) -> HPSv3:
        self.model.to(device)
        self.head.to(device)
        return self


def _positions(ids: Tensor) -> Tensor:
    """[3, B, L]. HPSv3 was trained on, and is scored with, plain positions on all three of Qwen2-VL's axes: its forward
    pass hands the language model embeddings alone, which then does not know where the picture is."""
    return torch.arange(ids.shape[1], device=ids.device).expand(3, *ids.shape)


def load_hpsv3(weights: str | Path | None, dtype: torch.dtype, quantize: Quantize = "none") -> HPSv3:
    """`weights` is as in `checkpoints.find_file`. The processor of Qwen2-VL-7B-Instruct is beside the file or in its
    own folder.

    Raises:
        ValueError: the file or the processor is missing, the file is another one, or `quantize` needs a package.
    """
    how = loading(quantize, dtype)
    path = find_file("hpsv3", weights, HUB, FILE)
    hub = [] if weights and Path(weights).exists() else [PROCESSOR]
    processor = load_processor(
        "hpsv3",
        [path.parent / Path(PROCESSOR).name, path.parent, *hub],
        f"put a folder {Path(PROCESSOR).name} with all of huggingface.co/{PROCESSOR} but its weights beside {path}",
    )
    instruction = read_instruction(path.parent)
    processor.tokenizer.add_special_tokens({"additional_special_tokens": [REWARD_TOKEN]})
    head, model = split(read_tensors(path)[0])
    if not {"visual.patch_embed.proj.weight", "language_model.embed_tokens.weight"} <= model.keys():
        raise ValueError(f"{path} is not HPSv3's: download {FILE} from huggingface.co/{HUB} again")
    config = read_config(model, processor)
    rating = load_rating_head(head, config, path)
    return HPSv3(load_model(Qwen2VLModel, config, model, dtype, path, how), rating, processor, instruction)


def read_instruction(folder: Path) -> str:
    """
    Raises:
        ValueError: it is missing, or lacks a place for the prompt or the reward's token.
    """
    file = folder / INSTRUCTION
    if not file.is_file():
        raise ValueError(
            f"reward 'hpsv3' has no {file}: write into it what the model is told, INSTRUCTION and "
            "prompt_with_special_token of hpsv3/dataset/data_collator_qwen.py at github.com/MizzenAI/HPSv3, one after "
            "the other, with {prompt} where the prompt goes"
        )
    text = file.read_text("utf-8")
    if missing := [word for word in ("{prompt}", REWARD_TOKEN) if word not in text]:
        raise ValueError(f"{file} lacks {missing[0]}: copy HPSv3's instruction whole")
    return text


def split(state: Weights) -> tuple[Weights, Weights]:
    """(head, model) with the names of `Qwen2VLModel`. Files of older versions of transformers call the parts `visual`
    and `model`, newer ones `model.visual` and `model.language_model`. The layer that writes text is left out."""
    head = {key.removeprefix("rm_head."): value for key, value in state.items() if key.startswith("rm_head.")}
    model = {}
    for key, value in state.items():
        if not key.startswith(("rm_head.", "lm_head.")):
            key = re.sub(r"^model\.(?!visual\.|language_model\.)", "language_model.", key)
            model[key.removeprefix("model.")] = value
    return head, model


def load_rating_head(weights: Weights, config: Qwen2VLConfig, path: Path) -> nn.Sequential:
    """Width of the language model → 1024 → 16 → μ and σ, frozen, float32."""
    width = config.text_config.hidden_size
    head = nn.Sequential(
        nn.Linear(width, 1024), nn.ReLU(), nn.Dropout(0.05), nn.Linear(1024, 16), nn.ReLU(), nn.Linear(16, 2)
    )
    check_keys(weights, head.state_dict(), path)
    head.load_state_dict(weights)
    return head.float().eval().requires_grad_(False)


def read_config(model: Weights, processor: ProcessorMixin) -> Qwen2VLConfig:
    """Sizes, read from the weights; the rest is Qwen2-VL-7B's."""
    embedded = model["visual.patch_embed.proj.weight"]
    words, width = model["language_model.embed_tokens.weight"].shape

    def layers(prefix: str) -> int:
        return len({m[1] for key in model if (m := re.match(rf"{re.escape(prefix)}\.(\d+)\.", key))})

    def rows(name: str) -> int:
        return len(model[name]) if name in model else 0

    attention = "language_model.layers.0.self_attn"
    ids = processor.tokenizer.convert_tokens_to_ids
    vision = {
        "depth": layers("visual.blocks"),
        "embed_dim": len(embedded),
        "hidden_size": width,
        "num_heads": max(1, len(embedded) // VISION_HEAD_CHANNELS),
        "mlp_ratio": rows("visual.blocks.0.mlp.fc1.bias") // len(embedded),
        "in_channels": embedded.shape[1],
        "temporal_patch_size": embedded.shape[2],
        "patch_size": embedded.shape[3],
    }
    text = {
        "vocab_size": words,
        "hidden_size": width,
        "intermediate_size": rows("language_model.layers.0.mlp.gate_proj.weight"),
        "num_hidden_layers": layers("language_model.layers"),
        "num_attention_heads": max(1, rows(f"{attention}.q_proj.weight") // HEAD_CHANNELS),
        "num_key_value_heads": max(1, rows(f"{attention}.k_proj.weight") // HEAD_CHANNELS),
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e6,
            "mrope_section": [16, 24, 24],
        },
    }
    return Qwen2VLConfig(
        vision_config=vision,
        text_config=text,
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
    )
