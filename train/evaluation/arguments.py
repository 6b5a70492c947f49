"""What `python -m train.evaluate` can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from hypernoise_core.embedded import HYPERNOISE_FILE
from hypernoise_core.embedded.benchmark import cases
from hypernoise_core.evaluation.clip import CLIP_B
from hypernoise_core.evaluation.detector import MASK2FORMER
from hypernoise_core.evaluation.distances import DINOV2
from hypernoise_core.evaluation.vqa import BLIP_VQA
from hypernoise_core.hypernetworks.drawing import Modulation
from hypernoise_core.noise import BetweenSteps
from hypernoise_core.rewards.clip import CLIP_L
from hypernoise_core.settings import require

from ..cli import check_folders
from ..model import ModelArguments
from ..rewards import RewardArguments


@dataclass(kw_only=True)
class EvaluateArguments(ModelArguments, RewardArguments):
    """Judge an adapter against its base, on the same prompts and seeds."""

    CALLED: ClassVar = {
        **ModelArguments.CALLED,
        **RewardArguments.CALLED,
        "prompts_sha256": "prompts of sha256",
    }

    benchmark: Literal["embedded", "geneval", "t2i-compbench", "dpg-bench"] = "embedded"
    """embedded: the small world's, nothing is downloaded. The others are made into their official layouts under
    --save_dir and judged; run again, the same command goes on where it was (docs/evaluation.md)."""
    model: str = "embedded"
    """Folder saved by diffusers, hub id, single file (with --pipeline), or a short name: embedded, sana, sana-1.6b,
    sd-turbo, sdxl-turbo, flux."""
    adapter: str | None = None
    """HyperNoise LoRA file of either kind, PEFT folder or its hub id; the shipped one for the embedded model, none
    (the base alone) for others."""
    steps: str = "1"
    """Denoiser calls per picture, such as 1 or 1,2,4."""
    between_steps: BetweenSteps = "fresh"
    """What is added between steps, for samplers that add noise there: fresh noise as the pipelines do; keep, the
    starting noise as it was drawn; keep-moved, as the adapter moved it."""
    free_reading: bool = False
    """With two or more steps: the first step's own denoiser call is the one reading of a head, and the noise that it
    moved is kept from there. No extra call at all."""
    strength: float = 1.0
    """Of a noise hypernetwork."""
    iterations: int = 1
    """How often a noise hypernetwork moves the noise, each time from where it is: a denoiser call each."""
    save_dir: str | None = None
    """Folder. embedded: for evaluation.json, nothing is written without. Others: for pictures, scores, report.md and
    report.json; outputs/evaluate-<benchmark> when not given."""
    n: int = 900
    """embedded: pictures, a multiple of 60 (six categories, ten seeds a prompt)."""

    prompts_dir: str | None = None
    """Folder with the benchmark's published prompts, at any depth; downloaded when not given."""
    categories: str | None = None
    """Of the benchmark, with commas between; all when not given."""
    limit: int | None = None
    """Prompts of each category, the first ones, for a quick look; may be raised later in the same folder."""
    samples: int | None = None
    """Pictures of each prompt; the published number when not given: 10 for t2i-compbench, 4 for the others."""
    seed: int = 0
    """Of the first picture; every picture has its own, the same for base and adapter."""
    height: int | None = None
    """In pixels; the model's own when not given."""
    width: int | None = None
    """In pixels; the model's own when not given."""

    score: bool = True
    """false: make the pictures only, for the benchmark's own scorer; --rewards and --diversity are measured all the
    same."""
    detector: str = MASK2FORMER
    """GenEval's detector: a Mask2Former for instances on COCO, folder or hub id."""
    clip: str = CLIP_L
    """What names colours for GenEval: folder or hub id."""
    vqa: str = BLIP_VQA
    """What answers T2I-CompBench's and DPG-Bench's questions: a BLIP, folder or hub id."""
    clip_score: str = CLIP_B
    """What scores T2I-CompBench's non_spatial prompts: folder or hub id."""
    rewards: str | None = None
    """Rewards that pictures are scored by, such as `hpsv2,pickscore`: take those that were not trained on."""
    diversity: str = "pixels"
    """How pictures of a prompt are compared: pixels, dinov2, lpips, with commas between; empty for not at all."""
    dino: str = DINOV2
    """What --diversity dinov2 sees with: folder or hub id."""

    device: str = "cpu"
    """Such as cuda; with `accelerate launch -m train.evaluate …` each process takes its own and a share of the work."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the model."""
    threads: int = 1
    """CPU threads."""

    def __post_init__(self):
        super().__post_init__()
        if not all(part.strip().isdigit() and int(part) > 0 for part in self.steps.split(",")):
            raise ValueError(f"--steps is {self.steps!r}: give numbers above 0 with commas between, such as 1,2,4")
        counts = ("iterations", "limit", "samples", "height", "width", "threads")
        require(self, counts, lambda v: v >= 1, "at least 1")
        require(self, ("strength",), lambda v: True, "a finite number")
        check_folders(self, "save_dir")
        if self.benchmark == "embedded":
            cases(self.n)
            if self.model != "embedded":
                raise ValueError(
                    f"--model is {self.model!r}, and --benchmark embedded is for the embedded model alone: give "
                    "--benchmark geneval, t2i-compbench or dpg-bench"
                )

    @property
    def modulation(self) -> Modulation:
        """How noise is moved."""
        return Modulation(
            strength=self.strength,
            iterations=self.iterations,
            between_steps=self.between_steps,
            free_reading=self.free_reading,
        )

    @property
    def folder(self) -> Path:
        return Path(self.save_dir or f"outputs/evaluate-{self.benchmark}")

    @property
    def step_counts(self) -> list[int]:
        return [int(part) for part in self.steps.split(",")]

    @property
    def category_names(self) -> list[str]:
        return _split(self.categories)

    @property
    def diversity_names(self) -> list[str]:
        return _split(self.diversity)

    @property
    def adapter_source(self) -> str | None:
        """The adapter, where there is one."""
        return self.adapter or (str(HYPERNOISE_FILE) if self.model == "embedded" else None)


def _split(names: str | None) -> list[str]:
    return [name.strip() for name in (names or "").split(",") if name.strip()]
