"""Load a command's prompts: files, Hugging Face datasets and named tasks, mixed with weights."""

from collections.abc import Callable
from pathlib import Path

from hypernoise_core.embedded.prompts import CATEGORIES
from hypernoise_core.embedded.prompts import prompts as embedded_prompts
from hypernoise_core.prompt_sets import PromptMix, PromptSet, find_column, read_prompts, with_text

PICKAPIC = "hub:yuvalkirstain/pickapic_v2_no_images"
"""Pick-a-Pic v2's captions without its images."""

T2I_TRAIN = ("color", "complex", "texture", "shape", "spatial", "non_spatial", "numeracy")
"""The files of T2I-CompBench's training prompts that the reference implementation uses."""

DOWNLOADS = {
    "example_prompts.txt": "github.com/ExplainableML/HyperNoise, assets/",
    "ABC-6K.txt": "github.com/weixi-feng/Structured-Diffusion-Guidance, ABC-6K.txt",
    "evaluation_metadata.jsonl": "github.com/djghosh13/geneval, prompts/",
    **{f"{name}_train.txt": "github.com/Karine-Huang/T2I-CompBench, examples/dataset/" for name in T2I_TRAIN},
}
"""File name to where it is published."""


def load_mix(sources: str, folder: str | None = None) -> PromptMix:
    """Prompts from text such as `a.txt`, `geneval` or `mine.csv#caption=2,hub:owner/name@train#prompt=0.5`.

    Args:
        sources: each is a task, a file, or `hub:` and a dataset's id with `@split` (default: train). `#column` names a
            table's column. `=weight` says how often its prompts are drawn compared with the others (default: 1).
        folder: the folder with the tasks' published files, at any depth.

    Raises:
        ValueError: something is missing; the message says where to get it.
    """
    sets = []
    for part in filter(None, (p.strip() for p in sources.split(","))):
        name, weight = _weighted(part)
        parts = MIXES.get(name, (name,))
        sets += [PromptSet(own, tuple(_load(own, folder)), weight / len(parts)) for own in parts]
    if not sets:
        raise ValueError("no prompts given: name a file or a task")
    return PromptMix(tuple(sets))


def _weighted(part: str) -> tuple[str, float]:
    name, equals, weight = part.rpartition("=")
    if not equals or Path(part).exists():
        return part, 1.0
    try:
        return name, float(weight)
    except ValueError as error:
        raise ValueError(f"prompts {part!r}: the weight after = is not a number") from error


def _load(source: str, folder: str | None) -> list[str]:
    if source in TASKS:
        return TASKS[source](folder)
    if source.startswith("hub:"):
        return _from_hub(source)
    path, _, column = source.partition("#")
    if not Path(path).suffix and not Path(path).exists():
        raise ValueError(f"no prompt file and no task {source!r}: tasks are {', '.join(NAMES)}")
    return read_prompts(path, column or None)


def _from_hub(source: str) -> list[str]:
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise ValueError(f"{source} needs datasets: pip install 'comfyui-hypernoise[data]'") from error
    name, _, column = source.removeprefix("hub:").partition("#")
    name, _, split = name.partition("@")
    try:
        dataset = load_dataset(name, split=split or "train")
    except Exception as error:  # whatever the hub, the network or the dataset's own builder raise
        raise ValueError(
            f"dataset {name!r} cannot be loaded ({error}): check its id and split, or give a file"
        ) from error
    texts = dataset[find_column(source, dataset.column_names, column or None)]
    return list(dict.fromkeys(with_text(texts, source)))


def _file(name: str) -> Callable[[str | None], list[str]]:
    def load(folder: str | None) -> list[str]:
        found = sorted(Path(folder).rglob(name)) if folder else []
        if not found:
            missing = f"no {name} in {folder}" if folder else f"its prompts are in {name}, which is not shipped"
            raise ValueError(f"{missing}: get it from {DOWNLOADS[name]} and pass the folder with --prompts_dir")
        return read_prompts(found[0])

    return load


def _t2i_compbench(folder: str | None) -> list[str]:
    return [text for name in T2I_TRAIN for text in _file(f"{name}_train.txt")(folder)]


def _all(folder: str | None) -> list[str]:
    return [text for task in ("t2i-compbench", "abc-6k", "pickapic") for text in TASKS[task](folder)]


def _embedded(category: str) -> Callable[[str | None], list[str]]:
    own = [prompt.text for prompt in embedded_prompts(held_out=False) if prompt.category == category]
    return lambda folder: own


EMBEDDED = {f"embedded-{category.replace('_', '-')}": _embedded(category) for category in CATEGORIES}
"""The embedded world's training prompts by GenEval's categories."""

TASKS: dict[str, Callable[[str | None], list[str]]] = {
    **EMBEDDED,
    "embedded-held-out": lambda folder: [prompt.text for prompt in embedded_prompts(held_out=True)],
    "example-prompts": _file("example_prompts.txt"),
    "geneval": _file("evaluation_metadata.jsonl"),
    "t2i-compbench": _t2i_compbench,
    "abc-6k": _file("ABC-6K.txt"),
    "pickapic": lambda folder: _from_hub(PICKAPIC),
    "all": _all,
}
"""Prompt sets by name; `example-prompts`, `geneval`, `pickapic` and `all` are the reference implementation's."""

MIXES = {"embedded": tuple(EMBEDDED)}
"""Names for several sets, which are drawn equally often. Half of the embedded world's prompts are pairs of colours and
only three are single things, but a benchmark weights categories equally."""

NAMES = (*MIXES, *TASKS)
