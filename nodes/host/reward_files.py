"""The rewards and weights that Load Reward offers: the core's, and those in models/hypernoise_rewards."""

import ast
import sys
from pathlib import Path

import folder_paths
import torch

from hypernoise_core.rewards import REWARDS, VISION_LANGUAGE, Reward, load_reward
from hypernoise_core.rewards.quantized import Quantize
from hypernoise_core.settings import about, naming

from . import folders

IN_FOLDER = "models/hypernoise_rewards"
FROM_HUB = "Hugging Face cache"
QUESTIONS = "vqa.questions.jsonl"
"""In that folder: the questions of vqa-questions, to read and to mend."""


def reward_names() -> list[str]:
    """The core's rewards, and `file:Class` for each reward in models/hypernoise_rewards."""
    return [
        *REWARDS,
        *(f"{file.stem}:{name}" for file in _entries() if file.suffix == ".py" for name in _classes(file)),
    ]


def weight_names() -> list[str]:
    return [IN_FOLDER, FROM_HUB, *(entry.name for entry in _entries() if entry.suffix not in (".py", ".jsonl"))]


def weights_path(reward: str, weights: str) -> str | None:
    """The `weights` for `load_reward`. None for what ships with the pack and for downloads."""
    if reward == folders.EMBEDDED or weights == FROM_HUB:
        return None
    if weights == IN_FOLDER:
        return folder_paths.get_folder_paths(folders.REWARDS)[0]
    return next((str(entry) for entry in _entries() if entry.name == weights), None)


def _entries() -> list[Path]:
    roots = [Path(folder) for folder in folder_paths.get_folder_paths(folders.REWARDS)]
    return sorted(e for root in roots if root.is_dir() for e in root.iterdir() if not e.name.startswith((".", "_")))


def _classes(file: Path) -> list[str]:
    """The classes in a Python file whose base class name ends with Reward. The file is parsed, not run."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return []
    return [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base).endswith("Reward") for base in node.bases)
    ]


def called(setting: str) -> str:
    """What Load Reward calls a setting of the core's."""
    return {"weights": f"weights, in {IN_FOLDER}", "rewards_quantize": "quantize"}.get(setting, setting)


def load(name: str, weights: str | None, question: str, quantize: Quantize) -> Reward:
    """Load one of `reward_names` with the weights at `weights_path`. `question` and `quantize` are as in
    `LoadOptions`.

    Raises:
        ValueError: the weights are missing, or a reward of the user's own does not load.
    """
    roots = folder_paths.get_folder_paths(folders.REWARDS)
    sys.path[:0] = roots
    large = {}
    if name in VISION_LANGUAGE:
        large = {"dtype": torch.bfloat16, "questions": Path(roots[0]) / QUESTIONS}
        large |= {"question": question, "quantize": quantize}
    try:
        with torch.inference_mode(False), naming(called), about("reward"):
            return load_reward(name, weights, **large)
    finally:
        for root in roots:
            sys.path.remove(root)
