"""`python -m train.evaluate --benchmark …` on a tiny pipeline: official layouts, broken folders mended, scores."""

import json
import os
import re
import signal
import socket
import time
from pathlib import Path

import forks
import pytest
from conftest import randomized
from PIL import Image, PngImagePlugin
from tiny_judges import save_judges
from tiny_pipelines import tiny_pipeline

from hypernoise_core import LoraHypernetwork, load_generator
from hypernoise_core.evaluation import detector as detector_module
from train import evaluate, generate
from train.cli import parse, run_command
from train.evaluation import published, t2i_compbench
from train.evaluation.run import load_benchmark

ROOT = Path(__file__).parents[1]
REAL = ROOT.parent / "shared" / "prompts"

METADATA = [
    {"tag": "single_object", "include": [{"class": "dog", "count": 1}], "prompt": "a photo of a dog"},
    {
        "tag": "counting", "include": [{"class": "dog", "count": 2}], "exclude": [{"class": "dog", "count": 3}],
        "prompt": "a photo of two dogs",
    },
    {
        "tag": "color_attr",
        "include": [
            {"class": "dog", "count": 1, "color": "red"}, {"class": "computer mouse", "count": 1, "color": "blue"},
        ],
        "prompt": "a photo of a red dog and a blue computer mouse",
    },
    {"tag": "single_object", "include": [{"class": "cat", "count": 1}], "prompt": "a photo of a cat"},
]  # fmt: skip

QUESTIONS = """item_id,text,keywords,proposition_id,dependency,category_broad,tuple,question_natural_language
b,"A red car, and a dog.",,1,0,entity,entity - whole (car),Is there a car?
b,"A red car, and a dog.",,2,1,attribute,"attribute - color (car, red)",Is the car red?
a,A bench.,,1,0,entity,entity - whole (bench),Is there a bench?
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a toy SD-Turbo, an adapter for it, judges and prompts."""
    folder = tmp_path_factory.mktemp("place")
    tiny_pipeline("sd-turbo").save_pretrained(folder / "toy")
    f = randomized(LoraHypernetwork(load_generator(str(folder / "toy")), rank=4, alpha=8), scale=0.1)
    f.save(folder / "mine.safetensors")
    save_judges(folder)
    prompts = folder / "prompts"
    prompts.mkdir()
    (prompts / "evaluation_metadata.jsonl").write_text("\n".join(map(json.dumps, METADATA)))
    for category in t2i_compbench.CATEGORIES:
        (prompts / f"{category}_val.txt").write_text(f"a red car and a {category.replace('_', '-')} dog.\na bench\t7\n")
    (prompts / "dpg_bench.csv").write_text(QUESTIONS)
    return folder


@pytest.fixture(autouse=True)
def small(monkeypatch, place):
    monkeypatch.setattr(detector_module, "SHORT_SIDE", 64)
    monkeypatch.setattr(t2i_compbench, "load_noun_phrases", lambda: lambda prompt: prompt.rstrip(".").split(" and "))


def line(place, benchmark, folder, *more, adapter=True, prompts=None):
    """A command line; pictures alone unless `more` says otherwise."""
    own = [
        f"--benchmark={benchmark}", f"--model={place / 'toy'}", f"--prompts_dir={prompts or place / 'prompts'}",
        f"--save_dir={folder}", f"--detector={place / 'detector'}", f"--clip={place / 'clip'}",
        f"--clip_score={place / 'clip'}", f"--vqa={place / 'blip'}", f"--dino={place / 'dino'}",
    ]  # fmt: skip
    return [*own, *([f"--adapter={place / 'mine.safetensors'}"] if adapter else []), *more]


