"""`load_reward`: from a name to a reward. Each reward has one file in this folder."""

import importlib
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from ..batch import TensorBatch
from ..embedded import REWARD_FOLDER
from ..settings import SettingError, about
from . import hpsv3, imagereward
from .aesthetic import find_aesthetic, load_aesthetic
from .base import Reward
from .checkpoints import find_file, find_folder
from .clip import CLIP_H, HPSV2, HPSV2_FILE, PICKSCORE, ClipReward, load_clip, load_hpsv2
from .diversity import Diversity
from .ensemble import PAPER_WEIGHTS, RewardEnsemble
from .images import from_channels_last
from .normalization import Normalization, NormalizationKind
from .package import PACKAGES
from .quantized import Quantize, check_quantize
from .redness import Redness
from .text import LongPrompts
from .vision_language import MODEL, find_judge
from .vqa import QUESTION, Vqa, load_vqa
from .vqa_questions import VqaQuestions, load_vqa_questions

__all__ = [
    "PAPER_WEIGHTS",
    "REWARDS",
    "VISION_LANGUAGE",
    "LoadOptions",
    "Normalization",
    "Reward",
    "RewardEnsemble",
    "check_rewards",
    "check_weights",
    "explain_images",
    "load_reward",
    "parse_rewards",
    "score_images",
]


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How released rewards are loaded. Rewards without weights, and your own, ignore these options."""

    weights: str | Path | None = None
    """File, folder or Hugging Face id. A folder may hold the weights of several rewards (in ComfyUI:
    models/hypernoise_rewards). None downloads from Hugging Face."""
    dtype: torch.dtype = torch.float32
    """dtype of the encoders' weights. Scores and their sums are float32 in any case."""
    long_prompts: LongPrompts = "report"
    """What happens to prompts beyond an encoder's window (77 tokens; 35 for ImageReward): `report` cuts them with a
    warning, `chunk` scores them in pieces. hpsv3, vqa and vqa-questions read thousands of tokens and cut with a warning
    in any case."""
    backend: Literal["native", "package"] = "native"
    """`package` runs the published package's own code (hpsv2, imagereward), in the environment that `make
    reward-packages` builds."""
    judge: str | Path = MODEL
    """The vision-language model that vqa and vqa-questions ask: a Hugging Face id, which is first looked for by its
    last part in `weights`, or a folder. Any model for transformers' AutoModelForImageTextToText."""
    question: str = QUESTION
    """What vqa asks, with {prompt} in the prompt's place. The score is log p of the answer Yes."""
    quantize: Quantize = "none"
    """Weights of hpsv3, vqa and vqa-questions in 8 (`int8`) or 4 bits (`nf4`), by bitsandbytes."""
    questions: str | Path | None = None
    """A .jsonl file that keeps the questions of vqa-questions, so that you can read and mend them. None writes them
    anew in every run."""


def _embedded(options: LoadOptions) -> Reward:
    backbone = load_clip("embedded", REWARD_FOLDER, "embedded", options.dtype)
    return ClipReward(backbone, "embedded", long_prompts=options.long_prompts)


def _hpsv2(options: LoadOptions) -> Reward:
    backbone = load_hpsv2(options.weights, options.dtype)
    return ClipReward(backbone, "hpsv2", scaled=False, long_prompts=options.long_prompts)


def _pickscore(options: LoadOptions) -> Reward:
    backbone = load_clip("pickscore", options.weights, PICKSCORE, options.dtype)
    return ClipReward(backbone, "pickscore", long_prompts=options.long_prompts)


def _clip(options: LoadOptions) -> Reward:
    return ClipReward(load_clip("clip", options.weights, CLIP_H, options.dtype), long_prompts=options.long_prompts)


def _vqa(options: LoadOptions) -> Reward:
    return load_vqa(options.weights, options.judge, options.dtype, options.question, options.quantize)


def _vqa_questions(options: LoadOptions) -> Reward:
    return load_vqa_questions(options.weights, options.judge, options.dtype, options.questions, options.quantize)


REWARDS: dict[str, Callable[[LoadOptions], Reward]] = {
    "hpsv2": _hpsv2,
    "imagereward": lambda o: imagereward.load_imagereward(o.weights, o.dtype, o.long_prompts),
    "pickscore": _pickscore,
    "clip": _clip,
    "aesthetic": lambda o: load_aesthetic(o.weights, o.dtype),
    "hpsv3": lambda o: hpsv3.load_hpsv3(o.weights, o.dtype, o.quantize),
    "vqa": _vqa,
    "vqa-questions": _vqa_questions,
    "redness": lambda o: Redness(),
    "diversity": lambda o: Diversity(),
    "embedded": _embedded,
}
"""Name to loader."""

_PLACES: dict[str, Callable[[str | Path], object]] = {
    "hpsv2": lambda weights: find_file("hpsv2", weights, HPSV2, HPSV2_FILE),
    "imagereward": lambda weights: find_file("imagereward", weights, imagereward.HUB, imagereward.FILE),
    "pickscore": lambda weights: find_folder("pickscore", weights, PICKSCORE),
    "clip": lambda weights: find_folder("clip", weights, CLIP_H),
    "aesthetic": find_aesthetic,
    "hpsv3": lambda weights: find_file("hpsv3", weights, hpsv3.HUB, hpsv3.FILE),
}
"""Where a released reward's weights are searched for."""

VISION_LANGUAGE = ("hpsv3", "vqa", "vqa-questions")
"""Rewards of billions of parameters, which their authors run in bfloat16."""


