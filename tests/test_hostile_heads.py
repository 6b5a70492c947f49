"""Damaged and hostile head files: each loads whole or is refused in one line that names the file."""

import json
import os
import pickle
import random
import struct

import psutil
import pytest
import torch
from conftest import randomized, randomized_head
from safetensors.torch import load_file, save_file
from test_hostile_files import DAMAGE_TO_BYTES, HUGE, Code, metadata, poisoned
from tiny_pipelines import tiny_generator

from hypernoise_core import FineTunedDenoiser, HeadHypernetwork, LoraHypernetwork, load_hypernetwork
from hypernoise_core.hypernetworks.head_file import LARGEST


@pytest.fixture(scope="module")
def generator():
    return tiny_generator("sana-sprint")


@pytest.fixture(scope="module")
def originals(generator, tmp_path_factory):
    """A good head and a good file of each kind of LoRA."""
    folder = tmp_path_factory.mktemp("good")
    randomized_head(HeadHypernetwork.new(generator, width=32, depth=1)).save(folder / "head.safetensors", rewards="x")
    randomized(LoraHypernetwork(generator, rank=2)).save(folder / "lora.safetensors")
    randomized(FineTunedDenoiser(generator, rank=2)).save(folder / "finetuned.safetensors")
    return folder


@pytest.fixture
def bad(tmp_path):
    return tmp_path / "bad.safetensors"


def refusal(load, generator, path):
    """What is said of a file, or None where it loads whole."""
    try:
        head = load(generator, path)
    except ValueError as error:
        said = str(error)
        assert str(path) in said
        assert "\n" not in said
        assert said.isprintable()
        assert len(said) < 1000
        return said
    assert isinstance(head, HeadHypernetwork)
    assert all(parameter.isfinite().all() for parameter in head.parameters())
    return None


def refused(generator, path):
    """Refused in the same words by the loader of every kind and by the head's own where it is no head of another."""
    said = refusal(load_hypernetwork, generator, path)
    assert said
    assert refusal(HeadHypernetwork.load, generator, path)
    return said


def test_the_original_is_fine(generator, originals):
    assert refusal(load_hypernetwork, generator, originals / "head.safetensors") is None


@pytest.mark.parametrize("share", range(12))
def test_truncated_anywhere(generator, originals, bad, share):
    data = (originals / "head.safetensors").read_bytes()
    bad.write_bytes(data[: len(data) * share // 11 - (share == 11)])
    assert "not a complete safetensors file" in refused(generator, bad)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("damage", DAMAGE_TO_BYTES)
def test_damaged_bytes(generator, originals, bad, damage, seed):
    data = (originals / "head.safetensors").read_bytes()
    bad.write_bytes(DAMAGE_TO_BYTES[damage](data, random.Random(f"{damage} {seed}")))
    said = refusal(load_hypernetwork, generator, bad)
    assert said or damage not in ("cut", "header length", "appended", "noise")


SHAPE = ["head_channels", "head_features", "head_width", "head_depth", "head_patch", "head_feature_cell"]
NUMBERS = [*SHAPE, "latent_channels", "latent_scale", "latent_scaling", "iterations", "coarsen"]
GARBAGE = [
    "",
    "0",
    "-1",
    "nan",
    "inf",
    "1e999",
    HUGE,
    "9" * 5000,
    "-" + "9" * 4000,
    "four",
    "1.5",
    "0x10",
    "\0",
    "é" * 300,
]


@pytest.mark.parametrize("value", GARBAGE, ids=lambda value: value[:8])
@pytest.mark.parametrize("field", NUMBERS)
def test_numbers_that_lie(generator, originals, bad, field, value):
    rewrite(originals / "head.safetensors", bad, header={field: value})
    assert refused(generator, bad)


@pytest.mark.parametrize("field", SHAPE)
def test_numbers_that_could_be_true(generator, originals, bad, field):
    """One more, twice as many, the largest allowed and one above: what they promise is not in the file."""
    good = originals / "head.safetensors"
    own = int(metadata(good)[f"hypernoise.{field}"])
    for value in (own + 1, own * 2, own + 16, LARGEST[field.removeprefix("head_")], LARGEST[field[5:]] + 1):
        rewrite(good, bad, header={field: str(value)})
        refused(generator, bad)


@pytest.mark.parametrize("field", [*NUMBERS, "generator", "family", "format", "kind"])
def test_a_field_that_is_missing(generator, originals, bad, field):
    rewrite(originals / "head.safetensors", bad, without=field)
    assert refused(generator, bad)


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"format": "2"}, "another HyperNoise format than 1"),
        ({"kind": "tree\n" * 50}, "this version does not know"),
        ({"kind": "noise"}, "no HyperNoise"),
        ({"kind": "finetune"}, "fine-tuned"),
        ({"family": "flux"}, "features, which mean something else"),
        ({"family": "a\nb\0c\x1b[31m" * 99}, "features, which mean something else"),
        ({"generator": "a\nb\0c" * 99, "family": "flux"}, "does not fit tiny-sana-sprint"),
        ({"latent_scale": "8"}, "4 channels at 1/8, scaled by 0.41407, this model's 4 channels at 1/4"),
        ({"latent_scaling": "0.5"}, "scaled by 0.5"),
        ({"iterations": "1001"}, "iterations is not from 1 to 1000"),
        ({"coarsen": "65"}, "coarsen is not from 1 to 64"),
        ({"head_width": "50"}, "width 50"),
    ],
    ids=str,
)
def test_what_is_said_of_it(generator, originals, bad, header, words):
    rewrite(originals / "head.safetensors", bad, header=header)
    assert words in refused(generator, bad)


