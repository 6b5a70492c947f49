"""GenEval: 553 prompts in six categories; `00000/metadata.jsonl`, `00000/samples/0000.png`, `00000/grid.png`."""

import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from hypernoise_core.evaluation import geneval as rules
from hypernoise_core.evaluation.colors import load_color_classifier
from hypernoise_core.evaluation.detector import load_detector
from hypernoise_core.evaluation.loading import check_source

from .benchmark import Benchmark, Item, Judge, JudgeSpec, PictureFile
from .published import find_published

METADATA = "evaluation_metadata.jsonl"


class GenEval(Benchmark):
    """Judged by a detector with GenEval's own rules."""

    name = "geneval"
    samples_default = 4

    def files(self, item: Item) -> list[PictureFile]:
        return [PictureFile(f"{item.key}/samples/{i:04d}.png", (seed,)) for i, seed in enumerate(self.seeds(item))]

    def companions(self, item: Item) -> dict[str, str]:
        return {f"{item.key}/metadata.jsonl": json.dumps(item.data)}

    def overview(self, item: Item) -> str:
        return f"{item.key}/grid.png"

    def judges(self, args) -> list[JudgeSpec]:
        def check() -> None:
            check_source(args.detector, "mask2former", "detector")
            check_source(args.clip, "clip", "clip")

        return [
            JudgeSpec(
                "geneval",
                {"detector": args.detector, "clip": args.clip},
                lambda: load_judge(self.items, args.detector, args.clip, args.device),
                check,
                over_categories=True,
            )
        ]


def read_items(folder: str | None, downloads: Path) -> list[Item]:
    """The lines of `evaluation_metadata.jsonl`.

    Raises:
        ValueError: the file is missing, or a line is wrong; the message has its number.
    """
    path = find_published(METADATA, folder, downloads)
    items = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            rules.check_metadata(row)
        except ValueError as error:  # JSON's own are
            raise ValueError(f"line {number} of {path} is not a line of GenEval's metadata: {error}") from error
        items.append(Item(f"{number - 1:05d}", number - 1, row["tag"], row["prompt"], row))
    if not items:
        raise ValueError(f"{path} is empty: download it again")
    return items


def load_judge(items: Sequence[Item], detector_source: str, clip_source: str, device: str) -> Judge:
    """A judge that uses a detector and a CLIP.

    Raises:
        ValueError: one of them is missing, or the detector does not know a class of the prompts.
    """
    detector, colors = load_detector(detector_source, device), load_color_classifier(clip_source, device)
    detector.check_classes(rules.classes(item.data for item in items))
    return judge_with(detector, colors)


def judge_with(detector, colors) -> Judge:
    """A judge that uses anything with the interfaces of `Mask2FormerDetector` and `ColorClassifier`."""

    def judge(item: Item, images: list[Image.Image]):
        correct, details = [], []
        for image in images:
            seen = rules.confident(detector.detect(image), item.category)
            verdict = rules.judge(item.data, seen, lambda things, name, image=image: colors(image, things, name))
            correct.append(float(verdict.correct))
            boxes = {name: [[*thing.box, thing.score] for thing in things] for name, things in seen.items()}
            details.append({"reason": verdict.reason, "boxes": boxes})
        return {"geneval": correct}, details

    return judge


def official_results(benchmark: GenEval, folder: Path, rows: dict[str, dict]) -> str:
    """The verdicts in the format of GenEval's own scorer, for its `summary_scores.py`: JSON lines.

    Args:
        rows: by the items' keys, with `scores` and `details`.
    """
    lines = []
    for item in benchmark.items:
        row = rows[item.key]
        pairs = zip(benchmark.files(item), row["scores"]["geneval"], row["details"], strict=True)
        for file, correct, details in pairs:
            line = {
                "filename": str(folder / file.path),
                "tag": item.category,
                "prompt": item.prompt,
                "correct": bool(correct),
                "reason": details["reason"],
                "metadata": json.dumps(item.data),
                "details": json.dumps(details["boxes"]),
            }
            lines.append(json.dumps(line))
    return "\n".join(lines) + "\n"
