"""Prompts from every kind of file, mixed, compared; the real published sets where they are at hand."""

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from hypernoise_core.batch import TensorBatch
from hypernoise_core.embedded.prompts import CATEGORIES, prompts
from hypernoise_core.prompt_sets import PromptMix, PromptSet, read_prompts
from hypernoise_core.training.encoded import CHUNK, EncodedPrompts
from hypernoise_core.training.order import PromptOrder
from train.prompts import load_mix

REAL = Path(__file__).parents[2] / "shared" / "prompts"
WANTED = ["a red cat", "two, dogs"]


@pytest.fixture
def real():
    if not REAL.is_dir():
        pytest.skip(f"the published prompt sets are not at {REAL}")
    return str(REAL)


FILES = {
    "a.txt": "a red cat\n\n  two, dogs  \n",
    "list.json": json.dumps(WANTED),
    "object.json": json.dumps({"1": "a red cat", "2": "two, dogs"}),
    "objects.json": json.dumps([{"prompt": p} for p in WANTED]),
    "a.jsonl": '{"tag": 1, "prompt": "a red cat"}\n\n{"prompt": "two, dogs"}\n',
    "a.csv": 'id,caption\n1,a red cat\n2,"two, dogs"\n',
    "a.tsv": "id\tprompt\n1\ta red cat\n2\ttwo, dogs\n",
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_prompts(tmp_path, name, encoding):
    (tmp_path / name).write_text(FILES[name], encoding)
    assert read_prompts(tmp_path / name) == WANTED


WITH_GAPS = {
    "a.csv": 'id,caption\n1,a red cat\n2,"two, dogs"\n3,\n4\n',
    "a.jsonl": '{"prompt": "a red cat"}\n{"prompt": null}\n\n{"prompt": " "}\n{"prompt": "two, dogs"}\n',
    "a.json": json.dumps(["a red cat", "", "two, dogs", " "]),
}


@pytest.mark.parametrize("name", WITH_GAPS)
def test_rows_without_a_prompt_are_counted(tmp_path, name):
    (tmp_path / name).write_text(WITH_GAPS[name], "utf-8")
    with pytest.warns(UserWarning, match=rf"{name}: 2 of 4 rows have no prompt"):
        assert read_prompts(tmp_path / name) == WANTED


def test_what_separates_lines_elsewhere_does_not_split_json(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "a\u2028cat"}, ensure_ascii=False) + "\n", "utf-8")
    assert read_prompts(tmp_path / "a.jsonl") == ["a\u2028cat"]


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="pyarrow is an extra ([data])")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"n": [1, 2, 3], "text": [*WANTED, None]}), tmp_path / "a.parquet")
    with pytest.warns(UserWarning, match="1 of 3 rows have no prompt"):
        assert read_prompts(tmp_path / "a.parquet") == WANTED
    parquet.write_table(pyarrow.table({"n": [1, 2], "text": WANTED}), tmp_path / "a.parquet")
    assert read_prompts(tmp_path / "a.parquet") == WANTED
    with pytest.raises(ValueError, match="no column 'caption': name one of n, text"):
        read_prompts(tmp_path / "a.parquet", "caption")


def test_a_hub_dataset(monkeypatch):
    datasets = pytest.importorskip("datasets", reason="datasets is an extra ([data])")
    made = datasets.Dataset.from_dict({"caption": [*WANTED, WANTED[0]]})
    monkeypatch.setattr(
        datasets, "load_dataset", lambda name, split: made if (name, split) == ("o/n", "test") else None
    )
    assert load_mix("hub:o/n@test").texts == WANTED


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.json", "{", "cannot be read"),
        ("a.json", "3", "neither texts nor objects"),
        ("a.csv", "x,y\n1,2\n", "no column with prompts: name one of x, y"),
        ("a.txt", "\n", "is empty"),
        ("a.parquet", "no", "parquet"),
    ],
)
def test_what_is_wrong_is_named(tmp_path, name, content, words):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=words):
        read_prompts(tmp_path / name)


def test_a_mix_from_a_line(tmp_path):
    (tmp_path / "a.csv").write_text(FILES["a.csv"])
    mix = load_mix(f"{tmp_path}/a.csv#id=3, embedded=0.5")
    assert mix.sets[0] == PromptSet(f"{tmp_path}/a.csv#id", ("1", "2"), 3.0)
    assert sum(mix.weights[1:]) == pytest.approx(0.5)
    for wrong, words in {"a.txt=x": "not a number", "poems": "no task 'poems'", "geneval": "djghosh13/geneval"}.items():
        with pytest.raises(ValueError, match=words):
            load_mix(wrong)