def files(folder):
    """Everything under a folder, by path."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def run(argv):
    evaluate.main(argv)


def test_geneval_in_its_layout_scored_and_reported(place, tmp_path, capsys):
    run(line(place, "geneval", tmp_path, "--samples=2", "--rewards=redness", "--diversity=pixels,dinov2"))
    wanted = {"metadata.jsonl", "grid.png", "samples/0000.png", "samples/0001.png"}
    for method in ("base-1", "hypernoise-1"):
        assert set(files(tmp_path / method)) == {f"{i:05d}/{name}" for i in range(4) for name in wanted}
        for index, row in enumerate(METADATA):
            assert json.loads((tmp_path / method / f"{index:05d}/metadata.jsonl").read_text()) == row
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["scores"]) == {"geneval", "redness", "diversity_pixels", "diversity_dinov2"}
    geneval = report["scores"]["geneval"]
    # the toy detector is unsure of its masks, and sees a dog in everything
    assert geneval["methods"]["base-1"]["categories"] == {"single_object": 0.5, "counting": 0.0, "color_attr": 0.0}
    assert geneval["methods"]["base-1"]["overall"] == pytest.approx(1 / 6)
    assert geneval["differences"]["hypernoise-1"]["overall"]["difference"] == 0
    redness = report["scores"]["redness"]
    means = redness["methods"]
    difference = redness["differences"]["hypernoise-1"]["overall"]
    assert difference["difference"] == pytest.approx(means["hypernoise-1"]["overall"] - means["base-1"]["overall"])
    assert difference["low"] <= difference["difference"] <= difference["high"]
    official = [json.loads(line) for line in (tmp_path / "base-1-results.jsonl").read_text().splitlines()]
    assert len(official) == 8
    assert set(official[0]) == {"filename", "tag", "prompt", "correct", "reason", "metadata", "details"}
    assert [row["correct"] for row in official] == [True, True] + [False] * 6
    page = (tmp_path / "report.md").read_text()
    assert "not comparable" in page
    assert "| hypernoise-1 − base-1 |" in page
    assert page in capsys.readouterr().out


def test_every_picture_is_the_generator_s_own_from_its_recorded_seed(place, tmp_path):
    run(line(place, "geneval", tmp_path, "--samples=2", "--score=false", "--seed=7", "--steps=1,2"))
    generator = load_generator(str(place / "toy"))
    adapter = LoraHypernetwork.load(generator, place / "mine.safetensors")
    recorded = [json.loads(row) for row in (tmp_path / "seeds.jsonl").read_text().splitlines()]
    assert [row["seeds"] for row in recorded] == [[7 + i] for i in range(8)]
    for method, own, steps in (("base-1", None, 1), ("hypernoise-2", adapter, 2)):
        for row in recorded[::3]:
            conditioning = generator.encode([row["prompt"]])
            _, made = generate.make_pictures(generator, own, conditioning, row["seeds"], steps=steps)
            with Image.open(tmp_path / method / row["file"]) as image:
                assert json.loads(image.info["hypernoise"]) == {"prompt": row["prompt"], "seeds": row["seeds"]}
                assert list(image.tobytes()) == (made[0] * 255).round().byte().permute(1, 2, 0).flatten().tolist()


def test_t2i_compbench_in_its_layout(place, tmp_path):
    run(line(place, "t2i-compbench", tmp_path, "--samples=2", "--diversity="))
    for offset, category in enumerate(t2i_compbench.CATEGORIES):
        names = sorted(p.name for p in (tmp_path / "base-1" / category / "samples").iterdir())
        prompt = f"a red car and a {category.replace('_', '-')} dog."
        assert names == sorted([f"{prompt}_{i:06d}.png" for i in (0, 1)] + [f"a bench_{i:06d}.png" for i in (2, 3)])
        # as the official scorers read them
        assert sorted(names, key=lambda n: int(n.split("_")[-1].split(".")[0]))[0].split("_")[0] == prompt
        first = next(r for r in map(json.loads, (tmp_path / "seeds.jsonl").open()) if r["file"].startswith(category))
        assert first["seeds"] == [2000 * offset]
    scores = json.loads((tmp_path / "report.json").read_text())["scores"]
    assert set(scores["blip_vqa"]["methods"]["base-1"]["categories"]) == {"color", "shape", "texture"}
    assert set(scores["clip_score"]["methods"]["base-1"]["categories"]) == {"non_spatial"}
    assert 0 < scores["blip_vqa"]["methods"]["base-1"]["overall"] < 1
    # categories by name: the same seeds and pictures
    other = tmp_path / "other"
    run(line(place, "t2i-compbench", other, "--samples=2", "--categories=texture", "--score=false", adapter=False))
    assert files(other / "base-1") == {n: c for n, c in files(tmp_path / "base-1").items() if n.startswith("texture")}


def test_dpg_bench_in_its_layout(place, tmp_path):
    run(line(place, "dpg-bench", tmp_path, "--diversity="))
    assert set(files(tmp_path / "base-1")) == {"a.png", "b.png"}
    with Image.open(tmp_path / "base-1" / "b.png") as image:
        assert image.size == (64, 64)
        assert json.loads(image.info["hypernoise"])["seeds"] == [4, 5, 6, 7]
        cell = image.crop((32, 0, 64, 32))  # the second is to the right of the first
    generator = load_generator(str(place / "toy"))
    _, made = generate.make_pictures(generator, None, generator.encode(["A red car, and a dog."]), [5])
    assert list(cell.tobytes()) == (made[0] * 255).round().byte().permute(1, 2, 0).flatten().tolist()
    scores = json.loads((tmp_path / "report.json").read_text())["scores"]
    assert set(scores) == {"dpg", "dpg, entity alone", "dpg, attribute alone"}
    assert scores["dpg, attribute alone"]["methods"]["base-1"]["prompts"] == 1
    # a folder with a text file each gives the same prompts, seeds and pictures; there are no questions in it
    texts = tmp_path / "texts" / "dpg_bench"
    texts.mkdir(parents=True)
    (texts / "a.txt").write_text("A bench.")
    (texts / "b.txt").write_text("A red car, and a dog.\n")
    run(line(place, "dpg-bench", tmp_path / "o", "--score=false", "--diversity=", adapter=False, prompts=texts.parent))
    pictures = files(tmp_path / "base-1")
    assert files(tmp_path / "o" / "base-1") == pictures
    with pytest.raises(ValueError, match=r"no questions for 2 prompts, such as a: put https://\S*dpg_bench.csv"):
        run(line(place, "dpg-bench", tmp_path / "p", prompts=texts.parent))


def break_things(folder):
    """What a crash, a full disk or a person leaves; returns what must be told of it."""
    whole = (folder / "00000/samples/0000.png").read_bytes()
    (folder / "00000/samples/0000.png").write_bytes(whole[: len(whole) // 2])
    (folder / "00000/samples/0001.png").write_bytes(b"no picture")
    for path in (folder / "00001").rglob("*"):
        if path.is_file():
            path.unlink()
    (folder / "00002/metadata.jsonl").write_text('{"tag": "single_object"')
    (folder / "00003/samples/0001.png").write_bytes((folder / "00003/samples/0000.png").read_bytes())
    (folder / "00002/samples/.0001-abc_1234.png").write_bytes(whole[:99])  # a kill in the middle of a write
    (folder / "00002/samples/notes.txt").write_text("mine")
    return {
        "2 missing", "2 broken or truncated (such as 00000/samples/0000.png)",
        "1 of another prompt or seed (such as 00003/samples/0001.png)",
        "1 metadata.jsonl missing or wrong (such as 00002/metadata.jsonl)", "3 files complete",
    }  # fmt: skip


def test_a_broken_folder_is_reported_and_mended(place, tmp_path, capsys):
    argv = line(place, "geneval", tmp_path, "--samples=2", "--diversity=")
    run(argv)
    before = files(tmp_path)
    told = break_things(tmp_path / "base-1")
    capsys.readouterr()
    run(argv)
    out = capsys.readouterr().out
    assert all(words in out for words in told), out
    assert re.search(r"1 files do not belong among the images, such as \S*notes.txt", out)
    (tmp_path / "base-1/00002/samples/notes.txt").unlink()
    after = files(tmp_path)
    assert {n: c for n, c in after.items() if n.endswith((".png", "metadata.jsonl"))} == {
        n: c for n, c in before.items() if n.endswith((".png", "metadata.jsonl"))
    }
    report = json.loads(after["report.json"])
    assert report["pictures"]["base-1"] == "8 files of 4 prompts, 5 images made in this run"
    assert report["pictures"]["hypernoise-1"] == "8 files of 4 prompts, 0 images made in this run"
    assert report["scores"] == json.loads(before["report.json"])["scores"]


def test_what_is_scored_is_not_scored_again_unless_it_changed(place, tmp_path, monkeypatch):
    argv = line(place, "geneval", tmp_path, "--samples=2", "--diversity=", adapter=False)
    run(argv)
    scored = tmp_path / "scores/base-1/geneval-0.jsonl"
    whole = scored.read_text()
    looked = []
    detect = detector_module.Mask2FormerDetector.detect
    monkeypatch.setattr(
        detector_module.Mask2FormerDetector, "detect", lambda self, image: looked.append(1) or detect(self, image)
    )
    run(argv)
    assert not looked
    scored.write_text(whole[:-30])  # a kill in the middle of a line
    run(argv)
    assert len(looked) == 2
    kept = [json.loads(row) for row in scored.read_text().splitlines() if row.endswith("}")]
    assert {row["item"]: row for row in kept} == {row["item"]: row for row in map(json.loads, whole.splitlines())}
    path = tmp_path / "base-1/00001/samples/0000.png"
    image = Image.open(path)
    image.load()
    info = PngImagePlugin.PngInfo()
    info.add_itxt("hypernoise", image.info["hypernoise"])
    Image.new("RGB", image.size, "red").save(path, pnginfo=info)  # another picture under the same label
    looked.clear()
    run(argv)
    assert len(looked) == 2
    looked.clear()
    run([*argv, f"--clip={place / 'clip'}/"])  # another judge, as far as one can tell
    assert len(looked) == 8


def test_more_prompts_and_steps_later_keep_what_is_there(place, tmp_path, capsys):
    argv = line(place, "geneval", tmp_path, "--samples=2", "--score=false", "--diversity=", adapter=False)
    run([*argv, "--limit=1"])
    assert sorted(p.name for p in (tmp_path / "base-1").iterdir()) == ["00000", "00001", "00002"]
    before = files(tmp_path / "base-1")
    run([*argv, "--steps=1,2"])
    assert before.items() <= files(tmp_path / "base-1").items()
    assert "2 images made" in json.loads((tmp_path / "report.json").read_text())["pictures"]["base-1"]
    assert len(files(tmp_path / "base-2")) == 16
    run([*argv, "--limit=1", f"--adapter={place / 'mine.safetensors'}"])  # an adapter joins the base's pictures
    assert before.items() <= files(tmp_path / "base-1").items()
    assert len(list((tmp_path / "hypernoise-1").iterdir())) == 3
    run(argv)  # and is left out again
    generator = load_generator(str(place / "toy"))
    LoraHypernetwork(generator, rank=4, alpha=8).save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"with --adapter 'sha256 .*, but it is now 'sha256 "):
        run([*argv, f"--adapter={tmp_path / 'other.safetensors'}"])
    with pytest.raises(ValueError, match=r"with --strength 1\.0, but it is now 0\.5"):
        run([*argv, f"--adapter={place / 'mine.safetensors'}", "--strength=0.5"])
    with pytest.raises(ValueError, match="with --iterations 1, but it is now 2"):
        run([*argv, f"--adapter={place / 'mine.safetensors'}", "--iterations=2"])
    for wrong, words in {
        "--seed=1": "with --seed 0, but it is now 1",
        "--samples=3": "with --samples 2, but it is now 3",
    }.items():
        with pytest.raises(ValueError, match=words):
            run([*argv, wrong])


def test_a_file_that_was_trained_for_more_readings_says_so(place, tmp_path, capsys):
    f = LoraHypernetwork(load_generator(str(place / "toy")), rank=4, alpha=8)
    f.iterations = 3
    f.save(tmp_path / "more.safetensors")
    argv = line(place, "geneval", tmp_path / "out", "--samples=1", "--limit=1", "--score=false", adapter=False)
    run([*argv, f"--adapter={tmp_path / 'more.safetensors'}", "--steps=1,2"])
    assert capsys.readouterr().out.count("was trained for --iterations 3; it is used with the default --iter") == 1


@pytest.mark.slow
def test_killed_while_it_works_it_ends_as_if_left_alone(place, tmp_path):
    """SIGKILL after the first pictures."""
    more = ("--samples=4", "--steps=4", "--score=false", "--diversity=")
    alone, killed = tmp_path / "alone", tmp_path / "killed"
    log = tmp_path / "log.txt"
    process = forks.start(log, run, line(place, "geneval", killed, *more))
    deadline = time.monotonic() + 300
    while len(list(killed.glob("base-4/*/samples/0*.png"))) < 3:
        assert forks.running(process), log.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    assert forks.wait(process) == -signal.SIGKILL
    assert not (killed / "report.json").exists()
    run(line(place, "geneval", alone, *more))
    run(line(place, "geneval", killed, *more))
    for method in ("base-4", "hypernoise-4"):
        assert files(killed / method) == files(alone / method)
    told = json.loads((killed / "report.json").read_text())["pictures"]["base-4"]
    assert int(re.search(r"(\d+) images made", told)[1]) <= 13


def test_two_processes_share_the_work(place, tmp_path):
    """Gloo on the CPU, in the environment that `accelerate launch` sets up."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    two, one = tmp_path / "two", tmp_path / "one"
    more = ("--samples=2", "--rewards=redness", "--score=false")
    logs = [tmp_path / f"log-{rank}.txt" for rank in (0, 1)]
    workers = [
        forks.start(
            logs[rank], run, line(place, "geneval", two, *more),
            WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank), MASTER_ADDR="localhost", MASTER_PORT=port,
        )
        for rank in (0, 1)
    ]  # fmt: skip
    codes = [forks.wait(worker) for worker in workers]
    outputs = [log.read_text() for log in logs]
    assert codes == [0, 0], outputs
    assert "# geneval" in outputs[0]
    assert "# geneval" not in outputs[1]
    run(line(place, "geneval", one, *more))
    for method in ("base-1", "hypernoise-1"):
        assert files(two / method) == files(one / method)
        shares = [(two / "scores" / method / f"rewards-{rank}.jsonl").read_text().splitlines() for rank in (0, 1)]
        assert [len(share) for share in shares] == [2, 2]
    reports = [json.loads((folder / "report.json").read_text()) for folder in (one, two)]
    assert reports[0]["scores"] == reports[1]["scores"]
    assert reports[0]["pictures"] == reports[1]["pictures"]


