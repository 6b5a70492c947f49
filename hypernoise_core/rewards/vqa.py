"""VQAScore (Lin et al. 2024, arXiv 2404.01291) with any vision-language model: how sure the model is that the picture
shows the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..batch import TensorBatch
from ..settings import SettingError
from .base import Reward
from .quantized import Quantize
from .vision_language import VisionLanguageModel, as_batch, as_texts, load_vision_language

QUESTION = 'Does this figure show "{prompt}"? Please answer yes or no.'
"""VQAScore's."""


def check_question(question: str) -> None:
    """
    Raises:
        SettingError: it has no {prompt}.
    """
    if "{prompt}" not in question:
        raise SettingError("{question} is {!r}: write {} where the prompt belongs", question, "{prompt}")


class Vqa(Reward):
    """log p of "Yes", at most 0.

    Args:
        question: with {prompt} in the prompt's place.

    Raises:
        SettingError: as in `check_question`.
    """

    name = "vqa"
    differentiable = False

    def __init__(self, judge: VisionLanguageModel, question: str = QUESTION):
        check_question(question)
        self.judge, self.question = judge, question

    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        """The questions. The model sees the picture first, so nothing else can be computed beforehand."""
        return as_batch([self.question.replace("{prompt}", prompt) for prompt in self.judge.fitted(prompts)])

    @torch.no_grad()
    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        return self.judge.log_probability(images, as_texts(text))

    def to(self, device: torch.device | str) -> Vqa:
        self.judge.to(device)
        return self


def load_vqa(
    weights: str | Path | None,
    model: str | Path | None,
    dtype: torch.dtype,
    question: str | None = None,
    quantize: Quantize = "none",
) -> Vqa:
    """Arguments and errors are those of `vision_language.load_vision_language` and `Vqa`."""
    return Vqa(load_vision_language("vqa", weights, model, dtype, quantize), question or QUESTION)
