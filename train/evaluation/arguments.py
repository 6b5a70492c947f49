"""The arguments of `python -m train.evaluate`."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from hypernoise_core.embedded import HYPERNOISE_FILE
from hypernoise_core.embedded.benchmark import cases
from hypernoise_core.evaluation.clip import CLIP_B
from hypernoise_core.evaluation.detector import MASK2FORMER
from hypernoise_core.evaluation.distances import DINOV2, DIVERSITIES
from hypernoise_core.evaluation.vqa import BLIP_VQA
from hypernoise_core.hypernetworks.drawing import Modulation
from hypernoise_core.noise import MOST_STEPS, BetweenSteps
from hypernoise_core.rewards.clip import CLIP_L
from hypernoise_core.settings import about, require

from ..cli import check_folders
from ..model import ModelArguments
from ..rewards import RewardArguments

OF_EMBEDDED = ("n",)
"""Arguments that the published benchmarks do not use."""

OF_PUBLISHED = (
    *("prompts_dir", "categories", "limit", "samples", "seed", "height", "width", "score", "rewards", "diversity"),
    *("detector", "clip", "vqa", "clip_score", "dino", "device", "dtype", "variant", "pipeline"),
    *("quantize", "generator_lora", "scheduler", "shift", "text_length"),
)
"""Arguments that the embedded benchmark does not use, which has its own prompts, seeds, size and judges."""


@dataclass(kw_only=True)
class EvaluateArguments(ModelArguments, RewardArguments):
    """Score an adapter against its base, with the same prompts and seeds."""

    CALLED: ClassVar = {
        **ModelArguments.CALLED,
        **RewardArguments.CALLED,
        "prompts_sha256": "prompts of sha256",
    }
    MAY_BE_EMPTY: ClassVar = ("diversity",)

    benchmark: Literal["embedded", "geneval", "t2i-compbench", "dpg-bench"] = "embedded"
    """embedded: the embedded world, without a download. The other benchmarks generate images in their official layouts
    under --save_dir and score them. Run the same command again to continue (docs/evaluation.md)."""
    model: str = "embedded"
    """Folder saved by diffusers, Hugging Face id, denoiser alone (with --pipeline), or a short name: embedded, sana,
    sana-1.6b, sd-turbo, sdxl-turbo, flux, z-image-turbo, flux2-klein-4b, krea2-turbo, qwen-image, sd3.5-turbo."""
    adapter: str | None = None
    """HyperNoise file of any kind, PEFT folder or its Hugging Face id. Default: the shipped adapter for the
    embedded model, none (base alone) for others."""
    steps: str = "1"
    """Denoiser calls per image, such as 1 or 1,2,4."""
    between_steps: BetweenSteps | None = None
    """What is added between steps, for samplers that add noise there: fresh noise as the pipelines do (the default);
    keep, the starting noise as it was drawn; keep-moved, as the adapter moved it."""
    free_reading: bool = False
    """With two or more steps: the first step's own denoiser call is the one reading of a head, and the noise that it
    moved is kept from there. No extra call at all."""
    strength: float = 1.0
    """Strength of a noise hypernetwork."""
    iterations: int | None = None
    """How many times a noise hypernetwork moves the noise. Each time starts from the moved noise and costs one denoiser
    call. Default: 1."""
    candidates: int = 1
    """Starting noises per image, of which the head's critic chooses the most promising one before anything is drawn.
    Each costs a denoiser call. For a head that was trained with a critic."""
    refine: int = 0
    """Steps of gradient ascent on the head's critic, after the noise was moved. Each costs a denoiser call and a
    backward pass, but no decoder and no reward. 3 to 5 suit."""
    refine_white: bool = False
    """Bring each gradient of --refine, and the noise after each step, onto white noise: it climbs more slowly, and
    stays noise over more steps."""
    save_dir: str | None = None
    """Output folder. embedded: for evaluation.json; without it nothing is written. Others: for images, scores,
    report.md and report.json; default outputs/evaluate-<benchmark>."""
    n: int = 900
    """Only for embedded: number of images, a multiple of 60 (six categories, ten seeds per prompt)."""

    prompts_dir: str | None = None
    """Folder with the benchmark's published prompts, at any depth. Without it they are downloaded."""
    categories: str | None = None
    """Categories of the benchmark, separated by commas. Default: all."""
    limit: int | None = None
    """Use only the first prompts of each category, for a quick look. You may raise it later in the same folder."""
    samples: int | None = None
    """Images of each prompt. Default: the published number, 10 for t2i-compbench and 4 for the others."""
    seed: int = 0
    """Seed of the first image. Every image has its own seed, the same for base and adapter."""
    height: int | None = None
    """Height of the images, in pixels. Default: the model's own size."""
    width: int | None = None
    """Width of the images, in pixels. Default: the model's own size."""

    score: bool = True
    """false: only generate images, for the benchmark's own scorer. --rewards and --diversity are still measured."""
    detector: str = MASK2FORMER
    """GenEval's detector: a Mask2Former for COCO instances, folder or Hugging Face id."""
    clip: str = CLIP_L
    """CLIP that names colours for GenEval: folder or Hugging Face id."""
    vqa: str = BLIP_VQA
    """BLIP that answers T2I-CompBench's and DPG-Bench's questions: folder or Hugging Face id."""
    clip_score: str = CLIP_B
    """CLIP that scores T2I-CompBench's non_spatial prompts: folder or Hugging Face id."""
    rewards: str | None = None
    """Rewards to score every image with, such as `hpsv2,pickscore`. Use rewards that were not trained on."""
    diversity: str = "pixels"
    """How to compare the images of a prompt: pixels, dinov2, lpips, separated by commas; empty for no diversity."""
    dino: str = DINOV2
    """Model for --diversity dinov2: folder or Hugging Face id."""

    device: str = "cpu"
    """Device, such as cuda. With `accelerate launch -m train.evaluate …` each process takes its own device and a share
    of the work."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """dtype of the model."""
    threads: int = 1
    """CPU threads."""

    def __post_init__(self):
        super().__post_init__()
        if not all(part.strip().isdigit() and int(part) > 0 for part in self.steps.split(",")):
            raise ValueError(f"--steps is {self.steps!r}: give numbers above 0 with commas between, such as 1,2,4")
        counts = ("iterations", "candidates", "limit", "samples", "height", "width", "threads")
        require(self, counts, lambda v: v >= 1, "at least 1")
        require(self, ("strength",), lambda v: True, "a finite number")
        require(self, ("refine",), lambda v: v >= 0, "at least 0")
        require(self, ("seed",), lambda v: v >= 0, "a number from 0 to 2**63 - 1")
        if most := [steps for steps in self.step_counts if steps > MOST_STEPS]:
            raise ValueError(f"--steps has {most[0]}: give at most {MOST_STEPS}")
        for name in self.diversity_names:
            if name not in DIVERSITIES:
                raise ValueError(f"--diversity names {name!r}: choose from {', '.join(DIVERSITIES)}")
        if self.rewards:
            with about("rewards"):
                self.check_rewards(self.rewards)
        check_folders(self, "save_dir")
        self._check_benchmark()

    def _check_benchmark(self) -> None:
        """
        Raises:
            ValueError: an argument is set that this benchmark does not use, or another model than its own.
        """
        if self.benchmark == "embedded":
            cases(self.n)
            if self.model != "embedded":
                raise ValueError(
                    f"--model is {self.model!r}, and --benchmark embedded is for the embedded model alone: give "
                    "--benchmark geneval, t2i-compbench or dpg-bench"
                )
        for name in OF_PUBLISHED if self.benchmark == "embedded" else OF_EMBEDDED:
            if (value := getattr(self, name)) != getattr(type(self), name):
                raise ValueError(
                    f"--{name} is {value!r}, which --benchmark {self.benchmark} does not use: leave it out"
                )

    @property
    def modulation(self) -> Modulation:
        """How noise is moved."""
        return Modulation(
            strength=self.strength,
            iterations=self.iterations or 1,
            between_steps=self.between_steps or "fresh",
            free_reading=self.free_reading,
            candidates=self.candidates,
            refine=self.refine,
            refine_white=self.refine_white,
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
        """The adapter, if there is one."""
        return self.adapter or (str(HYPERNOISE_FILE) if self.model == "embedded" else None)


def _split(names: str | None) -> list[str]:
    return [name.strip() for name in (names or "").split(",") if name.strip()]
