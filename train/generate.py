"""Make pictures from prompts, with and without an adapter, on the same seeds.

python -m train.generate --prompt "a photo of two crosses" --n 8
python -m train.generate --adapter outputs/demo/hypernoise.safetensors --prompts prompts.txt --steps 2
python -m train.generate --prompt "a red cross" --best_of 16 --n 1 --reward embedded     # the best of 16 noises
python -m train.generate --model sana --adapter mine.safetensors --prompt "a red cat" --device cuda --dtype bfloat16
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor
from tqdm import tqdm

from hypernoise_core import NoiseHypernetwork, RewardEnsemble, TensorBatch
from hypernoise_core.embedded import HYPERNOISE_FILE
from hypernoise_core.files import replacing
from hypernoise_core.generators import Generator
from hypernoise_core.hypernetwork import DenoiserLora
from hypernoise_core.prompt_sets import read_prompts
from hypernoise_core.rewards import score_images
from hypernoise_core.search import ranking

from .cli import parse, run_command
from .model import ModelArguments
from .pictures import comparison_grid, to_images
from .rewards import RewardArguments

PROG = "python -m train.generate"


@dataclass(kw_only=True)
class GenerateArguments(ModelArguments, RewardArguments):
    """Make pictures from prompts, with and without an adapter, on the same seeds."""

    model: str = "embedded"
    """Folder saved by diffusers, hub id, single file (with --pipeline), or a short name: embedded, sana, sana-1.6b,
    sd-turbo, sdxl-turbo, flux."""
    adapter: str | None = None
    """HyperNoise LoRA file, PEFT folder or its hub id; the shipped one for the embedded model, none for others."""
    prompt: str | None = None
    """One prompt."""
    prompts: str | None = None
    """Text file with one prompt a line, or .json, .jsonl, .csv, .tsv, .parquet."""
    steps: int = 1
    """Denoiser calls per picture."""
    strength: float = 1.0
    """Of the adapter: 0 is the base picture, above 1 goes further than it was trained to."""
    seed: int = 0
    """Of the first picture of each prompt; the next have the seeds after it."""
    n: int = 4
    """Pictures per prompt."""
    best_of: int | None = None
    """Pictures made per prompt, of which the --n best are kept, best first, with and without the adapter."""
    reward: str | None = None
    """What --best_of goes by, with weights as in python -m train --rewards; embedded for the embedded model. Every
    picture's scores go into scores.json."""
    height: int | None = None
    """In pixels; the model's own when not given."""
    width: int | None = None
    """In pixels; the model's own when not given."""
    save_dir: str = "outputs/generate"
    """Folder for the pictures (base/, hypernoise/, each NNNN-seed.png), comparison.png, prompts.json and, with a
    reward, scores.json."""
    device: str = "cpu"
    """Such as cuda."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the model."""
    threads: int = 1
    """CPU threads."""

    def __post_init__(self):
        super().__post_init__()
        if (self.prompt is None) == (self.prompts is None):
            raise ValueError("give --prompt TEXT or --prompts FILE, and not both")
        for name in ("steps", "n", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError(f"best_of is {self.best_of}; it must be at least n, {self.n}, of which the best are kept")

    def load_reward(self) -> RewardEnsemble | None:
        """What pictures are ranked by, if they are.

        Raises:
            ValueError: as `make_rewards`, or there is nothing to rank by.
        """
        names = self.reward or ("embedded" if self.best_of and self.model == "embedded" else None)
        if self.best_of and not names:
            raise ValueError("best_of has nothing to go by: pass --reward NAME[=WEIGHT],…")
        return self.make_rewards(names).to(self.device) if names else None


@dataclass(frozen=True)
class Candidates:
    """Pictures of one prompt, [N, 3, H, W] on the CPU, their seeds and, where there is a reward, their scores by name,
    [N] each; best first then."""

    seeds: list[int]
    images: Tensor
    scores: dict[str, Tensor]

    def rows(self) -> list[dict[str, float]]:
        """Seed and scores of each, for JSON."""
        return [
            {"seed": seed} | {name: own[i].item() for name, own in self.scores.items()}
            for i, seed in enumerate(self.seeds)
        ]


@torch.no_grad()
def make_pictures(
    generator: Generator,
    adapter: DenoiserLora | None,
    conditioning: TensorBatch,
    seeds: Sequence[int],
    height: int | None = None,
    width: int | None = None,
    steps: int = 1,
    strength: float = 1.0,
) -> Tensor:
    """Pictures [N, 3, H, W] in [0, 1], on the CPU, of one prompt from each of `seeds`: the generator's, or those with
    an adapter of either kind. One after the other, so that a picture depends on nothing but its own seed."""
    pictures = []
    for seed in seeds:
        x0 = generator.noise(1, height, width, seed)
        if isinstance(adapter, NoiseHypernetwork):
            made = adapter.generate(x0, conditioning, steps, seed, strength)
        else:
            made = (adapter or generator).generate(x0, conditioning, steps, seed)
        pictures.append(made.float().cpu())
    return torch.cat(pictures)


@torch.no_grad()
def make_candidates(
    args: GenerateArguments,
    generator: Generator,
    adapter: NoiseHypernetwork | None,
    conditioning: TensorBatch,
    prompt: str,
    reward: RewardEnsemble | None,
) -> Candidates:
    """Pictures of one prompt from consecutive seeds, ranked by `reward`."""
    seeds = list(range(args.seed, args.seed + (args.best_of or args.n)))
    images = make_pictures(generator, adapter, conditioning, seeds, args.height, args.width, args.steps, args.strength)
    if reward is None:
        return Candidates(seeds, images, {})
    scores = score_images(reward, images.movedim(1, -1), prompt, args.device)
    order = ranking(scores[reward.name]) if args.best_of else torch.arange(len(images))
    return Candidates(
        [seeds[i] for i in order.tolist()], images[order], {name: own[order] for name, own in scores.items()}
    )


def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: the command line's).

    Raises:
        ValueError: something given is wrong; nothing has been written.
    """
    args: GenerateArguments = parse(GenerateArguments, PROG, __doc__, argv)
    torch.set_num_threads(args.threads)
    prompts = [args.prompt] if args.prompt else read_prompts(args.prompts)
    reward = args.load_reward()
    generator = args.load_generator()
    adapter_file = args.adapter or (HYPERNOISE_FILE if args.model == "embedded" else None)
    adapters = {"base": None}
    if adapter_file:
        adapters["hypernoise"] = NoiseHypernetwork.load(generator, adapter_file)
    generator.noise(1, args.height, args.width)  # refuses a size that does not fit before anything is written

    folder = Path(args.save_dir)
    shown: dict[str, list] = {name: [] for name in adapters}
    scores: dict[str, dict] = {}
    for index, prompt in enumerate(tqdm(prompts, desc="prompts")):
        conditioning = generator.encode([prompt])
        for name, adapter in adapters.items():
            made = make_candidates(args, generator, adapter, conditioning, prompt, reward)
            for seed, image in zip(made.seeds[: args.n], to_images(made.images[: args.n]), strict=True):
                with replacing(folder / name / f"{index:04d}-{seed}.png") as temporary:
                    image.save(temporary, "PNG")
                shown[name].append(image)
            scores.setdefault(f"{index:04d}", {})[name] = made.rows()
    _write_summary(folder, prompts, args.n, shown, scores if reward else None)


def _write_summary(folder: Path, prompts: list[str], n: int, shown: dict[str, list], scores: dict | None) -> None:
    captions = [prompt for prompt in prompts for _ in range(n)]
    most = 64
    rows = [(name, images[:most]) for name, images in shown.items()]
    comparison_grid(folder / "comparison.png", rows, captions[:most])
    numbered = {"prompts.json": {f"{i:04d}": prompt for i, prompt in enumerate(prompts)}}
    if scores is not None:
        numbered["scores.json"] = scores
    for name, content in numbered.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(json.dumps(content, indent=1))
    print(f"{len(captions)} pictures a row: {folder / 'comparison.png'}")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
