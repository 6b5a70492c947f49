"""Damaged and hostile adapter files, generated: each loads whole or is refused in one sentence; no code is run."""

import json
import os
import pickle
import random
import struct

import pytest
import torch
from conftest import randomized
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_pipelines import tiny_generator

from hypernoise_core import LoraHypernetwork
from hypernoise_core.hypernetworks.adapter_file import write_peft_folder


@pytest.fixture(scope="module")
def generator():
    return tiny_generator("sd-turbo")


@pytest.fixture(scope="module")
def originals(generator, tmp_path_factory):
    """A good file and a good PEFT folder with a pickled and a safetensors file in it."""
    folder = tmp_path_factory.mktemp("good")
    f = randomized(LoraHypernetwork(generator, rank=2, alpha=2))
    f.save(folder / "good.safetensors", rewards="redness=1")
    write_peft_folder(folder / "peft", *f.exported())
    torch.save(f.state_dict(), folder / "adapter_model.bin")
    return folder


def loads_whole_or_is_refused(generator, path):
    """The refusal, or None."""
    try:
        f = LoraHypernetwork.load(generator, path)
    except ValueError as error:
        assert str(path) in str(error)
        assert len(str(error)) < 1000
        return str(error)
    assert all(p.isfinite().all() for p in f.parameters())
    return None


def cut(data, rng):
    return data[: rng.randrange(len(data))]


