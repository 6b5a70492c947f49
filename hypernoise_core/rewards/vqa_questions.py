"""Questions about a picture: the prompt is taken apart into questions that "yes" answers, as in TIFA (Hu et al. 2023,
arXiv 2303.11897) and DSG (Cho et al. 2023, arXiv 2310.18235), by the same model that answers them."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..batch import TensorBatch
from ..files import replacing
from ..settings import Message
from .base import Reward
from .quantized import Quantize
from .text import PromptCache
from .vision_language import VisionLanguageModel, as_batch, as_texts, load_vision_language

MOST = 12
"""Questions of a prompt."""
TAKE_APART = (
    f"Here is the description of a picture. Write at most {MOST} short questions that check, one fact each, whether a "
    "picture shows what the description says: every thing, how many there are, its attributes, where it is, the "
    'style. Each must be answered "yes" if the picture is right. Write one question a line and nothing else.\n\n'
    "Description: {prompt}"
)
ASK = "{question} Please answer yes or no."
WHOLE = 'Does this figure show "{prompt}"?'
"""Asked of a prompt that the model did not take apart."""


class VqaQuestions(Reward):
    """The mean of p("Yes") over a prompt's questions, in [0, 1].

    Args:
        file: `.jsonl` with a prompt and its questions in each line. Prompts that are not in it are taken apart and
            added. Without a file they are taken apart in every run.

    Raises:
        ValueError: a line of the file cannot be used.
    """

    name = "vqa-questions"
    differentiable = False

    def __init__(self, judge: VisionLanguageModel, file: str | Path | None = None):
        self.judge, self.file = judge, Path(file) if file else None
        self._known = read_questions(self.file) if self.file else {}
        self._cache = PromptCache(self._questions)

    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        """The questions of each prompt, one a line."""
        return self._cache(prompts).to(self.judge.model.device)

    @torch.no_grad()
    def _questions(self, prompts: Sequence[str]) -> TensorBatch:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._known]
        made = {prompt: self._taken_apart(prompt) for prompt in new}
        self._known |= made
        if made and self.file:
            add_questions(self.file, made)
        return as_batch(["\n".join(self._known[prompt]) for prompt in prompts])

    def _taken_apart(self, prompt: str) -> list[str]:
        (taken,) = self.judge.fitted([prompt])
        if questions := parse_questions(self.judge.write(TAKE_APART.replace("{prompt}", taken))):
            return questions
        warnings.warn(
            f"the model wrote no questions for {prompt[:60]!r}, which is asked about as a whole: write them into the "
            "file of questions, or take a larger model",
            stacklevel=2,
        )
        return [WHOLE.replace("{prompt}", " ".join(taken.split()))]

    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        answers = [torch.stack(list(own.values())).mean() for own in self._answers(images, text)]
        return torch.stack(answers)

    def explain(self, images: Tensor, text: TensorBatch) -> list[dict[str, float]]:
        return [{question: p.item() for question, p in own.items()} for own in self._answers(images, text)]

    @torch.no_grad()
    def _answers(self, images: Tensor, text: TensorBatch) -> list[dict[str, Tensor]]:
        """p("Yes") of each question of each image: an image at a time, with all that is asked about it."""
        found = []
        for image, lines in zip(images, as_texts(text), strict=True):
            questions = list(dict.fromkeys(lines.split("\n")))
            asked = [ASK.replace("{question}", question) for question in questions]
            log_p = self.judge.log_probabilities(image, asked)
            found.append(dict(zip(questions, log_p.exp(), strict=True)))
        return found

    def to(self, device: torch.device | str) -> VqaQuestions:
        self.judge.to(device)
        return self


def parse_questions(written: str) -> list[str]:
    """The lines of `written` that are questions, without bullets and numbers; at most `MOST`."""
    lines = [re.sub(r"^\s*(?:[-*•]|\d+\s*[.):])?\s*", "", line).strip() for line in written.splitlines()]
    return list(dict.fromkeys(line for line in lines if len(line) > 1 and line.endswith(("?", "？"))))[:MOST]


def read_questions(file: Path) -> dict[str, list[str]]:
    """Prompt to questions. A file that does not exist yet holds none.

    Raises:
        ValueError: a line is not {"prompt": "…", "questions": ["…?", …]}.
    """
    if not file.exists():
        return {}
    known = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            prompt, questions = row["prompt"], row["questions"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(_unusable(file, number)) from error
        fits = isinstance(questions, list) and questions and all(isinstance(q, str) and q.strip() for q in questions)
        if not (isinstance(prompt, str) and fits):
            raise ValueError(_unusable(file, number))
        known[prompt] = [" ".join(question.split()) for question in questions]
    return known


def add_questions(file: Path, made: Mapping[str, list[str]]) -> None:
    """Add lines to the file. What somebody else wrote there in the meantime stays."""
    there = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    rows = [json.dumps({"prompt": p, "questions": q}, ensure_ascii=False) for p, q in made.items()]
    with replacing(file) as temporary:
        temporary.write_text("\n".join([*there, *rows]) + "\n", encoding="utf-8")


def _unusable(file: Path, number: int) -> Message:
    told = "{questions}: line {} of {} is not {}: mend the line or remove it"
    return Message(told, number, file, '{"prompt": "…", "questions": ["…?", …]}')


def load_vqa_questions(
    weights: str | Path | None,
    model: str | Path | None,
    dtype: torch.dtype,
    file: str | Path | None = None,
    quantize: Quantize = "none",
) -> VqaQuestions:
    """Arguments and errors are those of `vision_language.load_vision_language` and `VqaQuestions`."""
    return VqaQuestions(load_vision_language("vqa-questions", weights, model, dtype, quantize), file)
