"""REWARD, what travels between the nodes: weighted rewards and where they run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from comfy_api.latest import io
from torch import Tensor

from hypernoise_core.rewards import RewardEnsemble, score_images

RewardType = io.Custom("REWARD")


@dataclass(frozen=True, eq=False)
class LoadedReward:
    """REWARD: weighted rewards and where they run. They lie in main memory and visit the device to score."""

    ensemble: RewardEnsemble
    device: torch.device

    def score(self, images: Tensor, prompt: str) -> dict[str, Tensor]:
        """Scores [B] of IMAGE [B, H, W, C] by reward, unweighted, and their weighted sum as `total`."""
        with self.present():
            scores = score_images(self.ensemble, images, prompt, self.device)
            scores["total"] = scores.pop(self.ensemble.name)
            return scores

    @contextmanager
    def present(self, pictures: torch.device | None = None) -> Iterator[None]:
        """Its weights on the device within the block, and never in inference mode: training differentiates through
        them, whatever they were used for before. Where the `pictures` are elsewhere, each encoder visits them."""
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
    """One line a picture, one column a reward; the sum has its own only where there are several."""
    shown = scores if len(scores) > 2 else {name: values for name, values in scores.items() if name != "total"}
    rows = [["", *shown]]
    count = len(next(iter(shown.values())))
    rows += [[str(i + 1), *(f"{values[i]:.4f}" for values in shown.values())] for i in range(count)]
    rows += [["mean", *(f"{values.mean():.4f}" for values in shown.values())]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