def flip(data, rng, first=0, last=None, count=1):
    changed = bytearray(data)
    for _ in range(count):
        changed[rng.randrange(first, last or len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def header_end(data):
    return 8 + struct.unpack("<Q", data[:8])[0]


DAMAGE_TO_BYTES = {
    "cut": cut,
    "one bit of the header": lambda data, rng: flip(data, rng, 8, header_end(data)),
    "bits of the header": lambda data, rng: flip(data, rng, 8, header_end(data), 20),
    "bits anywhere": lambda data, rng: flip(data, rng, count=50),
    "header length": lambda data, rng: struct.pack("<Q", rng.randrange(2 ** rng.randrange(1, 64))) + data[8:],
    "appended": lambda data, rng: data + rng.randbytes(rng.randrange(1, 100)),
    "noise": lambda data, rng: rng.randbytes(rng.randrange(1000)),
}


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("damage", DAMAGE_TO_BYTES)
def test_damaged_bytes(generator, originals, tmp_path, damage, seed):
    data = (originals / "good.safetensors").read_bytes()
    path = tmp_path / "bad.safetensors"
    path.write_bytes(DAMAGE_TO_BYTES[damage](data, random.Random(f"{damage} {seed}")))
    refusal = loads_whole_or_is_refused(generator, path)
    if damage in ("cut", "header length", "appended", "noise"):
        assert refusal


@pytest.mark.parametrize("gigabytes", [0, 10])
def test_a_header_said_to_be_10_gb(generator, tmp_path, gigabytes):
    """Refused by its length alone, whether the file is that long (a sparse one) or not."""
    path = tmp_path / "bad.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 10 * 2**30) + b'{"a":')
        if gigabytes:
            file.truncate(8 + gigabytes * 2**30)
    assert "safetensors" in loads_whole_or_is_refused(generator, path)


DAMAGE_TO_TENSORS = {
    "integers": lambda w, k, rng: {**w, k: torch.ones(w[k].shape, dtype=torch.int32)},
    "booleans": lambda w, k, rng: {**w, k: torch.ones(w[k].shape, dtype=torch.bool)},
    "complex": lambda w, k, rng: {**w, k: w[k].to(torch.complex64)},
    "eight bits": lambda w, k, rng: {**w, k: w[k].to(torch.float8_e4m3fn)},
    "another rank": lambda w, k, rng: {**w, k: torch.cat([w[k], w[k]], int("lora_B" in k))},
    "another width": lambda w, k, rng: {**w, k: torch.cat([w[k], w[k]], int("lora_A" in k))},
    "flat": lambda w, k, rng: {**w, k: w[k].flatten()},
    "a scalar": lambda w, k, rng: {**w, k: torch.tensor(1.0)},
    "one dimension more": lambda w, k, rng: {**w, k: w[k][None]},
    "empty": lambda w, k, rng: {**w, k: w[k][:0]},
    "not a number": lambda w, k, rng: {**w, k: poisoned(w[k], rng, float("nan"))},
    "infinite": lambda w, k, rng: {**w, k: poisoned(w[k], rng, -float("inf"))},
    "missing": lambda w, k, rng: {name: t for name, t in w.items() if name != k},
    "layer missing": lambda w, k, rng: {name: t for name, t in w.items() if name[:-13] != k[:-13]},
    "extra": lambda w, k, rng: {**w, rng.choice(["more", "..", "", k + ".lora_A.weight", "a.lora_A.weight"]): w[k]},
    "renamed": lambda w, k, rng: {rng.choice(["x", "input_blocks.9", "double_blocks.0."]) + n: t for n, t in w.items()},
    "unknown layer": lambda w, k, rng: {**w, "a.b.lora_A.weight": w[k], "a.b.lora_B.weight": torch.ones(1, len(w[k]))},
    "nothing": lambda w, k, rng: {},
}


def poisoned(tensor, rng, value):
    tensor = tensor.clone()
    tensor.view(-1)[rng.randrange(tensor.numel())] = value
    return tensor


def metadata(path):
    with safe_open(path, framework="pt") as file:
        return file.metadata()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("damage", DAMAGE_TO_TENSORS)
def test_damaged_tensors(generator, originals, tmp_path, damage, seed):
    good, rng = originals / "good.safetensors", random.Random(f"{damage} {seed}")
    weights = load_file(good)
    bad = DAMAGE_TO_TENSORS[damage](weights, rng.choice(sorted(weights)), rng)
    save_file({n: t.clone().contiguous() for n, t in bad.items()}, tmp_path / "bad.safetensors", metadata(good))
    assert loads_whole_or_is_refused(generator, tmp_path / "bad.safetensors")


HUGE = "99999999999999999999"
GARBAGE = ["", "0", "-1", "nan", "inf", "1e999", HUGE, "four", "None", "[1]", "\0", "é" * 300, "../../x"]
FIELDS = ["format", "kind", "denoiser_sha256", "rank", "alpha", "last_layer", "layers"]
FINE = {("last_layer", ""), ("denoiser_sha256", ""), ("alpha", HUGE)}
"""An empty last layer is found by running, an empty fingerprint is not compared, and any finite scale is allowed."""


@pytest.mark.parametrize("value", GARBAGE)
@pytest.mark.parametrize("field", FIELDS)
def test_garbage_in_the_header(generator, originals, tmp_path, field, value):
    good = originals / "good.safetensors"
    header = {**metadata(good), f"hypernoise.{field}": value}
    save_file(load_file(good), tmp_path / "bad.safetensors", header)
    assert bool(loads_whole_or_is_refused(generator, tmp_path / "bad.safetensors")) != ((field, value) in FINE)


RANK_AND_ALPHA = '{"r": 2, "lora_alpha": 2, '
CONFIG_GARBAGE = [
    "", "[]", "null", "{", '{"a":' * 5000, "[" * 100_000, "{}", '{"peft_type": "IA3"}',
    '{"r": 2}', '{"r": 3, "lora_alpha": 2}',
    '{"r": true, "lora_alpha": 1}', '{"r": 1e999, "lora_alpha": 1}', '{"r": -2, "lora_alpha": 2}',
    '{"r": 2, "lora_alpha": NaN}', '{"r": 2, "lora_alpha": "2"}', '{"r": 2, "lora_alpha": 1e999}',
    RANK_AND_ALPHA + '"use_dora": true}', RANK_AND_ALPHA + '"bias": "all"}',
    RANK_AND_ALPHA + '"modules_to_save": ["conv_out"]}', RANK_AND_ALPHA + '"rank_pattern": {"conv_out": 4}}',
    RANK_AND_ALPHA + '"rank_pattern": [1]}', RANK_AND_ALPHA + '"alpha_pattern": {"(a+)+$": 1}}',
    RANK_AND_ALPHA + '"alpha_pattern": {"conv_out": "1"}}', RANK_AND_ALPHA + '"alpha_pattern": "conv_out"}',
]  # fmt: skip


@pytest.mark.parametrize("config", CONFIG_GARBAGE, ids=lambda text: text[:60])
def test_garbage_in_a_peft_configuration(generator, originals, tmp_path, config):
    (tmp_path / "adapter_model.bin").write_bytes((originals / "adapter_model.bin").read_bytes())
    (tmp_path / "adapter_config.json").write_text(config)
    refusal = loads_whole_or_is_refused(generator, tmp_path)
    assert refusal or 'rank_pattern": []' in config


class Code:
    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def hostile_pickles(marker):
    command = f"touch {marker}"
    huge = torch.zeros(1).expand(10**6, 10**6)
    return {
        "a shell command": Code(os.system, command),
        "among tensors": {"conv_in.lora_A.weight": Code(os.system, command)},
        "open": Code(open, str(marker), "w"),
        "eval": Code(eval, f"open({str(marker)!r}, 'w')"),
        "no tensors": {"conv_in.lora_A.weight": "text"},
        "a list": [torch.zeros(1)],
        "numbers as names": {1: torch.zeros(1)},
        "sparse": {"conv_in.lora_A.weight": torch.eye(3).to_sparse()},
        "a million rows of one number": {"conv_in.lora_A.weight": huge, "conv_in.lora_B.weight": huge},
        "on the meta device": {"conv_in.lora_A.weight": torch.zeros(10**6, 10**6, device="meta")},
        "empty": {},
    }


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("payload", hostile_pickles("x"))
def test_pickles_run_nothing(generator, originals, tmp_path, payload, legacy):
    marker = tmp_path / "it ran".replace(" ", "_")
    content = hostile_pickles(marker)[payload]
    torch.save(content, tmp_path / "adapter_model.bin", _use_new_zipfile_serialization=not legacy)
    (tmp_path / "adapter_config.json").write_bytes((originals / "peft/adapter_config.json").read_bytes())
    assert loads_whole_or_is_refused(generator, tmp_path)
    assert not marker.exists()


@pytest.mark.parametrize("seed", range(30))
def test_damaged_pickles(generator, originals, tmp_path, seed):
    rng = random.Random(seed)
    data = (originals / "adapter_model.bin").read_bytes()
    bad = cut(data, rng) if seed % 3 else flip(data, rng, count=30)
    (tmp_path / "adapter_model.bin").write_bytes(bad if seed else pickle.dumps(Code(os.system, "exit 1"), 2))
    (tmp_path / "adapter_config.json").write_bytes((originals / "peft/adapter_config.json").read_bytes())
    refusal = loads_whole_or_is_refused(generator, tmp_path)
    assert refusal or seed % 3 == 0


@pytest.mark.parametrize("missing", ["adapter_config.json", "adapter_model.safetensors"])
def test_half_a_peft_folder(generator, originals, tmp_path, missing):
    for file in (originals / "peft").iterdir():
        if file.name != missing:
            (tmp_path / file.name).write_bytes(file.read_bytes())
    assert missing in loads_whole_or_is_refused(generator, tmp_path)


def test_a_configuration_in_the_header_may_be_garbage_too(generator, originals, tmp_path):
    good = originals / "good.safetensors"
    header = {"format": "pt", "lora_adapter_metadata": json.dumps({"r": 2})}
    save_file(load_file(good), tmp_path / "bad.safetensors", header)
    assert "lora_alpha" in loads_whole_or_is_refused(generator, tmp_path / "bad.safetensors")
