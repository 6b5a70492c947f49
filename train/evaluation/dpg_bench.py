"""DPG-Bench: 1,065 long prompts; `<item>.png`, four images in a 2x2 grid."""

import csv
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from hypernoise_core.evaluation.dpg import Question, dependent_score, kind_scores
from hypernoise_core.evaluation.loading import check_source
from hypernoise_core.evaluation.vqa import load_yes_no
from hypernoise_core.prompt_sets import read_prompts
from hypernoise_core.settings import SettingError

from .benchmark import Benchmark, Item, Judge, JudgeSpec, PictureFile, only
from .published import URLS, find_published

QUESTIONS = "dpg_bench.csv"
COLUMNS = ("item_id", "text", "proposition_id", "dependency", "tuple", "question_natural_language")
COLUMNS_OF_GRID = 2


class DpgBench(Benchmark):
    """Judged by a VQA model, if the file with the questions is there."""

    name = "dpg-bench"
    samples_default = 4

    def files(self, item: Item) -> list[PictureFile]:
        return [PictureFile(f"{item.key}.png", self.seeds(item), min(COLUMNS_OF_GRID, self.samples))]

    def judges(self, args) -> list[JudgeSpec]:
        return [
            JudgeSpec(
                "dpg",
                {"vqa": args.vqa},
                lambda: question_judge(load_yes_no(args.vqa, args.device)),
                lambda: check(self, args.vqa),
            )
        ]


def check(benchmark: DpgBench, vqa: str) -> None:
    if lacking := [item.key for item in benchmark.items if not item.data["questions"]]:
        raise ValueError(
            f"there are no questions for {len(lacking)} prompts, such as {lacking[0]}: put "
            f"{URLS[QUESTIONS]}{QUESTIONS} into the folder of --prompts_dir, or let DPG-Bench's own code score them, "
            "with --score false"
        )
    check_source(vqa, "blip", "vqa")


def read_items(folder: str | None, downloads: Path) -> list[Item]:
    """Prompts from `dpg_bench.csv`, or from a folder `dpg_bench` (or `dpg_bench/prompts`) with one text file each.
    Sorted by name, so that both sources give the same seeds.

    Raises:
        ValueError: neither is there, or a line is wrong.
    """
    has_csv = not folder or (Path(folder).is_dir() and bool(only(Path(folder), QUESTIONS)))
    questions, texts = read_questions(find_published(QUESTIONS, folder, downloads)) if has_csv else ({}, {})
    for path in _prompt_files(Path(folder)) if folder else []:
        texts[path.stem] = " ".join(read_prompts(path))
    if not texts:
        raise SettingError(
            "{prompts_dir} is {!r}, without DPG-Bench: download {} there, or its folder dpg_bench/prompts",
            folder,
            URLS[QUESTIONS] + QUESTIONS,
        )
    return [
        Item(key, index, "all", texts[key], {"questions": questions.get(key, [])})
        for index, key in enumerate(sorted(texts))
    ]


def _prompt_files(folder: Path) -> list[Path]:
    named = [path for path in (folder, *folder.rglob("dpg_bench")) if path.name == "dpg_bench" and path.is_dir()]
    return [file for path in named for file in (sorted(path.glob("*.txt")) or sorted(path.glob("prompts/*.txt")))]


def read_questions(path: Path) -> tuple[dict[str, list[Question]], dict[str, str]]:
    """Questions and prompts by item.

    Raises:
        ValueError: this is not DPG-Bench's table; the message names the line.
    """
    questions: dict[str, list[Question]] = {}
    texts: dict[str, str] = {}
    with open(path, encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        if missing := [name for name in COLUMNS if name not in (reader.fieldnames or [])]:
            raise ValueError(f"{path} has no column {missing[0]!r}: it is not DPG-Bench's table, download it again")
        for row in reader:
            try:
                questions.setdefault(row["item_id"], []).append(_question(row))
            except (ValueError, AttributeError) as error:
                raise ValueError(f"line {reader.line_num} of {path} is not a question of DPG-Bench: {error}") from error
            texts.setdefault(row["item_id"], row["text"].strip())
    return questions, texts


def _question(row: Mapping[str, str]) -> Question:
    parents = tuple(number for part in row["dependency"].split(",") if (number := int(part)) > 0)
    kind = row["tuple"].split("(")[0].split("-")[0].strip()
    return Question(int(row["proposition_id"]), row["question_natural_language"].strip(), parents, kind)


def question_judge(ask) -> Judge:
    """Share of questions answered yes, by DPG-Bench's rule and by kind of question."""

    def judge(item: Item, images: list[Image.Image]):
        questions: list[Question] = item.data["questions"]
        scores: dict[str, list[float]] = {}
        details = []
        for image in images:
            sure = ask(image, [question.text for question in questions])
            yes = {question.number: p > 0.5 for question, p in zip(questions, sure, strict=True)}
            scores.setdefault("dpg", []).append(dependent_score(questions, yes))
            for kind, value in kind_scores(questions, yes).items():
                scores.setdefault(f"dpg, {kind} alone", []).append(value)
            details.append({str(question.number): round(p, 4) for question, p in zip(questions, sure, strict=True)})
        return scores, details

    return judge
