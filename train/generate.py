"""Generate images from prompts, with and without an adapter, with the same seeds.

python -m train.generate --prompt "a photo of two crosses" --n 8
python -m train.generate --adapter outputs/demo/hypernoise.safetensors --prompts prompts.txt --steps 2
python -m train.generate --prompt "a red cross" --best_of 16 --n 1 --reward embedded   # keep the best of 16 noises
python -m train.generate --prompt "a red cross" --best_of 4 --n 1 --reno 10            # then 10 ReNO iterations on it
python -m train.generate --prompt "a red cross" --n 1 --reno 30 --search zero-order    # no gradient is needed
python -m train.generate --model sana --adapter mine.safetensors --prompt "a red cat" --device cuda --dtype bfloat16
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from hypernoise_core import RewardEnsemble, TensorBatch, load_hypernetwork
from hypernoise_core.device import check_device
from hypernoise_core.embedded import HYPERNOISE_FILE
from hypernoise_core.files import replacing
from hypernoise_core.generators import Generator
from hypernoise_core.hypernetworks import Adapter, NoiseHypernetwork
from hypernoise_core.hypernetworks.critic import Critic
from hypernoise_core.hypernetworks.drawing import Modulation, draw
from hypernoise_core.noise import MOST_STEPS, BetweenSteps
from hypernoise_core.prompt_sets import read_prompts
from hypernoise_core.rewards import score_images
from hypernoise_core.search import GENTLE, Search, check_search, ranking, search_path
from hypernoise_core.settings import about, require

from .cli import check_folders, in_arguments_of, parse, run_command
from .model import ModelArguments
from .pictures import comparison_grid, to_images
from .rewards import RewardArguments
from .trained_for import tell_training

PROG = "python -m train.generate"


@dataclass(kw_only=True)
class GenerateArguments(ModelArguments, RewardArguments):
    """Make pictures from prompts, with and without an adapter, on the same seeds."""

    CALLED: ClassVar = ModelArguments.CALLED | RewardArguments.CALLED

    model: str = "embedded"
    """Folder saved by diffusers, Hugging Face id, denoiser alone (with --pipeline), or a short name: embedded, sana,
    sana-1.6b, sd-turbo, sdxl-turbo, flux, z-image-turbo, flux2-klein-4b, krea2-turbo, qwen-image, sd3.5-turbo."""
    adapter: str | None = None
    """HyperNoise file, PEFT folder or its Hugging Face id. Default: the shipped adapter for the embedded model,
    none for others."""
    prompt: str | None = None
    """One prompt."""
    prompts: str | None = None
    """Text file with one prompt per line, or .json, .jsonl, .csv, .tsv, .parquet."""
    steps: int = 1
    """Denoiser calls per image."""
    between_steps: BetweenSteps | None = None
    """What is added between steps, for samplers that add noise there: fresh noise as the pipelines do (the default);
    keep, the starting noise as it was drawn; keep-moved, as the adapter moved it."""
    free_reading: bool = False
    """With two or more steps: the first step's own denoiser call is the one reading of a head, and the noise that it
    moved is kept from there. No extra call at all."""
    strength: float = 1.0
    """Strength of the adapter: 0 gives the base image, 1 is as trained, more goes further."""
    iterations: int | None = None
    """How many times the adapter moves the noise. Each time starts from the moved noise and costs one denoiser call.
    Default: 1."""
    candidates: int = 1
    """Starting noises per image, of which the head's critic chooses the most promising one before anything is drawn.
    Each costs a denoiser call. For a head that was trained with a critic."""
    refine: int = 0
    """Steps of gradient ascent on the head's critic, after the noise was moved. Each costs a denoiser call and a
    backward pass, but no decoder and no reward. 3 to 5 suit."""
    refine_white: bool = False
    """Bring each gradient of --refine, and the noise after each step, onto white noise: it climbs more slowly, and
    stays noise over more steps."""
    report: bool = False
    """Write what the head's critic expects every image to score, base and adapter, to scores.json, under expected."""
    seed: int = 0
    """Seed of the first image of each prompt. The following images use the following seeds."""
    n: int = 4
    """Images per prompt."""
    best_of: int | None = None
    """Generate this many images per prompt and keep the --n best, best first. The adapter, if any, moves the noise of
    every candidate."""
    reno: int | None = None
    """Iterations of ReNO, or of another --search, on the noise of each kept image, starting from the noise that the
    adapter moved (its paper uses 50). Each costs a generation, and a backward pass where a gradient is followed. Images
    are sorted, best first."""
    reno_lr: float = 5.0
    """Step size of --reno, where it follows a gradient."""
    search: Search = "reno"
    """What --reno does in its iterations. reno follows the reward's gradient. reno-white brings each gradient, and the
    noise after each step, onto white noise. zero-order tries noises around the best so far, random new ones: both need
    no gradient, so they work with any reward and model."""
    search_limits: bool = True
    """End the search where the noise is no longer like noise (kurtosis, neighbours' correlation) or a reward of
    --held_out falls below what it was at the start. false: go on as ReNO's paper does."""
    held_out: str | None = None
    """Rewards that --reno does not follow and that end it where they fall, such as `pickscore`. They are in scores.json
    too."""
    reward: str | None = None
    """The reward for --best_of and --reno, with weights as in python -m train --rewards. Default: embedded for the
    embedded model. The scores of all images are written to scores.json."""
    height: int | None = None
    """Height of the images, in pixels. Default: the model's own size."""
    width: int | None = None
    """Width of the images, in pixels. Default: the model's own size."""
    save_dir: str = "outputs/generate"
    """Folder for the images (base/, hypernoise/, each NNNN-seed.png), comparison.png, prompts.json and, with a reward,
    scores.json."""
    device: str = "cpu"
    """Device, such as cuda."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """dtype of the model."""
    threads: int = 1
    """CPU threads."""

    def __post_init__(self):
        super().__post_init__()
        if (self.prompt is None) == (self.prompts is None):
            raise ValueError("give either --prompt TEXT or --prompts FILE")
        counts = ("steps", "iterations", "candidates", "n", "height", "width", "threads")
        require(self, counts, lambda v: v >= 1, "at least 1")
        require(self, ("strength",), lambda v: True, "a finite number")
        require(self, ("refine",), lambda v: v >= 0, "at least 0")
        require(self, ("seed",), lambda v: v >= 0, "a number from 0 to 2**63 - 1")
        require(self, ("steps",), lambda v: v <= MOST_STEPS, f"at most {MOST_STEPS}")
        check_folders(self, "save_dir")
        if self.reno and self.free_reading:
            raise ValueError(
                "--reno moves the noise before the first step, --free_reading after it: leave --free_reading out"
            )
        if self.best_of is not None and self.best_of < self.n:
            raise ValueError(f"--best_of is {self.best_of}: give at least --n, {self.n}, of which the best are kept")
        require(self, ("reno",), lambda v: v >= 1, "at least 1 iteration, or leave it out for none")
        require(self, ("reno_lr",), lambda v: v > 0, "a number above 0, such as 5 as in ReNO's paper")

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
    def searches(self) -> bool:
        """Whether a reward chooses or moves images."""
        return bool(self.best_of or self.reno)

    def load_reward(self) -> RewardEnsemble | None:
        """The reward that ranks images, or None.

        Raises:
            ValueError: as in `make_rewards`, or no reward is given but one is needed.
        """
        names = self.reward or ("embedded" if self.searches and self.model == "embedded" else None)
        if self.searches and not names:
            search = "best_of" if self.best_of else "reno"
            raise ValueError(f"--{search} needs a reward: give --reward NAME[=WEIGHT],…")
        with about("reward"):
            return self.make_rewards(names, self.held_out or "").to(self.device) if names else None


@dataclass(frozen=True)
class Candidates:
    """Images of one prompt, [N, 3, H, W], with seeds, starting noise [N, C, h, w] and, with a reward, scores by name,
    [N] each. All on the CPU; best first after a search."""

    seeds: list[int]
    starts: Tensor
    images: Tensor
    scores: dict[str, Tensor]

    def rows(self) -> list[dict[str, float]]:
        """Seed and scores of each image, for JSON."""
        return [
            {"seed": seed} | {name: own[i].item() for name, own in self.scores.items()}
            for i, seed in enumerate(self.seeds)
        ]

    def at(self, index: Tensor) -> "Candidates":
        """The candidates at `index`, in that order."""
        scores = {name: own[index] for name, own in self.scores.items()}
        return Candidates([self.seeds[i] for i in index.tolist()], self.starts[index], self.images[index], scores)


@torch.no_grad()
def make_pictures(
    generator: Generator,
    adapter: Adapter | None,
    conditioning: TensorBatch,
    seeds: Sequence[int],
    height: int | None = None,
    width: int | None = None,
    steps: int = 1,
    how: Modulation | None = None,
) -> tuple[Tensor, Tensor]:
    """(noise [N, C, h, w] that the pictures come from, pictures [N, 3, H, W] in [0, 1]), on the CPU.

    Pictures of one prompt, one for each of `seeds`: the generator's, or those with an adapter of any kind. One after
    the other, so that a picture depends on nothing but its own seed.
    """
    starts, pictures = [], []
    for seed in seeds:
        drawn = generator.noise(1, height, width, seed)
        start, picture = draw(generator, adapter, drawn, conditioning, steps, seed, how or Modulation())
        starts.append(start.cpu())
        pictures.append(picture.float().cpu())
    return torch.cat(starts), torch.cat(pictures)


@torch.no_grad()
def make_candidates(
    args: GenerateArguments,
    generator: Generator,
    adapter: NoiseHypernetwork | None,
    conditioning: TensorBatch,
    prompt: str,
    reward: RewardEnsemble | None,
    critic: Critic | None = None,
) -> Candidates:
    """Images of one prompt from consecutive seeds, with noise moved by `adapter`; with `best_of`, ranked by `reward`.
    Their scores are the reward's, and what `critic` expects.

    This does not use `best_of_n`, because scores.json lists all candidates.
    """
    seeds = list(range(args.seed, args.seed + (args.best_of or args.n)))
    how = (args.height, args.width, args.steps, args.modulation)
    starts, images = make_pictures(generator, adapter, conditioning, seeds, *how)
    made = Candidates(seeds, starts, images, {})
    if critic is not None:
        rows = [critic.score(start[None].to(generator.device), conditioning).cpu() for start in starts]
        made = replace(made, scores={"expected": torch.cat(rows)})
    if reward is None:
        return made
    made = replace(made, scores=made.scores | score_images(reward, made.images.movedim(1, -1), prompt, args.device))
    return made.at(ranking(made.scores[reward.name])) if args.best_of else made


def optimized(
    args: GenerateArguments,
    generator: Generator,
    made: Candidates,
    conditioning: TensorBatch,
    prompt: str,
    reward: RewardEnsemble,
    adapter: Adapter | None = None,
) -> Candidates:
    """The candidates after a search from each, best first. Their earlier scores are under `before_reno`."""
    starts, pictures = [], []
    for seed, start in zip(made.seeds, made.starts, strict=True):
        text, moved = reward.encode_text([prompt]), start[None].to(generator.device)
        x0 = generator.noise(1, args.height, args.width, seed)
        settings = {"lr": args.reno_lr, "steps": args.steps, "seed": seed}
        settings["between_steps"] = args.modulation.between_steps
        settings["limits"] = GENTLE if args.search_limits else None
        if args.search == "random" and isinstance(adapter, NoiseHypernetwork):
            settings["start"] = partial(adapter.modulate, strength=args.strength, iterations=args.iterations or 1)
        else:
            settings["start"] = lambda *_, moved=moved: moved
        path = search_path(args.search, generator, reward, x0, conditioning, text, args.reno, **settings)
        for best in tqdm(path, f"{args.search} on seed {seed}", args.reno + 1, leave=False):
            found = best
        starts.append(found.x0.cpu())
        pictures.append(found.images.float().cpu())
    images = torch.cat(pictures)
    scores = score_images(reward, images.movedim(1, -1), prompt, args.device)
    scores["before_reno"] = made.scores[reward.name]
    return Candidates(made.seeds, torch.cat(starts), images, scores).at(ranking(scores[reward.name]))


@in_arguments_of(GenerateArguments)
def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: those of the command line).

    Raises:
        ValueError: an argument is wrong; nothing has been written.
    """
    args: GenerateArguments = parse(GenerateArguments, PROG, __doc__, argv)
    torch.set_num_threads(args.threads)
    check_device(args.device)
    with about("prompts"):
        prompts = [args.prompt] if args.prompts is None else read_prompts(args.prompts)
    reward = args.load_reward()
    if reward and args.reno:
        check_search(args.search, reward)
    generator = args.load_generator()
    adapter_file = args.adapter or (HYPERNOISE_FILE if args.model == "embedded" else None)
    adapters = {"base": None}
    if adapter_file:
        with about("adapter"):
            adapters["hypernoise"] = load_hypernetwork(generator, adapter_file)
        tell_training(adapter_file, adapters["hypernoise"], args, args.steps)
    generator.noise(1, args.height, args.width)  # refuses a size that does not fit before anything is written
    for adapter in adapters.values():
        args.modulation.check(generator, adapter, args.steps)
    critic = _critic(args, adapters.get("hypernoise"))

    folder = Path(args.save_dir)
    shown: dict[str, list] = {name: [] for name in adapters}
    scores: dict[str, dict] = {}
    for index, prompt in enumerate(tqdm(prompts, desc="prompts")):
        conditioning = generator.encode([prompt])
        for name, adapter in adapters.items():
            made = make_candidates(args, generator, adapter, conditioning, prompt, reward, critic)
            order = torch.arange(len(made.seeds))
            kept, others = made.at(order[: args.n]), made.at(order[args.n :])
            if args.reno:
                kept = optimized(args, generator, kept, conditioning, prompt, reward, adapter)
            for seed, image in zip(kept.seeds, to_images(kept.images), strict=True):
                with replacing(folder / name / f"{index:04d}-{seed}.png") as temporary:
                    image.save(temporary, "PNG")
                shown[name].append(image)
            scores.setdefault(f"{index:04d}", {})[name] = kept.rows() + others.rows()
    _write_summary(folder, prompts, args.n, shown, scores if reward or critic else None)


def _critic(args: GenerateArguments, adapter: NoiseHypernetwork | None) -> Critic | None:
    """What --report asks.

    Raises:
        ValueError: there is none.
    """
    if not args.report:
        return None
    if adapter is None or adapter.critic is None:
        raise ValueError(
            "--report asks a critic, and the adapter was saved without one: train a head with --teacher critic"
        )
    return adapter.critic


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
    print(f"{len(captions)} images per row: {folder / 'comparison.png'}")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