def test_prompts_are_downloaded_by_name_once(place, tmp_path, monkeypatch):
    monkeypatch.setitem(published.URLS, "evaluation_metadata.jsonl", (place / "prompts").as_uri() + "/")
    argv = line(place, "geneval", tmp_path, "--samples=1", "--score=false", adapter=False)
    argv = [word for word in argv if not word.startswith("--prompts_dir")]
    run(argv)
    assert len(list((tmp_path / "base-1").iterdir())) == 4
    monkeypatch.setitem(published.URLS, "evaluation_metadata.jsonl", (place / "nowhere").as_uri() + "/")
    run(argv)  # it is there already
    with pytest.raises(
        ValueError, match=r"cannot be downloaded .*: download file\S* and pass its folder with --prompts_dir"
    ):
        run([word if not word.startswith("--save_dir") else f"--save_dir={tmp_path / 'new'}" for word in argv])
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").rglob("*.*"))


def test_the_commands_in_the_docs_are_understood():
    told = [(ROOT / page).read_text() for page in ("README.md", "docs/evaluation.md")] + [evaluate.__doc__]
    lines = [
        words.split(" #")[0]
        for text in told
        for words in re.findall(r"-m train\.evaluate ?(.*)", text.replace("\\\n", " "))
        if words.startswith("--benchmark") or words.startswith("--steps") or words.startswith("--adapter")
    ]
    assert len(lines) >= 8
    for words in lines:
        parse(evaluate.EvaluateArguments, "evaluate", "", words.split())


