"""Run judges over folders of images: rewards, diversity and a benchmark's own judges. Scores that exist are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from tqdm import tqdm

from hypernoise_core.evaluation.distances import load_diversity
from hypernoise_core.evaluation.loading import check_source
from hypernoise_core.rewards import RewardEnsemble
from hypernoise_core.training import processes

from .benchmark import Benchmark, Item, Judge, JudgeSpec, Scores
from .pictures import as_tensor, read


def reward_spec(names: str, settings: dict, load) -> JudgeSpec:
    """A judge that scores images with rewards such as `hpsv2,imagereward`.

    Args:
        settings: other settings that their scores depend on.
        load: returns the ensemble, on its device.
    """

    def make() -> Judge:
        ensemble: RewardEnsemble = load()

        @torch.no_grad()
        def judge(item: Item, images: list[Image.Image]) -> tuple[Scores, list]:
            pictures = as_tensor(images).to(settings["device"])
            text = ensemble.encode_text([item.prompt] * len(images))
            scores = ensemble.scores(pictures, text, [*ensemble.rewards, *ensemble.held_out])
            return {name: own.float().cpu().tolist() for name, own in scores.items()}, []

        return judge

    identity = {key: value for key, value in settings.items() if key != "device"}
    return JudgeSpec("rewards", {"rewards": names, **identity}, make)


def diversity_spec(name: str, dino: str, device: str) -> JudgeSpec:
    """A judge that measures how far the images of a prompt are from one another."""

    def make() -> Judge:
        measure = load_diversity(name, dino, device)
        return lambda item, images: ({f"diversity_{name}": [measure(as_tensor(images))]}, [])

    def check() -> None:
        if name == "dinov2":
            check_source(dino, "dinov2", "dino")
        else:
            load_diversity(name)

    return JudgeSpec(f"diversity_{name}", {"model": dino} if name == "dinov2" else {}, make, check)


class ScoreStore:
    """Scores of one judge for one method's images: JSON lines, one file per process, one line per prompt.

    A line is valid as long as its images are the same, byte for byte, and the judge is the same.
    """

    def __init__(self, folder: Path, spec: JudgeSpec):
        self.folder, self.spec = folder, spec
        self._path = folder / f"{spec.name}-{processes.rank()}.jsonl"
        self._identity = hashlib.sha256(json.dumps(spec.identity, sort_keys=True).encode()).hexdigest()[:16]

    def rows(self) -> dict[str, dict]:
        """The latest line of each prompt for this judge. An incomplete last line, left by a kill, is skipped."""
        rows = {}
        for path in sorted(self.folder.glob(f"{self.spec.name}-*.jsonl")):
            for line in path.read_text("utf-8").splitlines():
                try:
                    row = json.loads(line)
                except json.JSONDecodeError:
                    continue
                if row.get("judge") == self._identity:
                    rows[row["item"]] = row
        return rows

    def add(self, item: Item, pictures: str, scores: Scores, details: list) -> None:
        row = {"item": item.key, "pictures": pictures, "judge": self._identity, "scores": scores, "details": details}
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self._path, "a+b") as file:
            if file.tell() and _last_byte(file) != b"\n":  # a kill left half a line
                file.write(b"\n")
            file.write((json.dumps(row) + "\n").encode())


def _last_byte(file) -> bytes:
    file.seek(-1, 2)
    return file.read(1)


def digest(benchmark: Benchmark, folder: Path, item: Item) -> str:
    """A hash of a prompt's image files."""
    sha256 = hashlib.sha256()
    for file in benchmark.files(item):
        sha256.update((folder / file.path).read_bytes())
    return sha256.hexdigest()[:16]


def judge_pictures(
    benchmark: Benchmark, folders: dict[str, Path], scores: Path, spec: JudgeSpec
) -> dict[str, dict[str, dict]]:
    """The rows of a judge by method and prompt. First scores everything that is missing; each process takes a share.

    Args:
        folders: of the images, by method.
        scores: the folder for scores, with a folder for each method.
    """
    stores = {method: ScoreStore(scores / method, spec) for method in folders}
    items = [item for item in benchmark.items if spec.judges(item)]
    todo: list[tuple[str, Item, str]] = []
    for method, folder in folders.items():
        rows = stores[method].rows()
        for item in items[processes.rank() :: processes.count()]:
            now = digest(benchmark, folder, item)
            if rows.get(item.key, {}).get("pictures") != now:
                todo.append((method, item, now))
    processes.gather(None)  # nobody writes while another still reads
    if todo:
        judge = spec.load()
        for method, item, now in tqdm(todo, desc=spec.name, disable=processes.rank() > 0):
            found, details = judge(item, read(benchmark, folders[method], item))
            stores[method].add(item, now, found, details)
    processes.gather(None)
    wanted: Sequence[str] = [item.key for item in items]
    return {method: {key: rows[key] for key in wanted} for method, rows in ((m, s.rows()) for m, s in stores.items())}
