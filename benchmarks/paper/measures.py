"""Measure a technique's images, and compute intervals of differences."""

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from hypernoise_core.diagnostics import noise_statistics
from hypernoise_core.embedded.benchmark import Case, Made
from hypernoise_core.embedded.detector import Detection, answers, detect
from hypernoise_core.embedded.prompts import CATEGORIES
from hypernoise_core.objective import kl_l2
from hypernoise_core.rewards import Reward
from hypernoise_core.rewards.base import BackboneReward
from hypernoise_core.rewards.redness import Redness

from .techniques import Cost, Spec, Tools, path
from .world import Batch, World

Record = dict
"""Numbers of one technique, as in the JSON file. `correct` and `strict` hold a 0 or 1 for each case, so that any two
records can be compared image by image."""

BATCH = 30
BINS = 2
"""Cells along each side in which a layout counts things. On a finer grid all images of the base would differ."""


def measure(
    world: World, spec: Spec, tools: Tools, todo: list[Case], per: int, also: Mapping[str, Reward] | None = None
) -> Record:
    """The record of a technique on cases, `per` in a row for each prompt."""
    return measure_path(world, spec, tools, todo, per, also=also)[-1]


@torch.no_grad()
def measure_path(
    world: World,
    spec: Spec,
    tools: Tools,
    todo: list[Case],
    per: int,
    at: tuple[int, ...] = (-1,),
    also: Mapping[str, Reward] | None = None,
) -> list[Record]:
    """Records of a search at some of its candidates or iterations (indices of `techniques.path`). Best-of-N does not
    move noise but takes another one, so its ½‖Δ‖² means nothing and `kl` is None."""
    collected: list[list[tuple[Batch, Made]]] = [[] for _ in at]
    costs: list[list[Cost]] = [[] for _ in at]
    for i in range(0, len(todo), BATCH):
        batch = world.batch(todo[i : i + BATCH])
        stages = list(_kept(path(spec, tools, batch), at))
        for slot, (made, cost) in enumerate(stages):
            collected[slot].append((batch, made))
            costs[slot].append(cost)
    records = [record(world, parts, cost, per, also or {}) for parts, cost in zip(collected, costs, strict=True)]
    return [r | {"kl": None} for r in records] if spec.best_of else records


def _kept(stages: Iterator, at: tuple[int, ...]) -> list:
    found = {}
    for i, stage in enumerate(stages):
        found[i] = found[-1] = stage
        if i - 1 not in at and i > 0:
            del found[i - 1]
    return [found[i] for i in at]


def record(
    world: World, parts: list[tuple[Batch, Made]], costs: list[Cost], per: int, also: Mapping[str, Reward]
) -> Record:
    """All numbers of pictures that were made in batches."""
    todo = [case for batch, _ in parts for case in batch.cases]
    images, starts = (torch.cat([getattr(made, name) for _, made in parts]) for name in ("images", "start"))
    x0 = torch.cat([batch.x0 for batch, _ in parts])
    found = [detect(picture) for picture in images.permute(0, 2, 3, 1).cpu().numpy()]
    verdicts = [answers(detection, case.prompt) for detection, case in zip(found, todo, strict=True)]
    correct, strict = (np.array([getattr(v, what) for v in verdicts], float) for what in ("correct", "strict"))
    features, others = _features(world.reward, images), {"redness": Redness(), **also}
    categories = by_category(correct, todo)
    return {
        "n": len(todo),
        "per": per,
        "correct": bits(correct),
        "strict": bits(strict),
        "detector": float(np.mean(list(categories.values()))),
        "detector_strict": float(np.mean(list(by_category(strict, todo).values()))),
        "categories": categories,
        "reward": _mean_score(world.reward, world.reward.score_features, features, todo),
        **{name: _mean_score(reward, reward.score, images, todo) for name, reward in others.items()},
        "kl": kl_l2(starts - x0).mean().item(),
        "diversity": {
            "pixels": _pairwise(_thumbnails(images), per, _rms),
            "features": _pairwise(features.cpu().numpy(), per, _cosine_distance),
            "layout": _pairwise(found, per, _layout_distance),
        },
        "noise": statistics(starts),
        **{name: float(np.mean([getattr(cost, name) for cost in costs])) for name in ("nfe", "backward", "scored")},
    }