def test_duplicates_and_overlap_are_found_and_removed():
    mix = PromptMix((PromptSet("a", ("A cat.", "a dog", "a  cat")), PromptSet("b", ("a DOG", "a bird"))))
    assert mix.duplicates() == ["a  cat", "a DOG"]
    assert mix.overlap(["A bird"]) == ["a bird"]
    with pytest.raises(ValueError, match="prompt set b has no prompts"):
        mix.without(["a bird"])
    assert mix.without(["a cat"]).texts == ["a dog", "a bird"]


def test_one_set_is_gone_through_in_full_each_time():
    order = PromptOrder([5], [1.0], torch.Generator().manual_seed(0))
    drawn = order.next(3) + order.next(7)
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == list(range(5))
    assert drawn[:5] != drawn[5:]


def test_sets_are_mixed_by_their_weights():
    order = PromptOrder([1000, 2], [1.0, 3.0], torch.Generator().manual_seed(0))
    drawn = Counter("small" if row >= 1000 else "large" for row in order.next(4000))
    assert abs(drawn["small"] - 3000) < 4 * (4000 * 0.25 * 0.75) ** 0.5


def test_the_embedded_prompts_are_drawn_by_category():
    mix = load_mix("embedded")
    training = prompts(held_out=False)
    assert sorted(mix.texts) == sorted(prompt.text for prompt in training)
    assert [one.name for one in mix.sets] == [f"embedded-{c.replace('_', '-')}" for c in CATEGORIES]
    assert mix.weights == pytest.approx([1 / 6] * 6)
    more = load_mix("embedded-counting=2,embedded=3")
    assert more.weights == pytest.approx([2, *[0.5] * 6])
    counted = {prompt.text for prompt in training if prompt.category == "counting"}
    assert set(more.sets[0].prompts) == counted


def encode(texts):
    """Texts of several lengths, as a text encoder pads them within a call."""
    longest = max(map(len, texts))
    embeds = torch.zeros(len(texts), longest, 2, dtype=torch.bfloat16)
    for i, text in enumerate(texts):
        embeds[i, : len(text)] = torch.tensor([[ord(c), i] for c in text], dtype=torch.bfloat16)
    return TensorBatch({"embeds": embeds, "mask": embeds[..., 0] > 0, "length": torch.tensor(list(map(len, texts)))})


def test_disk_gives_what_memory_gives_and_encodes_once(tmp_path):
    prompts = ["x" * (1 + i % 17) for i in range(2 * CHUNK + 3)]
    calls = []

    def counting(texts):
        calls.append(len(texts))
        return encode(texts)

    memory, disk = EncodedPrompts(encode, prompts, "cpu"), EncodedPrompts(counting, prompts, "cpu", tmp_path)
    assert sum(calls) == len(prompts) + 1
    again = EncodedPrompts(counting, prompts, "cpu", tmp_path)
    assert sum(calls) == len(prompts) + 2
    rows = [2 * CHUNK, 0, CHUNK - 1, 0]
    for name, tensor in memory.rows(rows).tensors.items():
        assert torch.equal(disk.rows(rows)[name], tensor)
        assert torch.equal(again.rows(rows)[name], tensor)
    other = EncodedPrompts(lambda texts: encode([t + "y" for t in texts]), prompts, "cpu", tmp_path)
    assert not torch.equal(other.rows([0])["length"], disk.rows([0])["length"])


def test_the_references_tasks(real):
    """Their sizes are those of the published files."""
    geneval = load_mix("geneval", real).texts
    assert len(geneval) == 553
    assert geneval[0] == "a photo of a bench"
    assert len(load_mix("example-prompts", real).texts) > 20
    compbench, abc = load_mix("t2i-compbench", real), load_mix("abc-6k", real)
    assert len(compbench.texts) == 7 * 700
    assert len(abc.texts) > 6000
    mix = load_mix("t2i-compbench=2,abc-6k", real)
    assert mix.weights == [2.0, 1.0]
    assert set(mix.texts) == set(compbench.texts) | set(abc.texts)
    clean = mix.without(geneval)
    assert not clean.duplicates()
    assert not clean.overlap(geneval)
    assert len(clean.texts) == len(mix.texts) - len(mix.duplicates()) - len(set(clean.overlap(geneval)))
