"""Make pictures from prompts, with and without an adapter, on the same seeds.

python -m train.generate --prompt "a photo of two crosses" --n 8
python -m train.generate --adapter outputs/demo/hypernoise.safetensors --prompts prompts.txt --steps 2
python -m train.generate --model sana --adapter mine.safetensors --prompt "a red cat" --device cuda --dtype bfloat16
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from hypernoise_core import NoiseHypernetwork
from hypernoise_core.embedded import HYPERNOISE_FILE
from hypernoise_core.files import replacing

from .cli import parse, run_command
from .config import read_prompts
from .model import ModelArguments
from .pictures import comparison_grid, to_images

PROG = "python -m train.generate"


@dataclass(kw_only=True)
class GenerateArguments(ModelArguments):
    """Make pictures from prompts, with and without an adapter, on the same seeds."""

    model: str = "embedded"
    """Folder saved by diffusers, hub id, single file (with --pipeline), or a short name: embedded, sana, sana-1.6b,
    sd-turbo, sdxl-turbo, flux."""
    adapter: str | None = None
    """HyperNoise LoRA file, PEFT folder or its hub id; the shipped one for the embedded model, none for others."""
    prompt: str | None = None
    """One prompt."""
    prompts: str | None = None
    """Text file with one prompt a line."""
    steps: int = 1
    """Denoiser calls per picture."""
    strength: float = 1.0
    """Of the adapter: 0 is the base picture, above 1 goes further than it was trained to."""
    seed: int = 0
    """Of the first picture of each prompt; the next have the seeds after it."""
    n: int = 4
    """Pictures per prompt."""
    height: int | None = None
    """In pixels; the model's own when not given."""
    width: int | None = None
    """In pixels; the model's own when not given."""
    save_dir: str = "outputs/generate"
    """Folder for the pictures (base/, hypernoise/, each NNNN-seed.png), comparison.png and prompts.json."""
    device: str = "cpu"
    """Such as cuda."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the model."""
    threads: int = 1
    """CPU threads."""

    def __post_init__(self):
        if (self.prompt is None) == (self.prompts is None):
            raise ValueError("give --prompt TEXT or --prompts FILE, and not both")
        for name in ("steps", "n", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: the command line's).

    Raises:
        ValueError: something given is wrong; nothing has been written.
    """
    args: GenerateArguments = parse(GenerateArguments, PROG, __doc__, argv)
    torch.set_num_threads(args.threads)
    prompts = [args.prompt] if args.prompt else read_prompts(args.prompts)
    generator = args.load_generator()
    adapter_file = args.adapter or (HYPERNOISE_FILE if args.model == "embedded" else None)
    adapter = NoiseHypernetwork.load(generator, adapter_file) if adapter_file else None
    generator.noise(1, args.height, args.width)  # refuses a size that does not fit before anything is written

    folder, rows = Path(args.save_dir), {"base": [], "hypernoise": []}
    shown = []
    for index, prompt in enumerate(tqdm(prompts, desc="prompts")):
        conditioning = generator.encode([prompt])
        for seed in range(args.seed, args.seed + args.n):
            x0 = generator.noise(1, args.height, args.width, seed)
            with torch.no_grad():
                made = {"base": generator.generate(x0, conditioning, args.steps, seed)}
                if adapter:
                    made["hypernoise"] = adapter.generate(x0, conditioning, args.steps, seed, args.strength)
            for name, pictures in made.items():
                (image,) = to_images(pictures)
                with replacing(folder / name / f"{index:04d}-{seed}.png") as temporary:
                    image.save(temporary, "PNG")
                rows[name].append(image)
            shown.append(prompt)
    most = 64
    comparison_grid(
        folder / "comparison.png", [(name, images[:most]) for name, images in rows.items() if images], shown[:most]
    )
    with replacing(folder / "prompts.json") as temporary:
        temporary.write_text(json.dumps({f"{i:04d}": prompt for i, prompt in enumerate(prompts)}, indent=1))
    print(f"{len(shown)} pictures a row: {folder / 'comparison.png'}")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