def check_weights(name: str, weights: str | Path, judge: str | Path = MODEL) -> None:
    """Check that a reward's weights are in a local file or folder, without reading them. Rewards without weights always
    pass.

    Args:
        judge: as in `LoadOptions`.

    Raises:
        ValueError: they are not there; the message says what to download.
    """
    if name in _PLACES:
        _PLACES[name](weights)
    if name in (Vqa.name, VqaQuestions.name):
        find_judge(name, weights, judge)


def check_rewards(names: str, options: LoadOptions | None = None) -> None:
    """Check a line such as `hpsv2,redness=100` without loading a model.

    Raises:
        ValueError: as in `parse_rewards`, except what only the hub or the weights themselves can tell.
    """
    options = options or LoadOptions()
    check_quantize(options.quantize)
    for name, _ in _wanted(names):
        if name not in REWARDS:
            load_reward(name)
        elif options.weights:
            check_weights(name, options.weights, options.judge)


def load_reward(name: str, weights: str | Path | None = None, **options) -> Reward:
    """Load a reward by name, or your own as `module:Class`. The module may be a Python file in the current folder.

    Args:
        weights, options: as in `LoadOptions`.

    Raises:
        ValueError: an unknown name, a module or class that does not load, or missing weights.
    """
    chosen = LoadOptions(weights=weights, **options)
    if name in REWARDS:
        if chosen.backend == "native":
            return REWARDS[name](chosen)
        if name in PACKAGES:
            return PACKAGES[name](weights)
        raise SettingError(
            "{backend} is package, and reward {!r} has no package behind it: give native, or one of {}",
            name,
            ", ".join(PACKAGES),
        )
    if ":" not in name:
        raise ValueError(f"unknown reward {name!r}: choose from {', '.join(REWARDS)}, or your own as module:Class")
    return _load_own(name)


def _load_own(name: str) -> Reward:
    module_name, _, class_name = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        reward_class = getattr(importlib.import_module(module_name.removesuffix(".py")), class_name)
    except Exception as error:  # whatever the module does when it is imported
        told = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"reward {name!r} does not load ({told}): give module:Class of a module that Python can import here"
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not (isinstance(reward_class, type) and issubclass(reward_class, Reward)):
        raise ValueError(f"reward {name!r} is not a subclass of hypernoise_core.rewards.Reward: make it one")
    reward = reward_class()
    if not getattr(reward, "name", None):
        reward.name = class_name.lower()
    return reward


def parse_rewards(
    names: str,
    options: LoadOptions | None = None,
    held_out: str = "",
    normalization: NormalizationKind = "none",
    offload: bool = False,
    chunk: int | None = None,
) -> RewardEnsemble:
    """An ensemble from text such as `hpsv2,imagereward` or `redness=100,my_rewards:Brightness=0.5`.

    A reward without a weight gets the paper's (`PAPER_WEIGHTS`), or 1. `held_out` names rewards without weights. The
    other arguments are those of `RewardEnsemble`.

    Raises:
        ValueError: as in `load_reward`, or weights that are not numbers or are all zero.
    """
    wanted = _wanted(names)
    how = vars(options or LoadOptions())
    followed = [(load_reward(name, **how), weight) for name, weight in wanted]
    with about("held_out"):
        measured = [load_reward(name, **how) for name in _split_names(held_out)]
    return RewardEnsemble(followed, measured, Normalization.of_kind(normalization), offload, chunk)


def _wanted(names: str) -> list[tuple[str, float]]:
    wanted = [_weighted(part) for part in _split_names(names)]
    if not any(weight for _, weight in wanted):
        raise ValueError("no reward has a weight other than zero: name at least one")
    return wanted


def _split_names(names: str) -> list[str]:
    return [part.strip() for part in names.split(",") if part.strip()]


def _weighted(part: str) -> tuple[str, float]:
    name, equals, weight = part.partition("=")
    name = name.strip()
    try:
        value = float(weight) if equals else PAPER_WEIGHTS.get(name, 1.0)
    except ValueError as error:
        raise ValueError(f"reward {part!r}: the weight after = is not a number") from error
    if not math.isfinite(value):
        raise ValueError(f"reward {part!r}: the weight after = is not finite")
    return name, value


@torch.no_grad()
def score_images(
    reward: Reward, images: Tensor, prompts: str | Sequence[str], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """Scores [B] by name, on the CPU, of finished images. For an ensemble: those of its rewards, and their weighted sum
    as `ensemble`.

    Args:
        images: [B, H, W, 3] as in ComfyUI: float in [0, 1], or uint8.
        prompts: one for all images, or one for each.
        device: where `reward` is.

    Raises:
        ValueError: values outside an image's range, or a different number of prompts and images.
    """
    pictures, text = _prepared(reward, images, prompts, device)
    if isinstance(reward, RewardEnsemble):
        total, scores = reward.judge(pictures, text)
        scores = scores | reward.scores(pictures, text, reward.held_out) | {reward.name: total}
    else:
        scores = {reward.name: reward.score(pictures, text)}
    return {name: own.float().cpu() for name, own in scores.items()}


@torch.no_grad()
def explain_images(
    reward: Reward, images: Tensor, prompts: str | Sequence[str], device: torch.device | str = "cpu"
) -> list[dict[str, float]]:
    """For each image, what its score is made of (`Reward.explain`). Arguments and errors are those of
    `score_images`."""
    return reward.explain(*_prepared(reward, images, prompts, device))


def _prepared(
    reward: Reward, images: Tensor, prompts: str | Sequence[str], device: torch.device | str
) -> tuple[Tensor, TensorBatch]:
    pictures = from_channels_last(images).to(device)
    prompts = [prompts] * len(pictures) if isinstance(prompts, str) else list(prompts)
    if len(prompts) != len(pictures):
        raise ValueError(f"{len(prompts)} prompts for {len(pictures)} images: give one for all, or one for each")
    return pictures, reward.encode_text(prompts)
