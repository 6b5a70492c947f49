"""The text encoders of one of the core's generators as ComfyUI's CLIP."""

from __future__ import annotations

import comfy.model_management
import comfy.sd
from torch import Tensor, nn

from hypernoise_core.generators import DiffusersGenerator

PROMPT = "prompt"
"""The key of what stands for tokens: the prompt itself, because diffusers' pipeline tokenizes when it encodes."""


def diffusers_clip(generator: DiffusersGenerator) -> comfy.sd.CLIP:
    size = sum(parameter.numel() for encoder in generator.text_encoders for parameter in encoder.parameters())
    return comfy.sd.CLIP(_Target(generator), parameters=size)


class PipelineText(nn.Module):
    """The text encoders with the interface that comfy.sd.CLIP calls."""

    disable_offload = True
    """ComfyUI's dynamic VRAM works only for its own layers; transformers' layers are loaded completely."""

    def __init__(self, generator: DiffusersGenerator):
        super().__init__()
        self.generator = generator
        self.text_encoders = nn.ModuleList(generator.text_encoders)
        self.dtypes = {encoder.dtype for encoder in generator.text_encoders}

    def set_clip_options(self, options: dict) -> None:
        pass

    def reset_clip_options(self) -> None:
        pass

    def encode_token_weights(self, tokens: dict) -> tuple[Tensor, Tensor | None, dict]:
        self.generator.device = self.text_encoders[0].device  # where ComfyUI has put them, and where ids must go
        encoded = self.generator.encode(tokens[PROMPT]).to(comfy.model_management.intermediate_device()).tensors
        mask = {"attention_mask": encoded["mask"]} if "mask" in encoded else {}
        return encoded["embeds"].float(), encoded["pooled"].float() if "pooled" in encoded else None, mask

    def load_sd(self, state_dict: dict):
        return self.text_encoders.load_state_dict(state_dict, strict=False)


class _Tokenizer:
    """Passes the whole prompt on."""

    def __init__(self, embedding_directory=None, tokenizer_data=None):
        pass

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **_) -> dict:
        return {PROMPT: [text]}

    def state_dict(self) -> dict:
        return {}


class _Target:
    """The target from which comfy.sd.CLIP makes a text encoder."""

    tokenizer = _Tokenizer

    def __init__(self, generator: DiffusersGenerator):
        self.params = {}
        self.clip = lambda **_: PipelineText(generator)
