"""Validation on prompts that are not trained on: rewards, diversity, and when to stop."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..evaluation.thumbnails import pixel_diversity
from ..generators.base import Generator
from ..hypernetworks import Adapter
from ..hypernetworks.critic import Critic
from ..hypernetworks.drawing import Modulation, draw_in_parts
from ..prompt_sets import PromptMix
from ..rewards import RewardEnsemble
from ..settings import Message
from .config import TrainingConfig
from .encoded import EncodedPrompts

FIRST_SEED = 10_000_000
"""Seed of the validation images."""

SEEDS = 4
"""Images per prompt."""


@dataclass
class Progress:
    """What a run remembers about its validations."""

    base: dict[str, float] = field(default_factory=dict)
    """The measurement of the generator alone, which is the first one."""
    best_score: float = float("-inf")
    best_step: int = -1
    worse_in_a_row: int = 0


class Validation:
    """Measures an adapter on `prompts`, with the same seeds every time and with the readings that it is trained for.

    `validation/score` says how good an adapter is: the average gain of the held-out rewards over the base, in units of
    the base's standard deviation between images. Without held-out rewards it is the gain of the training reward.
    """

    def __init__(self, generator: Generator, reward: RewardEnsemble, prompts: Sequence[str], config: TrainingConfig):
        self._generator, self._reward, self._config = generator, reward, config
        self._count, self.prompts_sha256 = len(prompts), PromptMix.of(prompts).sha256
        self._conditioning = EncodedPrompts(generator.encode, prompts, generator.device)
        self._text = EncodedPrompts(reward.encode_text, prompts, generator.device)
        self.progress = Progress()

    def measure(self, adapter: Adapter, critic: Critic | None = None) -> tuple[dict[str, float], bool]:
        """Metrics, and whether the score is the best so far. The first call also measures the base.

        Of a critic: `validation/critic_bias` (what it expects less what the reward says, on average) and
        `validation/critic_correlation` of the two among the images of one prompt.
        """
        progress = self.progress
        if not progress.base:
            progress.base = self._means(None)
        means = self._means(adapter, critic)
        names = [f"validation/{name}" for name in self._reward.held_out] or ["validation/reward"]
        gains = [(means[name] - progress.base[name]) / max(progress.base[f"{name}/std"], 1e-6) for name in names]
        metrics = {name: value for name, value in means.items() if not name.endswith("/std")}
        metrics["validation/score"] = sum(gains) / len(gains)
        return metrics, metrics["validation/score"] > progress.best_score

    def note(self, step: int, metrics: dict[str, float]) -> str | None:
        """Record a measurement. Returns the reason to stop, or None."""
        progress, config, score = self.progress, self._config, metrics["validation/score"]
        if score > progress.best_score:
            progress.best_score, progress.best_step, progress.worse_in_a_row = score, step, 0
        else:
            progress.worse_in_a_row += 1
        if config.patience and progress.worse_in_a_row >= config.patience:
            return (
                f"validation/score has not been above its {progress.best_score:.4g} of step {progress.best_step} for "
                f"{progress.worse_in_a_row} validations"
            )
        least = config.diversity_floor * progress.base["validation/diversity"]
        if metrics["validation/diversity"] < least:
            return Message(
                "validation/diversity is {:.4g}, below {:g} of the base's {:.4g}: raise {temperature}, or lower "
                "{diversity_floor}",
                metrics["validation/diversity"],
                config.diversity_floor,
                progress.base["validation/diversity"],
            )
        return None

    @torch.no_grad()
    def _means(self, adapter: Adapter | None, critic: Critic | None = None) -> dict[str, float]:
        rows = [i for i in range(self._count) for _ in range(SEEDS)]
        scores: dict[str, list[Tensor]] = {}
        diversities = []
        size = max(1, (self._config.micro_batch_size or self._config.batch_size) // SEEDS) * SEEDS
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            images, own = self._batch(adapter, part, range(start, start + len(part)), critic)
            for name, values in own.items():
                scores.setdefault(f"validation/{name}", []).append(values)
            diversities += [pixel_diversity(group) for group in images.split(SEEDS)]
        result = {"validation/diversity": sum(diversities) / len(diversities)}
        whole = {name: torch.cat(parts).float() for name, parts in scores.items()}
        if (expected := whole.pop("validation/expected", None)) is not None:
            result |= agreement(expected, whole["validation/reward"])
        for name, values in whole.items():
            result |= {name: values.mean().item(), f"{name}/std": values.std().item()}
        return result

    def _batch(
        self, adapter: Adapter | None, rows: list[int], seeds: range, critic: Critic | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        config, generator = self._config, self._generator
        conditioning, text = self._conditioning.rows(rows), self._text.rows(rows)
        own = [FIRST_SEED + i for i in seeds]
        x0 = torch.cat([generator.noise(1, config.height, config.width, seed) for seed in own])
        how = Modulation.trained_for(config)
        start, images = draw_in_parts(generator, adapter, x0, conditioning, config.steps, own, how)
        scores = self._reward.scores(images, text, self._names())
        total = self._reward.combine({name: scores[name] for name in self._reward.rewards})
        expected = {}
        if critic is not None:
            parts = [critic.score(start[part], conditioning.rows(part)) for part in generator.parts(start)]
            expected = {"expected": torch.cat(parts)}
        return images, {"reward": total, **expected, **scores}

    def _names(self) -> list[str]:
        return [*self._reward.rewards, *self._reward.held_out]


def agreement(expected: Tensor, reward: Tensor) -> dict[str, float]:
    """How well a critic's [N] fit the reward's [N], where each `SEEDS` of them are of one prompt."""
    centred = [values.view(-1, SEEDS) - values.view(-1, SEEDS).mean(1, keepdim=True) for values in (expected, reward)]
    correlation = torch.cosine_similarity(centred[0].flatten(), centred[1].flatten(), dim=0)
    return {
        "validation/critic_bias": (expected - reward).mean().item(),
        "validation/critic_correlation": correlation.item(),
    }
