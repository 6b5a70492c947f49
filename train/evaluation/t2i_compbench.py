"""T2I-CompBench(++): eight categories of 300 prompts; `<category>/samples/<prompt>_<index>.png`."""

from pathlib import Path

from hypernoise_core.evaluation.clip import load_clip_score
from hypernoise_core.evaluation.loading import check_source
from hypernoise_core.evaluation.phrases import SPACY_MODEL, load_noun_phrases
from hypernoise_core.evaluation.vqa import attribute_binding, load_yes_no
from hypernoise_core.prompt_sets import read_prompts
from hypernoise_core.settings import SettingError

from .benchmark import Benchmark, Item, Judge, JudgeSpec, PictureFile
from .pictures import as_tensor
from .published import find_published

CATEGORIES = ("color", "shape", "texture", "spatial", "3d_spatial", "numeracy", "non_spatial", "complex")
ATTRIBUTES = ("color", "shape", "texture")
"""Categories judged by BLIP-VQA."""
NON_SPATIAL = "non_spatial"
"""Categories judged by CLIPScore. The others need the authors' UniDet and their code."""


class T2ICompBench(Benchmark):
    """Judged by BLIP-VQA (attribute binding) and CLIPScore (relations that are not spatial)."""

    name = "t2i-compbench"
    samples_default = 10

    def files(self, item: Item) -> list[PictureFile]:
        first = item.data["row"] * self.samples
        return [
            PictureFile(f"{item.category}/samples/{item.prompt}_{first + i:06d}.png", (seed,))
            for i, seed in enumerate(self.seeds(item))
        ]

    def judges(self, args) -> list[JudgeSpec]:
        specs = []
        if set(ATTRIBUTES) & set(self.categories):

            def check() -> None:
                load_noun_phrases()
                check_source(args.vqa, "blip", "vqa")

            specs.append(
                JudgeSpec(
                    "blip_vqa",
                    {"vqa": args.vqa, "phrases": SPACY_MODEL},
                    lambda: attribute_judge(load_yes_no(args.vqa, args.device), load_noun_phrases()),
                    check,
                    lambda item: item.category in ATTRIBUTES,
                    over_categories=True,
                )
            )
        if NON_SPATIAL in self.categories:
            specs.append(
                JudgeSpec(
                    "clip_score",
                    {"clip": args.clip_score},
                    lambda: clip_judge(load_clip_score(args.clip_score, args.device)),
                    lambda: check_source(args.clip_score, "clip", "clip_score"),
                    lambda item: item.category == NON_SPATIAL,
                )
            )
        return specs


def read_items(folder: str | None, downloads: Path, wanted: list[str]) -> list[Item]:
    """The prompts of `<category>_val.txt`, which the published scores are for.

    Args:
        wanted: categories; empty for all.

    Raises:
        ValueError: an unknown category, a missing file, or a prompt that cannot be a file name.
    """
    if unknown := [name for name in wanted if name not in CATEGORIES]:
        raise SettingError("{categories} names {!r}: choose from {}", unknown[0], ", ".join(CATEGORIES))
    items = []
    for offset, category in enumerate(CATEGORIES):
        if wanted and category not in wanted:
            continue
        path = find_published(f"{category}_val.txt", folder, downloads)
        for row, line in enumerate(read_prompts(path)):
            prompt = line.split("\t")[0]
            if "/" in prompt or "_" in prompt or len(prompt.encode()) > 200:
                raise ValueError(
                    f"prompt {row + 1} of {path} is {prompt!r}: it names its images, so it must not contain "
                    "/ or _ and must have at most 200 bytes"
                )
            index = 1000 * offset + row  # the same seeds whichever categories are made
            items.append(Item(f"{category}-{row:04d}", index, category, prompt, {"row": row}))
    return items


def attribute_judge(ask, noun_phrases) -> Judge:
    """BLIP-VQA score of each image."""

    def judge(item: Item, images):
        phrases = noun_phrases(item.prompt)
        return {"blip_vqa": [attribute_binding(ask, image, phrases) for image in images]}, [phrases] * len(images)

    return judge


def clip_judge(score) -> Judge:
    """CLIPScore of each image."""
    return lambda item, images: ({"clip_score": score(as_tensor(images), item.prompt)}, [])
