"""Run a published benchmark, from prompts to report. Started again, it continues where it stopped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from hypernoise_core import RewardEnsemble, TensorBatch
from hypernoise_core.device import check_device
from hypernoise_core.files import replacing
from hypernoise_core.hypernetworks import load_adapter
from hypernoise_core.hypernetworks.adapter_file import read_adapter, read_kind
from hypernoise_core.hypernetworks.head_file import KIND as HEAD
from hypernoise_core.hypernetworks.head_file import read_head
from hypernoise_core.settings import SettingError, about
from hypernoise_core.training import processes

from ..generate import make_pictures
from ..launch import join_processes, leave_processes
from ..trained_for import tell_training
from . import dpg_bench, geneval, t2i_compbench
from .arguments import EvaluateArguments
from .benchmark import Benchmark, JudgeSpec, chosen
from .judging import diversity_spec, judge_pictures, reward_spec
from .pictures import Found, Make, inspect, make, strangers, sweep
from .report import Method, markdown, summary

BENCHMARKS: dict[str, type[Benchmark]] = {
    kind.name: kind for kind in (geneval.GenEval, t2i_compbench.T2ICompBench, dpg_bench.DpgBench)
}

SETTINGS = "settings.json"

OF_ADAPTER = ("adapter", "strength", "iterations")
"""Settings that do not affect a base's images."""

NOTES = {
    "geneval": "These scores are not comparable with published tables. For those, run GenEval's own scorer (mmdet's "
    "Mask2Former); docs/evaluation.md has its commands.",
    "t2i-compbench": "These scores are not comparable with published tables. For those, run T2I-CompBench's own "
    "scorers; docs/evaluation.md has their commands. Only they score spatial, 3D-spatial, numeracy, complex prompts.",
    "dpg-bench": "These scores are not comparable with published tables. For those, run DPG-Bench's own scorer "
    "(mPLUG); docs/evaluation.md has its commands.",
}


def run(args: EvaluateArguments) -> dict:
    """Generate missing images, score what is not scored, write report.json and report.md, and return the report.

    Raises:
        ValueError: an argument is wrong, or `save_dir` holds other settings; nothing has been written then.
    """
    device = join_processes(args.device)
    try:
        return _run(args, device)
    except KeyboardInterrupt:
        _say(f"stopped: the images and scores so far are in {args.folder}; run the same command to continue")
        raise SystemExit(130) from None
    finally:
        leave_processes()


def _run(args: EvaluateArguments, device: str) -> dict:
    check_device(device)
    args.device = device
    folder = args.folder
    settings = _settings(args)
    _settled(folder / SETTINGS, settings)
    benchmark = load_benchmark(args)
    specs = _judges(args, benchmark)
    for spec in specs:
        spec.check()
    methods = _methods(args)
    settings["prompts_sha256"] = _prompts_sha256(args)
    settings = _settled(folder / SETTINGS, settings)
    processes.gather(None)
    if processes.rank() == 0:
        _write_json(folder / SETTINGS, settings)
        _record_seeds(benchmark, folder)
    told = _make_all(args, benchmark, methods)
    scores = {}
    folders = {method.name: folder / method.name for method in methods}
    for spec in specs:
        judged = judge_pictures(benchmark, folders, folder / "scores", spec)
        for name, content in summary(benchmark, spec, judged, methods).items():
            scores[name] = content | {"judge": spec.identity}
        if spec.name == "geneval" and processes.rank() == 0:
            for method, rows in judged.items():
                _write(folder / f"{method}-results.jsonl", geneval.official_results(benchmark, folders[method], rows))
    report = {
        "benchmark": benchmark.name,
        "settings": settings,
        "adapter": args.adapter_source,
        "prompts": len(benchmark.items),
        "pictures": told,
        "scores": scores,
        "notes": [NOTES[benchmark.name]],
    }
    if processes.rank() == 0:
        _write_json(folder / "report.json", report)
        _write(folder / "report.md", markdown(report))
        print(markdown(report))
        print(f"This report is in {folder}/report.md and report.json")
    return report