COUNTS = {"geneval": 553, "t2i-compbench": 2400, "dpg-bench": 1065}


@pytest.mark.parametrize("benchmark", COUNTS)
def test_the_real_prompts_go_through_generation(place, tmp_path, benchmark):
    if not REAL.is_dir():
        pytest.skip(f"the published prompt sets are not at {REAL}")
    argv = line(place, benchmark, tmp_path, "--score=false", "--samples=2", "--limit=2", adapter=False, prompts=REAL)
    args = parse(evaluate.EvaluateArguments, "evaluate", "", argv)
    everything = load_benchmark(args)
    assert len(everything.every) == COUNTS[benchmark]
    paths = [file.path for item in everything.every for file in everything.files(item)]
    seeds = [seed for item in everything.every for seed in everything.seeds(item)]
    assert len(set(paths)) == len(paths)
    assert len(set(seeds)) == len(seeds) == 2 * COUNTS[benchmark]
    run(argv)
    report = json.loads((tmp_path / "report.json").read_text())
    categories = {"geneval": 6, "t2i-compbench": 8, "dpg-bench": 1}[benchmark]
    assert report["prompts"] == 2 * categories
    made = [p for p in files(tmp_path / "base-1") if p.endswith(".png") and "grid" not in p]
    assert len(made) == report["prompts"] * (1 if benchmark == "dpg-bench" else 2)


