"""The exact detector's verdict as a reward: yes or no, without a gradient (`hypernoise_core.embedded.verdict:Verdict`).

Whoever trains on it is judged by it on held-out prompts alone. It stands for rewards that look at a picture with an
object detector or a model that answers in words.
"""

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from ..batch import TensorBatch
from ..rewards.base import Reward
from .detector import judge
from .prompts import Prompt, prompts


class Verdict(Reward):
    """1 where everything is there that the prompt asks for, 0 elsewhere."""

    name = "verdict"
    differentiable = False

    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        """
        Raises:
            ValueError: a prompt is none of the embedded world's.
        """
        if unknown := [text for text in prompts if text not in _numbers()]:
            raise ValueError(f"reward {self.name!r} knows the embedded world's prompts alone, and not {unknown[0]!r}")
        return TensorBatch({"number": torch.tensor([_numbers()[text] for text in prompts])})

    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        pictures = images.detach().float().permute(0, 2, 3, 1).cpu().numpy()
        wanted = [_all()[number] for number in text["number"].tolist()]
        verdicts = [judge(picture, prompt).correct for picture, prompt in zip(pictures, wanted, strict=True)]
        return torch.tensor(verdicts, dtype=torch.float32, device=images.device)


@cache
def _all() -> list[Prompt]:
    return [*prompts(held_out=False), *prompts(held_out=True)]


@cache
def _numbers() -> dict[str, int]:
    return {prompt.text: number for number, prompt in enumerate(_all())}