def load_benchmark(args: EvaluateArguments) -> Benchmark:
    """The benchmark with the requested prompts.

    Raises:
        ValueError: its prompts are missing or wrong.
    """
    kind = BENCHMARKS[args.benchmark]
    samples = args.samples or kind.samples_default
    if kind is dpg_bench.DpgBench and (samples > 4 or (args.height or 0) != (args.width or 0)):
        raise ValueError(
            "DPG-Bench's own scorer cuts at most 4 square images out of a grid: give --samples 1 to 4, and the same "
            "--height and --width"
        )
    with about("prompts_dir" if args.prompts_dir else "benchmark"):
        items = _first_process_first(lambda: _read_items(args))
    return kind(items, chosen(items, args.category_names, args.limit), samples, args.seed)


def _read_items(args: EvaluateArguments) -> list:
    downloads = args.folder / "prompts"
    if args.benchmark == "geneval":
        return geneval.read_items(args.prompts_dir, downloads)
    if args.benchmark == "t2i-compbench":
        return t2i_compbench.read_items(args.prompts_dir, downloads, args.category_names)
    return dpg_bench.read_items(args.prompts_dir, downloads)


def _first_process_first(work: Callable[[], list]) -> list:
    """The result of `work`. The first process runs it before the others, who find what it left."""
    if processes.rank() == 0:
        result = work()
        processes.gather(None)
        return result
    processes.gather(None)
    return work()


def _methods(args: EvaluateArguments) -> list[Method]:
    """Base and adapter, at every number of steps."""
    methods, kind = [], ""
    if source := args.adapter_source:
        with about("adapter"):
            found = read_kind(source)
            _, info = (read_head if found == HEAD else read_adapter)(source)  # refuses what is not there, or not whole
        kind = "finetuned" if found == "finetune" else "hypernoise"
        if processes.rank() == 0:
            tell_training(source, info, args, max(args.step_counts))
    for steps in args.step_counts:
        methods.append(Method(f"base-{steps}", steps))
        if kind:
            methods.append(Method(f"{kind}-{steps}", steps, f"base-{steps}"))
    return methods


def _judges(args: EvaluateArguments, benchmark: Benchmark) -> list[JudgeSpec]:
    specs = benchmark.judges(args) if args.score else []
    if args.rewards:
        settings = {"folder": args.rewards_folder, "dtype": args.rewards_dtype, "device": args.device}

        @about("rewards")
        def load() -> RewardEnsemble:
            return args.make_rewards(args.rewards).to(args.device)

        specs.append(reward_spec(args.rewards, settings, load))
    if benchmark.samples > 1:
        specs += [diversity_spec(name, args.dino, args.device) for name in args.diversity_names]
    return specs


def _make_all(args: EvaluateArguments, benchmark: Benchmark, methods: list[Method]) -> dict[str, str]:
    """Generate each method's missing images; each process takes a share. Returns a summary by method."""
    jobs = []
    for method in methods:
        found = _look(args.folder / method.name, benchmark)
        jobs += [(item, method, files) for item, files in found.todo]
    jobs.sort(key=lambda job: job[0].index)  # methods side by side: each prompt is encoded once, and pairs are complete
    makers, made = _Makers(args), {method.name: 0 for method in methods}
    for item, method, files in tqdm(jobs, desc="images", disable=processes.rank() > 0 or not jobs):
        made[method.name] += make(benchmark, args.folder / method.name, item, files, makers.of(method))
    count = sum(len(benchmark.files(item)) for item in benchmark.items)
    everyone = processes.gather(made)
    return {
        name: f"{count} files of {len(benchmark.items)} prompts, {sum(own[name] for own in everyone)} images made in "
        "this run"
        for name in made
    }


def _look(folder: Path, benchmark: Benchmark) -> Found:
    """Report which of a method's images exist. Returns what is wrong with this process's share."""
    if processes.rank() == 0 and folder.is_dir():
        sweep(folder)
    processes.gather(None)
    found = inspect(benchmark, folder, benchmark.items[processes.rank() :: processes.count()])
    for rank, text in enumerate(told := processes.gather(str(found))):
        _say(f"{folder.name}: {text}" + (f" (share {rank + 1} of {len(told)})" if len(told) > 1 else ""))
    if odd := strangers(benchmark, folder):
        _say(
            f"{folder.name}: {len(odd)} files do not belong among the images, such as {odd[0]}: move them away, "
            "because the official scorer may read them"
        )
    return found