WRONG = {
    "no prompts there": ("geneval", ["--prompts_dir=judges"], "without evaluation_metadata.jsonl: download https"),
    "no such folder": ("geneval", ["--prompts_dir=nowhere"], "'nowhere', which is not a folder"),
    "a wrong line": ("geneval", ["--prompts_dir=wrong"], "line 2 of wrong/evaluation_metadata.jsonl"),
    "no such category": ("geneval", ["--categories=poems"], "'poems'"),
    "no such category of the other": ("t2i-compbench", ["--categories=poems"], "'poems'"),
    "a prompt that is no file name": ("t2i-compbench", ["--prompts_dir=wrong", "--categories=color"], "'red/green'"),
    "not the table": ("dpg-bench", ["--prompts_dir=wrong"], "no column 'proposition_id'"),
    "five in a grid": ("dpg-bench", ["--samples=5"], "--samples 1 to 4"),
    "no detector": ("geneval", ["--detector=nowhere"], "--detector cannot be loaded from 'nowhere'"),
    "a CLIP for a BLIP": ("dpg-bench", ["--vqa={place}/clip"], "a clip model; give one of kind blip"),
    "diversity": ("geneval", ["--diversity=beauty"], "'beauty'"),
    "nobody's folder": ("geneval", ["--save_dir=judges"], "is not empty and holds no evaluation"),
    "limit": ("geneval", ["--limit=0"], "--limit is 0"),
    "embedded for another model": ("embedded", [], "--benchmark embedded is for the embedded model"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_values_end_in_one_line_and_write_nothing(place, tmp_path, monkeypatch, capsys, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "judges").mkdir()
    (tmp_path / "judges/x").touch()
    (tmp_path / "wrong").mkdir()
    (tmp_path / "wrong/evaluation_metadata.jsonl").write_text(json.dumps(METADATA[0]) + '\n{"tag": "counting"}\n')
    (tmp_path / "wrong/color_val.txt").write_text("red/green\n")
    (tmp_path / "wrong/dpg_bench.csv").write_text("item_id,text\n")
    before = sorted(tmp_path.rglob("*"))
    benchmark, more, words = WRONG[case]
    more = [word.format(place=place) for word in more]
    code = run_command(evaluate.main, "evaluate", [*line(place, benchmark, "new"), *more])
    error = capsys.readouterr().err
    assert code == 2
    said = [row for row in error.splitlines() if "error:" in row]
    assert len(said) == 1
    assert words in said[0]
    assert sorted(tmp_path.rglob("*")) == before
