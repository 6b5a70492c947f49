"""The arguments for rewards, which several commands share."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch

from hypernoise_core.rewards import LoadOptions, RewardEnsemble, check_rewards, parse_rewards
from hypernoise_core.rewards.quantized import Quantize
from hypernoise_core.rewards.vision_language import MODEL
from hypernoise_core.rewards.vqa import QUESTION
from hypernoise_core.settings import require

ASKED = {"judge": "--rewards_judge", "question": "--vqa_question", "questions": "--vqa_questions"}


@dataclass(kw_only=True)
class RewardArguments:
    """How to load rewards. Each command has its own argument for their names."""

    CALLED: ClassVar = {"weights": "--rewards_folder", "backend": "--rewards_backend", **ASKED}
    """Settings of the core that the command line calls otherwise."""

    rewards_folder: str | None = None
    """Folder with downloaded reward weights (in ComfyUI: models/hypernoise_rewards): HPS_v2.1_compressed.pt,
    ImageReward.pt, PickScore_v1/, CLIP-ViT-H-14-laion2B-s32B-b79K/, bert-base-uncased/, HPSv3.safetensors, … By default
    they are downloaded from Hugging Face."""
    rewards_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """dtype of the rewards' encoders. Scores stay float32. Use bfloat16 on a GPU."""
    rewards_quantize: Quantize = "none"
    """Weights of hpsv3, vqa and vqa-questions in 8 bits (int8) or 4 (nf4), by bitsandbytes. Scores change a little."""
    long_prompts: Literal["report", "chunk"] = "report"
    """What happens to prompts beyond a reward's window (77 tokens; 35 for imagereward). report: cut them and warn.
    chunk: score them in pieces. hpsv3, vqa and vqa-questions read thousands of tokens."""
    rewards_backend: Literal["native", "package"] = "native"
    """package: run the published package's own code for hpsv2 and imagereward, in the environment of `make
    reward-packages`."""
    rewards_judge: str = MODEL
    """The vision-language model that vqa and vqa-questions ask: a Hugging Face id, which is first looked for in
    --rewards_folder by its last part, or a folder. Qwen/Qwen3-VL-2B-Instruct needs half the memory."""
    vqa_question: str = QUESTION
    """What vqa asks, with {prompt} in the prompt's place; a picture's score is log p of the answer Yes."""
    vqa_questions: str | None = None
    """The .jsonl file that keeps the questions of vqa-questions, one line a prompt, for you to mend. By default
    beside the file of --prompts, if that is one file: prompts.questions.jsonl."""
    offload_rewards: bool = False
    """Keep rewards in main memory and move each to --device only while it scores."""
    rewards_batch: int | None = None
    """Images that a reward scores at a time. Reduce it if memory runs out; the result stays the same."""

    def __post_init__(self):
        require(self, ("rewards_batch",), lambda v: v >= 1, "at least 1, or null for all at once")

    def make_rewards(self, names: str, held_out: str = "", normalization: str = "none") -> RewardEnsemble:
        """The weighted rewards of a line such as `hpsv2,redness=100`.

        Raises:
            ValueError: a reward is unknown or missing, or all weights are zero.
        """
        return parse_rewards(names, self._options, held_out, normalization, self.offload_rewards, self.rewards_batch)

    def check_rewards(self, names: str) -> None:
        """As `make_rewards`, before anything is loaded."""
        check_rewards(names, self._options)

    @property
    def _options(self) -> LoadOptions:
        return LoadOptions(
            weights=self.rewards_folder,
            dtype=getattr(torch, self.rewards_dtype),
            long_prompts=self.long_prompts,
            backend=self.rewards_backend,
            judge=self.rewards_judge,
            quantize=self.rewards_quantize,
            question=self.vqa_question,
            questions=self.vqa_questions or self._beside_prompts(),
        )

    def _beside_prompts(self) -> Path | None:
        prompts = getattr(self, "prompts", None)
        return Path(prompts).with_suffix(".questions.jsonl") if prompts and Path(prompts).is_file() else None
