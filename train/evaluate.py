"""Judge an adapter: on the embedded world by its exact detector, or on the published benchmarks.

python -m train.evaluate                                                   # the shipped adapter, embedded benchmark
python -m train.evaluate --adapter outputs/demo/hypernoise.safetensors --steps 1,2,4 --save_dir outputs/evaluate
python -m train.evaluate --benchmark geneval --model sana --adapter mine.safetensors --device cuda --dtype bfloat16
python -m train.evaluate --benchmark t2i-compbench --categories color,shape --model sd-turbo --prompts_dir prompts
accelerate launch --num_processes 4 -m train.evaluate --benchmark dpg-bench --model flux --device cuda --score false
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from hypernoise_core import NoiseHypernetwork, Reward, load_generator, load_reward
from hypernoise_core.embedded import HYPERNOISE_FILE
from hypernoise_core.embedded.benchmark import Case, Made, Method, Result, cases, measure, paired_interval
from hypernoise_core.embedded.prompts import CATEGORIES
from hypernoise_core.evaluation.clip import CLIP_B
from hypernoise_core.evaluation.detector import MASK2FORMER
from hypernoise_core.evaluation.distances import DINOV2
from hypernoise_core.evaluation.vqa import BLIP_VQA
from hypernoise_core.files import replacing
from hypernoise_core.generators import Generator
from hypernoise_core.hypernetworks.lora import DenoiserLora
from hypernoise_core.rewards.clip import CLIP_L

from .cli import parse, run_command
from .evaluation.run import run
from .model import ModelArguments, load_adapter
from .rewards import RewardArguments

PROG = "python -m train.evaluate"


@dataclass(kw_only=True)
class EvaluateArguments(ModelArguments, RewardArguments):
    """Judge an adapter against its base, on the same prompts and seeds."""

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
            raise ValueError(f"steps is {self.steps!r}: give numbers above 0 with commas between, such as 1,2,4")
        for name in ("threads", "iterations", "limit", "samples"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} is {value}; it must be at least 1")
        if self.benchmark == "embedded":
            cases(self.n)
            if self.model != "embedded":
                raise ValueError(
                    f"the embedded benchmark is the embedded model's, not {self.model!r}'s: pass --benchmark geneval, "
                    "t2i-compbench or dpg-bench"
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


def base_method(generator: Generator, steps: int = 1) -> Method:
    """The generator as it is."""
    return lambda x0, conditioning, text: Made(generator.generate(x0, conditioning, steps), x0)


def adapter_method(adapter: DenoiserLora, steps: int = 1, strength: float = 1.0, iterations: int = 1) -> Method:
    """The generator with a noise hypernetwork, or the fine-tuned one."""
    generator = adapter.generator

    def method(x0, conditioning, text) -> Made:
        if isinstance(adapter, NoiseHypernetwork):
            start = adapter.modulate(x0, conditioning, strength, iterations)
            return Made(generator.generate(start, conditioning, steps), start)
        return Made(adapter.generate(x0, conditioning, steps), x0)

    return method


def compare(
    generator: Generator,
    reward: Reward,
    adapter: DenoiserLora,
    todo: list[Case],
    steps: int,
    strength: float = 1.0,
    iterations: int = 1,
) -> tuple[Result, Result]:
    """(base, adapter) on the same cases."""
    base = measure(generator, reward, base_method(generator, steps), todo)
    return base, measure(generator, reward, adapter_method(adapter, steps, strength, iterations), todo)


def report(base: Result, other: Result) -> dict:
    """Both summaries and the paired difference of the detector with its 95 % interval."""
    difference, low, high = paired_interval(other, base)
    return {"base": base.summary(), "adapter": other.summary(), "difference": difference, "interval_95": [low, high]}


def table(rows: dict[str, dict]) -> str:
    """Summaries by method as text, one line each."""
    columns = ("detector_mean", "detector_strict", "reward", "diversity", "redness", "kl", "noise_std")
    short = ("detector", "strict", "reward", "diversity", "redness", "kl", "noise std")
    lines = [f"{'':24}" + "".join(f"{name:>10}" for name in (*short, "ms/image"))]
    for name, row in rows.items():
        numbers = [row[column] for column in columns] + [1000 * row["seconds_per_image"]]
        lines.append(f"{name:24}" + "".join(f"{value:10.3f}" for value in numbers))
    return "\n".join(lines)


def category_table(rows: dict[str, dict]) -> str:
    """Detector scores by category and method as text."""
    lines = [f"{'detector by category':24}" + "".join(f"{name:>14}" for name in CATEGORIES)]
    lines += [f"{n:24}" + "".join(f"{row['categories'][c]:14.3f}" for c in CATEGORIES) for n, row in rows.items()]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: the command line's).

    Raises:
        ValueError: something given is wrong; nothing has been written.
    """
    args: EvaluateArguments = parse(EvaluateArguments, PROG, __doc__, argv)
    torch.set_num_threads(args.threads)
    if args.benchmark == "embedded":
        evaluate_embedded(args)
    else:
        run(args)


def evaluate_embedded(args: EvaluateArguments) -> None:
    """Print base and adapter by the exact detector, and write evaluation.json if there is a folder for it."""
    generator, reward = load_generator("embedded"), load_reward("embedded")
    adapter = load_adapter(generator, args.adapter_source)
    todo, reports = cases(args.n), {}
    for steps in args.step_counts:
        base, other = compare(generator, reward, adapter, todo, steps, args.strength, args.iterations)
        reports[str(steps)] = report(base, other)
        rows = {f"base, {steps} step(s)": base.summary(), f"{adapter.kind}, {steps} step(s)": other.summary()}
        low, high = reports[str(steps)]["interval_95"]
        print(f"{table(rows)}\n{category_table(rows)}")
        print(f"detector {reports[str(steps)]['difference']:+.3f}, paired 95 % interval [{low:+.3f}, {high:+.3f}]\n")
    if args.save_dir:
        with replacing(Path(args.save_dir) / "evaluation.json") as temporary:
            temporary.write_text(json.dumps({"adapter": args.adapter_source, "steps": reports}, indent=1))


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
