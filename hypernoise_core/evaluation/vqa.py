"""Yes-or-no questions about an image, answered by BLIP from transformers, as T2I-CompBench judges attribute binding."""

import re
from collections.abc import Sequence
from math import prod

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer, BlipForQuestionAnswering

from ..settings import SettingError
from .loading import load_part, load_whole

BLIP_VQA = "Salesforce/blip-vqa-capfilt-large"
"""BLIP's ViT-B, tuned on VQA from the CapFilt-L checkpoint: T2I-CompBench's own, at 384 instead of 480 pixels."""

MAX_TOKENS = 35
MAX_PHRASES = 8
"""Maximum number of noun phrases per prompt that T2I-CompBench asks about."""


class YesNo:
    """BLIP's confidence in a yes: P(yes) / (P(yes) + P(no)) of the answer's first token."""

    def __init__(self, model: BlipForQuestionAnswering, tokenizer, processor):
        self._model, self._tokenizer, self._processor = model, tokenizer, processor
        self._yes, self._no = (tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no"))
        if tokenizer.unk_token_id in (self._yes, self._no):
            raise SettingError("{vqa} has a tokenizer without the words yes and no: give a BLIP with BERT's")

    @torch.no_grad()
    def __call__(self, image: Image.Image, questions: Sequence[str]) -> list[float]:
        """One probability in [0, 1] for each question about an RGB image."""
        if not questions:
            return []
        pixels = self._processor(images=image, return_tensors="pt").pixel_values.to(self._model.device)
        seen = self._model.vision_model(pixel_values=pixels)[0]
        # One question at a time: transformers' decoder (5.23) attends to the padding of a batch in spite of the mask.
        return [self._answer(seen, question) for question in questions]

    def _answer(self, seen: Tensor, question: str) -> float:
        model, start = self._model, self._model.config.text_config.bos_token_id
        tokens = self._tokenizer(_plain(question), truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        ids = tokens.input_ids.to(model.device).clone()
        ids[:, 0] = start + 1  # BLIP's [ENC], next to its [DEC]: released tokenizers do not have it
        asked = model.text_encoder(input_ids=ids, encoder_hidden_states=seen).last_hidden_state
        decoder_ids = torch.full((1, 1), start, device=model.device)
        logits = model.text_decoder(input_ids=decoder_ids, encoder_hidden_states=asked).logits[0, 0]
        return logits[[self._yes, self._no]].float().softmax(-1)[0].item()


def attribute_binding(ask: YesNo, image: Image.Image, phrases: Sequence[str]) -> float:
    """BLIP-VQA (Huang et al. 2023, arXiv 2307.06350): the product of the answers over a prompt's noun phrases, such as
    `a green bench` and `a red car`. 1 if there are none."""
    return prod(ask(image, [f"{phrase}?" for phrase in phrases[:MAX_PHRASES]]))


def load_yes_no(source: str = BLIP_VQA, device: str = "cpu") -> YesNo:
    """
    Raises:
        ValueError: there is no BLIP for VQA at that hub id or folder.
    """
    tokenizer, processor = (load_part(part, source, "vqa") for part in (AutoTokenizer, AutoImageProcessor))
    return YesNo(load_whole(BlipForQuestionAnswering, source, "vqa").to(device), tokenizer, processor)


def _plain(question: str) -> str:
    """The question in the form that BLIP was trained on."""
    return re.sub(r'[.!"()*#:;~]', "", question.lower()).rstrip(" ")
