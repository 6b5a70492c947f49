"""Score an adapter on the embedded benchmark: the exact detector, held-out prompts, the same seeds with and without.

python -m train.evaluate                                                   # the shipped adapter
python -m train.evaluate --adapter outputs/demo/hypernoise.safetensors --steps 1,2,4 --save_dir outputs/evaluate
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from hypernoise_core import FineTunedDenoiser, NoiseHypernetwork, Reward, load_generator, load_reward
from hypernoise_core.adapter_file import read_adapter
from hypernoise_core.embedded import HYPERNOISE_FILE
from hypernoise_core.embedded.benchmark import Case, Made, Method, Result, cases, measure, paired_interval
from hypernoise_core.embedded.prompts import CATEGORIES
from hypernoise_core.files import replacing
from hypernoise_core.generators import Generator
from hypernoise_core.hypernetwork import DenoiserLora

from .cli import parse, run_command

PROG = "python -m train.evaluate"


@dataclass(kw_only=True)
class EvaluateArguments:
    """Score an adapter on the embedded benchmark."""

    adapter: str = str(HYPERNOISE_FILE)
    """HyperNoise LoRA file for the embedded generator, of either kind; the shipped one when not given."""
    n: int = 900
    """Pictures; a multiple of 60 (six categories, ten seeds a prompt)."""
    steps: str = "1"
    """Denoiser calls per picture, such as 1 or 1,2,4."""
    strength: float = 1.0
    """Of a noise hypernetwork."""
    save_dir: str | None = None
    """Folder for evaluation.json; nothing is written without."""
    threads: int = 1
    """CPU threads."""

    def __post_init__(self):
        cases(self.n)
        if not all(part.strip().isdigit() and int(part) > 0 for part in self.steps.split(",")):
            raise ValueError(f"steps is {self.steps!r}: give numbers above 0 with commas between, such as 1,2,4")
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}; it must be at least 1")


def base_method(generator: Generator, steps: int = 1) -> Method:
    """The generator as it is."""
    return lambda x0, conditioning, text: Made(generator.generate(x0, conditioning, steps), x0)


def adapter_method(adapter: DenoiserLora, steps: int = 1, strength: float = 1.0) -> Method:
    """The generator with a noise hypernetwork, or the fine-tuned one."""
    generator = adapter.generator

    def method(x0, conditioning, text) -> Made:
        if isinstance(adapter, NoiseHypernetwork):
            start = adapter.modulate(x0, conditioning, strength)
            return Made(generator.generate(start, conditioning, steps), start)
        return Made(adapter.generate(x0, conditioning, steps), x0)

    return method


def compare(
    generator: Generator, reward: Reward, adapter: DenoiserLora, todo: list[Case], steps: int, strength: float = 1.0
) -> tuple[Result, Result]:
    """(base, adapter) on the same cases."""
    base = measure(generator, reward, base_method(generator, steps), todo)
    return base, measure(generator, reward, adapter_method(adapter, steps, strength), todo)


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


def load_adapter(generator: Generator, path: str) -> DenoiserLora:
    """An adapter of either kind."""
    kind = read_adapter(path)[1].kind
    return (FineTunedDenoiser if kind == "finetune" else NoiseHypernetwork).load(generator, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Run with these arguments (default: the command line's).

    Raises:
        ValueError: something given is wrong; nothing has been written.
    """
    args: EvaluateArguments = parse(EvaluateArguments, PROG, __doc__, argv)
    torch.set_num_threads(args.threads)
    generator, reward = load_generator("embedded"), load_reward("embedded")
    adapter = load_adapter(generator, args.adapter)
    todo, reports = cases(args.n), {}
    for steps in map(int, args.steps.split(",")):
        base, other = compare(generator, reward, adapter, todo, steps, args.strength)
        reports[str(steps)] = report(base, other)
        rows = {f"base, {steps} step(s)": base.summary(), f"{adapter.kind}, {steps} step(s)": other.summary()}
        low, high = reports[str(steps)]["interval_95"]
        print(f"{table(rows)}\n{category_table(rows)}")
        print(f"detector {reports[str(steps)]['difference']:+.3f}, paired 95 % interval [{low:+.3f}, {high:+.3f}]\n")
    if args.save_dir:
        with replacing(Path(args.save_dir) / "evaluation.json") as temporary:
            temporary.write_text(json.dumps({"adapter": args.adapter, "steps": reports}, indent=1))


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
