"""The embedded world's benchmark: base and adapter by the exact detector, as tables."""

import json
from pathlib import Path

from hypernoise_core import Reward, load_generator, load_reward
from hypernoise_core.embedded.benchmark import Case, Made, Method, Result, cases, measure, paired_interval
from hypernoise_core.embedded.prompts import CATEGORIES
from hypernoise_core.files import replacing
from hypernoise_core.generators import Generator
from hypernoise_core.hypernetworks import Adapter, load_adapter
from hypernoise_core.hypernetworks.drawing import Modulation, draw
from hypernoise_core.settings import about

from ..trained_for import tell_training
from .arguments import EvaluateArguments


def method(
    generator: Generator, adapter: Adapter | None = None, steps: int = 1, how: Modulation | None = None
) -> Method:
    """The generator as it is, or with an adapter of any kind."""
    how = how or Modulation()
    return lambda x0, conditioning, text: Made(*reversed(draw(generator, adapter, x0, conditioning, steps, how=how)))


def compare(
    generator: Generator, reward: Reward, adapter: Adapter, todo: list[Case], steps: int, how: Modulation | None = None
) -> tuple[Result, Result]:
    """(base, adapter) on the same cases."""
    base, other = (measure(generator, reward, method(generator, own, steps, how), todo) for own in (None, adapter))
    return base, other


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


def evaluate_embedded(args: EvaluateArguments) -> None:
    """Score base and adapter with the exact detector, print the tables, and write evaluation.json if there is a
    folder."""
    generator, reward = load_generator("embedded"), load_reward("embedded")
    with about("adapter"):
        adapter = load_adapter(generator, args.adapter_source)
    tell_training(args.adapter_source, adapter, args, max(args.step_counts))
    todo, reports = cases(args.n), {}
    for steps in args.step_counts:
        args.modulation.check(generator, adapter, steps)
        base, other = compare(generator, reward, adapter, todo, steps, args.modulation)
        reports[str(steps)] = report(base, other)
        rows = {f"base, {steps} step(s)": base.summary(), f"{adapter.kind}, {steps} step(s)": other.summary()}
        low, high = reports[str(steps)]["interval_95"]
        print(f"{table(rows)}\n{category_table(rows)}")
        print(f"detector {reports[str(steps)]['difference']:+.3f}, paired 95 % interval [{low:+.3f}, {high:+.3f}]\n")
    if args.save_dir:
        with replacing(Path(args.save_dir) / "evaluation.json") as temporary:
            temporary.write_text(
                json.dumps(
                    {
                        "adapter": args.adapter_source,
                        "between_steps": args.modulation.between_steps,
                        "steps": reports,
                    },
                    indent=1,
                )
            )
