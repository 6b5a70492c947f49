"""REWARD, which nodes pass on: weighted rewards and the device they run on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from hypernoise_core.rewards import RewardEnsemble, explain_images, score_images

RewardType = io.Custom("REWARD")


@dataclass(frozen=True, eq=False)
class LoadedReward:
    """REWARD: weighted rewards and the device they run on. They stay in main memory and move to the device only to
    score."""

    ensemble: RewardEnsemble
    device: torch.device

    def score(self, images: Tensor, prompt: str) -> dict[str, Tensor]:
        """Scores [B] of IMAGE [B, H, W, C] by reward, unweighted, and their weighted sum as `total`."""
        with self.present():
            scores = score_images(self.ensemble, images, prompt, self.device)
            scores["total"] = scores.pop(self.ensemble.name)
            return scores

    def explain(self, images: Tensor, prompt: str) -> str:
        """What each image of IMAGE [B, H, W, C] was asked and how sure the answer yes is, the least sure first; nothing
        for rewards that ask nothing."""
        with self.present():
            told = explain_images(self.ensemble, images, prompt, self.device)
        lines = [
            f"{i}  {answer:.2f}  {question}"
            for i, answers in enumerate(told, 1)
            for question, answer in sorted(answers.items(), key=lambda pair: pair[1])
        ]
        return "\n".join(lines)

    @contextmanager
    def present(self, pictures: torch.device | None = None) -> Iterator[None]:
        """Keep its weights on the device inside the block, outside of inference mode, because training differentiates
        through them. If the `pictures` are on another device, each encoder moves there in turn."""
        ensemble, place = self.ensemble, pictures or self.device
        with torch.inference_mode(False):
            try:
                ensemble.offload = place != self.device
                ensemble.to(place)
                yield
            finally:
                ensemble.offload = False
                ensemble.to("cpu")


def table(scores: dict[str, Tensor]) -> str:
    """A line for the mean and one per image, one column per reward. The sum has a column only if there are several."""
    shown = scores if len(scores) > 2 else {name: values for name, values in scores.items() if name != "total"}
    rows = [["", *shown]]
    count = len(next(iter(shown.values())))
    rows += [["mean", *(f"{values.mean():.4f}" for values in shown.values())]]
    rows += [[str(i + 1), *(f"{values[i]:.4f}" for values in shown.values())] for i in range(count)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