def rewrite(good, bad, tensors=None, header=None, without=None):
    """A good file with other tensors or another header."""
    described = {**metadata(good), **{f"hypernoise.{key}": value for key, value in (header or {}).items()}}
    described.pop(f"hypernoise.{without}", None)
    save_file(load_file(good) if tensors is None else tensors, bad, described)


DAMAGE = {
    "integers": lambda w, k, rng: {**w, k: torch.ones(w[k].shape, dtype=torch.int8)},
    "booleans": lambda w, k, rng: {**w, k: torch.ones(w[k].shape, dtype=torch.bool)},
    "complex": lambda w, k, rng: {**w, k: w[k].to(torch.complex64)},
    "eight bits": lambda w, k, rng: {**w, k: w[k].to(torch.float8_e4m3fn)},
    "another width": lambda w, k, rng: {**w, k: torch.cat([w[k], w[k]])},
    "turned": lambda w, k, rng: {**w, k: w[k][None].transpose(0, -1).contiguous()},
    "flat": lambda w, k, rng: {**w, k: torch.cat([w[k].flatten(), torch.zeros(1)])},
    "a scalar": lambda w, k, rng: {**w, k: torch.tensor(1.0)},
    "fifty dimensions": lambda w, k, rng: {**w, k: w[k].view(*[1] * 50, *w[k].shape)},
    "empty": lambda w, k, rng: {**w, k: w[k][:0]},
    "not a number": lambda w, k, rng: {**w, k: poisoned(w[k], rng, float("nan"))},
    "infinite": lambda w, k, rng: {**w, k: poisoned(w[k].half(), rng, -float("inf"))},
    "beyond float32": lambda w, k, rng: {**w, k: poisoned(w[k].double(), rng, 1e300)},
    "missing": lambda w, k, rng: {name: tensor for name, tensor in w.items() if name != k},
    "extra": lambda w, k, rng: {**w, rng.choice(["more", "..", "", k + "\n", "é" * 999, "lora_A"]): w[k]},
    "renamed": lambda w, k, rng: {"trunk." + name: tensor for name, tensor in w.items()},
    "nothing": lambda w, k, rng: {},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_tensors(generator, originals, bad, damage, seed):
    good, rng = originals / "head.safetensors", random.Random(f"{damage} {seed}")
    weights = load_file(good)
    tensors = DAMAGE[damage](weights, rng.choice(sorted(weights)), rng)
    rewrite(good, bad, {name: tensor.clone().contiguous() for name, tensor in tensors.items()})
    assert refused(generator, bad)


def pointer(path):
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:" + "0" * 64 + "\nsize 12345\n")


STRANGERS = {
    "empty": lambda path: path.write_bytes(b""),
    "a git-lfs pointer": pointer,
    "a page": lambda path: path.write_text("<html>404</html>"),
    "a pickle": lambda path: path.write_bytes(pickle.dumps(Code(os.system, "exit 1"), 2)),
    "torch's own": lambda path: torch.save({"out.weight": torch.zeros(1)}, path),
    "no tensors": lambda path: save_file({}, path),
    "a stranger's": lambda path: save_file({"out.weight": torch.zeros(1)}, path),
    "a directory": lambda path: path.mkdir(),
    "nothing at all": lambda path: None,
    "a link to nothing": lambda path: path.symlink_to("nowhere.safetensors"),
}


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
@pytest.mark.parametrize("stranger", STRANGERS)
def test_files_of_strangers(generator, tmp_path, stranger, suffix):
    path = tmp_path / f"bad{suffix}"
    STRANGERS[stranger](path)
    assert refused(generator, path)


def test_one_kind_in_anothers_place(generator, originals):
    good = {kind: originals / f"{kind}.safetensors" for kind in ("head", "lora", "finetuned")}
    assert "is no HyperNoise head: its header says kind 'noise'" in refusal(
        HeadHypernetwork.load, generator, good["lora"]
    )
    assert "kind 'finetune'" in refusal(HeadHypernetwork.load, generator, good["finetuned"])
    assert "fine-tuned into its generator" in refusal(load_hypernetwork, generator, good["finetuned"])
    for kind in (LoraHypernetwork, FineTunedDenoiser):
        assert "is a HyperNoise head" in refusal(kind.load, generator, good["head"])


@pytest.mark.parametrize("weights_of", ["head", "lora"])
def test_one_kinds_header_on_anothers_weights(generator, originals, bad, weights_of):
    other = {"head": "lora", "lora": "head"}[weights_of]
    save_file(load_file(originals / f"{weights_of}.safetensors"), bad, metadata(originals / f"{other}.safetensors"))
    assert refusal(load_hypernetwork, generator, bad)


def test_no_memory_is_taken_for_what_a_file_claims(generator, originals, bad):
    """The largest head that a header may ask for, and 8 GB of weights that the disk does not hold (a sparse file)."""
    good, process = originals / "head.safetensors", psutil.Process()
    before = process.memory_info().rss
    rewrite(good, bad, header={"head_width": str(LARGEST["width"]), "head_depth": str(LARGEST["depth"])})
    refused(generator, bad)
    header = {
        "__metadata__": metadata(good),
        "out.bias": {"dtype": "F32", "shape": [2**31], "data_offsets": [0, 2**33]},
    }
    text = json.dumps(header).encode()
    with open(bad, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 2**33)
    refused(generator, bad)
    assert process.memory_info().rss - before < 100 * 2**20