def _mean_score(reward: Reward, score: Callable, seen: Tensor, todo: list[Case]) -> float:
    """The mean of `score` (of the pictures, or of the features `seen` in them, and the encoded prompts)."""
    total = 0.0
    for i in range(0, len(todo), BATCH):
        text = reward.encode_text([case.prompt.text for case in todo[i : i + BATCH]])
        total += score(seen[i : i + BATCH], text).double().sum().item()
    return total / len(todo)


def by_category(values: np.ndarray, todo: list[Case]) -> dict[str, float]:
    names = np.array([case.prompt.category for case in todo])
    return {category: float(values[names == category].mean()) for category in CATEGORIES}


def bits(values: np.ndarray) -> str:
    return "".join("01"[int(value)] for value in values)


def statistics(x: Tensor) -> dict[str, float]:
    """Check that noise [B, C, h, w] is still unit Gaussian noise: moments, the largest mean of a channel and of a
    latent cell over all images (they show a shift that does not depend on the prompt), and the correlation of
    neighbours."""
    x = x.float()
    z = x - x.mean((0, 2, 3), keepdim=True)
    neighbours = ((z[..., 1:] * z[..., :-1]).mean() + (z[..., 1:, :] * z[..., :-1, :]).mean()) / 2
    return {
        **noise_statistics(x),
        "kurtosis": ((x - x.mean()) ** 4).mean().item() / x.var().item() ** 2,
        "channel_mean": x.mean((0, 2, 3)).abs().max().item(),
        "cell_mean": x.mean(0).square().mean().sqrt().item(),
        "neighbours": (neighbours / z.square().mean()).item(),
    }


def _thumbnails(images: Tensor) -> np.ndarray:
    return torch.nn.functional.adaptive_avg_pool2d(images.float(), 16).flatten(1).cpu().numpy()


def _features(reward: BackboneReward, images: Tensor) -> Tensor:
    """Unit vectors of the reward's picture encoder."""
    return torch.cat([reward.backbone.image_features(part) for part in images.split(BATCH)])


def _pairwise(items, per: int, distance) -> float:
    """Mean distance of the pictures of one prompt, over prompts."""
    means = []
    for first in range(0, len(items), per):
        group = items[first : first + per]
        means.append(np.mean([distance(a, b) for a, b in combinations(group, 2)]))
    return float(np.mean(means))


def _rms(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.square(a - b).mean()))


def _cosine_distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(1 - (a * b).sum())


def _layout_distance(a: Detection, b: Detection) -> float:
    """1 minus intersection over union of two layouts: things by shape, colour and cell of the image. Two images without
    things do not differ."""
    first, second = (_layout(detection) for detection in (a, b))
    union = sum(max(first.get(key, 0), second.get(key, 0)) for key in first.keys() | second.keys())
    overlap = sum(min(first[key], second[key]) for key in first.keys() & second.keys())
    return 1 - overlap / union if union else 0.0


def _layout(detection: Detection, side: int = 64) -> dict[tuple, int]:
    counts: dict[tuple, int] = {}
    for thing in detection.things:
        key = (thing.shape, thing.color, int(thing.x * BINS / side), int(thing.y * BINS / side))
        counts[key] = counts.get(key, 0) + 1
    return counts


def values(*records: Record, what: str = "correct") -> np.ndarray:
    """Per case, the mean over records of the same cases (training seeds)."""
    return np.mean([[float(bit) for bit in r[what]] for r in records], axis=0)


def paired(records: list[Record], base: list[Record], samples: int = 2000, seed: int = 0) -> tuple[float, float, float]:
    """(difference of the detector's category means, low, high): 95 % paired bootstrap within categories.

    Several records on a side are training seeds, which are averaged case by case. A side with more cases per prompt is
    cut to the other side's.
    """
    per = min(r["per"] for r in (*records, *base))
    a, b = (values(*(cut(r, per) for r in side)) for side in (records, base))
    assert len(a) == len(b), "records of other cases cannot be paired"
    groups = np.split(a - b, len(CATEGORIES))  # cases are in categories' order, as many of each
    rng = np.random.default_rng(seed)
    means = np.mean([g[rng.integers(len(g), size=(samples, len(g)))].mean(1) for g in groups], axis=0)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(np.mean([g.mean() for g in groups])), float(low), float(high)


def cut(record: Record, per: int) -> Record:
    """Its first `per` cases of each prompt, as far as `paired` reads it."""
    return {"per": per, "correct": "".join(bit for i, bit in enumerate(record["correct"]) if i % record["per"] < per)}


def interval(record: Record, samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a detector score."""
    nothing = {"per": record["per"], "correct": "0" * len(record["correct"])}
    return paired([record], [nothing], samples, seed)[1:]
