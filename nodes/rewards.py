"""Load Reward, Reward Score, Keep Best Images."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import comfy.model_management
import folder_paths
import torch
from comfy_api.latest import io, ui
from torch import Tensor

from hypernoise_core.rewards import REWARDS, RewardEnsemble, check_weights, load_reward, score_images
from hypernoise_core.search import ranking

from . import folders

CATEGORY = "HyperNoise/rewards"
IN_FOLDER = "models/hypernoise_rewards"
FROM_HUB = "Hugging Face cache"
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


class HyperNoiseLoadReward(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseLoadReward",
            display_name="Load Reward",
            category=CATEGORY,
            description="Loads a model that judges pictures under their prompt. Chain several through add_to for a "
            "weighted sum.",
            search_aliases=["hpsv2", "imagereward", "pickscore", "clip score", "aesthetic", "preference model"],
            inputs=[
                io.Combo.Input(
                    "reward",
                    options=reward_names(),
                    default=folders.EMBEDDED,
                    tooltip="'embedded' judges the pack's own coloured shapes and needs no download. Python files in "
                    "models/hypernoise_rewards with a subclass of hypernoise_core.Reward are offered as file:Class.",
                ),
                io.Combo.Input(
                    "weights",
                    options=weight_names(),
                    default=IN_FOLDER,
                    tooltip="Where the reward's released weights are: somewhere in models/hypernoise_rewards, in one "
                    "file or folder there, or in the Hugging Face cache, which downloads what it lacks.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=-10000.0,
                    max=10000.0,
                    step=0.01,
                    tooltip="The share of this reward in the sum.",
                ),
                io.Combo.Input(
                    "device",
                    options=["auto", "cpu"],
                    default="auto",
                    tooltip="Where it scores: 'auto' is ComfyUI's device, 'cpu' leaves the GPU's memory alone.",
                ),
                RewardType.Input("add_to", optional=True, tooltip="Another Load Reward, to which this one is added."),
            ],
            outputs=[
                RewardType.Output(display_name="reward", tooltip="For Reward Score, Keep Best Images and Compare.")
            ],
        )

    @classmethod
    def validate_inputs(cls, reward, weights):
        if reward not in reward_names():
            return f"there is no reward {reward}: choose one of {', '.join(reward_names())}"
        if weights not in weight_names():
            return f"there is no {weights} in {IN_FOLDER}: put it there, or choose other weights"
        place = weights_path(reward, weights)
        try:
            if place:
                check_weights(reward, place)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, reward, weights, weight, device, add_to=None) -> io.NodeOutput:
        others = [(r, add_to.ensemble.weights[name]) for name, r in add_to.ensemble.rewards.items()] if add_to else []
        loaded = (_load(reward, weights_path(reward, weights)), weight)
        place = torch.device("cpu") if device == "cpu" else comfy.model_management.get_torch_device()
        return io.NodeOutput(LoadedReward(RewardEnsemble([*others, loaded]), place))


class HyperNoiseRewardScore(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseRewardScore",
            display_name="Reward Score",
            category=CATEGORY,
            description="Scores each picture of a batch under its prompt; higher is better.",
            search_aliases=["image score", "rate image", "aesthetic score", "evaluate"],
            is_output_node=True,
            inputs=picture_inputs(),
            outputs=[
                io.Float.Output(display_name="score", tooltip="Mean of the batch."),
                io.Float.Output(display_name="scores", is_output_list=True, tooltip="One for each picture."),
                io.String.Output(display_name="report", tooltip="The scores as text."),
            ],
        )

    @classmethod
    def execute(cls, image, prompt, reward) -> io.NodeOutput:
        scores = reward.score(image, prompt)
        report = table(scores)
        total = scores["total"]
        return io.NodeOutput(total.mean().item(), total.tolist(), report, ui=ui.PreviewText(report))


class HyperNoiseKeepBest(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseKeepBest",
            display_name="Keep Best Images",
            category=CATEGORY,
            description="Keeps the best pictures of a batch, best first: Best-of-N.",
            search_aliases=["best of n", "rank images", "sort by score", "filter images"],
            inputs=[
                *picture_inputs(),
                io.Int.Input("count", default=1, min=1, max=4096, tooltip="How many to keep; all if there are fewer."),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The best, in order."),
                io.Float.Output(display_name="scores", is_output_list=True, tooltip="Theirs, in the same order."),
            ],
        )

    @classmethod
    def execute(cls, image, prompt, reward, count) -> io.NodeOutput:
        total = reward.score(image, prompt)["total"]
        best = ranking(total)[:count]
        return io.NodeOutput(image[best], total[best].tolist())


def picture_inputs() -> list[io.Input]:
    return [
        io.Image.Input("image", tooltip="A picture or a batch."),
        io.String.Input("prompt", default="", tooltip="What the pictures should show."),
        RewardType.Input("reward", tooltip="From Load Reward."),
    ]


def table(scores: dict[str, Tensor]) -> str:
    """One line a picture, one column a reward; the sum has its own only where there are several."""
    shown = scores if len(scores) > 2 else {name: values for name, values in scores.items() if name != "total"}
    rows = [["", *shown]]
    count = len(next(iter(shown.values())))
    rows += [[str(i + 1), *(f"{values[i]:.4f}" for values in shown.values())] for i in range(count)]
    rows += [["mean", *(f"{values.mean():.4f}" for values in shown.values())]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)


def reward_names() -> list[str]:
    """The core's rewards, and `file:Class` of every own one in models/hypernoise_rewards."""
    return [
        *REWARDS,
        *(f"{file.stem}:{name}" for file in _entries() if file.suffix == ".py" for name in _classes(file)),
    ]


def weight_names() -> list[str]:
    return [IN_FOLDER, FROM_HUB, *(entry.name for entry in _entries() if entry.suffix != ".py")]


def weights_path(reward: str, weights: str) -> str | None:
    """What `load_reward` gets as weights; None for what is shipped and what comes from the hub."""
    if reward == folders.EMBEDDED or weights == FROM_HUB:
        return None
    if weights == IN_FOLDER:
        return folder_paths.get_folder_paths(folders.REWARDS)[0]
    return next((str(entry) for entry in _entries() if entry.name == weights), None)


def _entries() -> list[Path]:
    roots = [Path(folder) for folder in folder_paths.get_folder_paths(folders.REWARDS)]
    return sorted(e for root in roots if root.is_dir() for e in root.iterdir() if not e.name.startswith((".", "_")))


def _classes(file: Path) -> list[str]:
    """The classes in a Python file that are derived from something named Reward; the file is read, not run."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return []
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Reward") for base in node.bases)
    ]


def _load(name: str, weights: str | None):
    roots = folder_paths.get_folder_paths(folders.REWARDS)
    sys.path[:0] = roots
    try:
        with torch.inference_mode(False):
            return load_reward(name, weights)
    except ValueError as error:
        raise ValueError(f"reward: {error}") from error
    finally:
        for root in roots:
            sys.path.remove(root)