class _Makers:
    """Methods as functions from a prompt and seeds to images. Models are loaded when first needed."""

    def __init__(self, args: EvaluateArguments):
        self._args, self._generator, self._adapter = args, None, None
        self._encoded: tuple[str, TensorBatch | None] = ("", None)

    def of(self, method: Method) -> Make:
        args = self._args
        if self._generator is None:
            self._generator = args.load_generator(args.device)
            self._generator.noise(1, args.height, args.width)  # refuses a size that does not fit
            for steps in args.step_counts:
                self._generator.check_steps(steps)
        if method.pair and self._adapter is None:
            with about("adapter"):
                self._adapter = load_adapter(self._generator, args.adapter_source)
        generator, adapter = self._generator, self._adapter if method.pair else None
        args.modulation.check(generator, adapter, method.steps)

        def make(item, seeds) -> Tensor:
            if self._encoded[1] is None or self._encoded[0] != item.prompt:
                self._encoded = (item.prompt, generator.encode([item.prompt]))
            size = (args.height, args.width)
            return make_pictures(generator, adapter, self._encoded[1], seeds, *size, method.steps, args.modulation)[1]

        return make


def _settings(args: EvaluateArguments) -> dict:
    """The settings that determine the images. Other values need another folder."""
    adapter = args.adapter_source
    if adapter and Path(adapter).is_file():
        adapter = f"sha256 {_sha256(Path(adapter))}"
    samples = args.samples or BENCHMARKS[args.benchmark].samples_default
    names = ("benchmark", "model", "variant", "pipeline", "quantize", "generator_lora", "scheduler", "shift", "dtype")
    names += ("text_length", "seed", "height", "width")
    own = {name: getattr(args, name) for name in names}
    how = asdict(args.modulation)
    how |= {name: None for name in OF_ADAPTER if name in how and not adapter}
    return own | {"samples": samples, "adapter": adapter, **how}


def _prompts_sha256(args: EvaluateArguments) -> str | None:
    """A hash of all the benchmark's prompts, whichever are used. None for T2I-CompBench, which reads only the prompts
    of its categories and names images after their prompts."""
    if args.benchmark == "t2i-compbench":
        return None
    content = json.dumps([[item.key, item.prompt] for item in _read_items(args)])
    return hashlib.sha256(content.encode()).hexdigest()


def _settled(path: Path, settings: dict) -> dict:
    """The settings that apply in a folder from now on. An adapter may be added to the images of a base, or left out.

    Raises:
        ValueError: the images there were made with other settings.
    """
    if not path.is_file():
        if path.parent.is_dir() and any(p.name != "prompts" for p in path.parent.iterdir()):
            told = "which is not empty and holds no evaluation: give a new folder"
            raise ValueError(f"--save_dir is {str(path.parent)!r}, {told}")
        return settings
    try:
        before = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--save_dir has {path}, which cannot be read ({error}): give another folder") from error
    joined = dict(settings)
    for name, value in settings.items():
        if name in OF_ADAPTER and None in (value, before.get(name)):
            joined[name] = before.get(name) if value is None else value
        elif name in before and before[name] != value:
            raise SettingError(
                f"{{save_dir}} is {{!r}}, whose images were made with {{{name}}} {{!r}}, but it is now {{!r}}: give a "
                "new folder",
                str(path.parent),
                before[name],
                value,
            )
    return joined


def _record_seeds(benchmark: Benchmark, folder: Path) -> None:
    """Write `seeds.jsonl`: every image's prompt and seeds, for those who cannot read the PNG texts."""
    lines = [
        json.dumps({"file": file.path, "prompt": item.prompt, "seeds": list(file.seeds)})
        for item in benchmark.items
        for file in benchmark.files(item)
    ]
    _write(folder / "seeds.jsonl", "\n".join(lines) + "\n")


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text, "utf-8")


def _write_json(path: Path, content: dict) -> None:
    _write(path, json.dumps(content, indent=1))


def _say(line: str) -> None:
    if processes.rank() == 0:
        print(line)
