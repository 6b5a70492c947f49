"""f_φ: zero when made, shared weights, plain LoRA arithmetic, and its file."""

import pytest
import torch
from conftest import randomized
from reference import reference_delta
from safetensors.torch import load_file, save_file

from hypernoise_core import FineTunedDenoiser, LoraHypernetwork
from hypernoise_core.hypernetworks.adapter_file import read_adapter
from hypernoise_core.hypernetworks.lora_clone import lora_parameters
from hypernoise_core.layers import target_names


def test_exactly_zero_when_made(generator, prompts):
    f = LoraHypernetwork(generator, rank=4, alpha=8)
    delta = f(generator.noise(len(prompts)), generator.encode(prompts))
    assert delta.shape == (len(prompts), 16, 8, 8)
    assert torch.count_nonzero(delta) == 0


def test_further_iterations_start_from_the_moved_noise(generator, hypernetwork, prompts):
    x0, conditioning = generator.noise(2, seed=1), generator.encode(prompts[:2])
    once = hypernetwork.modulate(x0, conditioning, 0.5)
    twice = hypernetwork.modulate(x0, conditioning, 0.5, iterations=2)
    assert torch.equal(twice, hypernetwork.modulate(once, conditioning, 0.5))
    assert not torch.equal(twice, once)
    assert torch.equal(
        hypernetwork.generate(x0, conditioning, strength=0.5, iterations=2), generator.generate(twice, conditioning)
    )
    assert hypernetwork.modulate(x0, conditioning, iterations=0) is x0
    with pytest.raises(ValueError, match="iterations is -1"):
        hypernetwork.modulate(x0, conditioning, iterations=-1)


def test_strength_zero_is_the_base_bit_for_bit(generator, hypernetwork, prompts):
    x0, conditioning = generator.noise(2), generator.encode(prompts[:2])
    base = generator.generate(x0, conditioning)
    assert torch.equal(hypernetwork.generate(x0, conditioning, strength=0), base)
    assert not torch.equal(hypernetwork.generate(x0, conditioning, strength=1), base)


def test_base_weights_are_shared_not_copied(generator):
    f = LoraHypernetwork(generator, rank=4, alpha=8)
    own = {id(p) for p in f.network.parameters()} - {id(p) for p in generator.denoiser.parameters()}
    lora = {id(p) for p in f.parameters()}
    last = {id(p) for p in f.network.get_submodule(f.last_layer).base_layer.parameters()}
    assert own == lora | last


def test_every_layer_is_adapted_depthwise_convolutions_densely(generator):
    f = LoraHypernetwork(generator, rank=4, alpha=8)
    names = {name.rsplit(".lora_", 1)[0] for name in lora_parameters(f.network)}
    assert names == set(target_names(generator.denoiser))
    conv = generator.denoiser.transformer_blocks[0].ff.conv_depth
    weights = lora_parameters(f.network)
    assert conv.groups == conv.in_channels > 1
    assert weights["transformer_blocks.0.ff.conv_depth.lora_A.weight"].shape == (4, conv.in_channels, 3, 3)
    assert weights["transformer_blocks.0.ff.conv_depth.lora_B.weight"].shape == (conv.out_channels, 4, 1, 1)


def test_output_and_gradients_equal_plain_torch(generator, hypernetwork, prompts):
    x0, conditioning = generator.noise(3), generator.encode(prompts[:3])
    expected = reference_delta(generator, hypernetwork, x0, prompts[:3])
    got = hypernetwork(x0, conditioning)
    assert expected.abs().max() > 0.01
    assert torch.allclose(got, expected, atol=1e-5)
    parameters = list(hypernetwork.parameters())
    for a, b in zip(
        torch.autograd.grad(got.square().sum(), parameters),
        torch.autograd.grad(expected.square().sum(), parameters),
        strict=True,
    ):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item())


def test_the_last_layer_is_found_by_running(generator):
    assert generator.last_layer == "proj_out"
    with pytest.raises(ValueError, match="proj_out"):
        LoraHypernetwork(generator, rank=4, last_layer="conv_out")


@pytest.mark.parametrize("kind", [LoraHypernetwork, FineTunedDenoiser])
def test_a_saved_adapter_makes_equal_pictures(generator, prompts, tmp_path, kind):
    lora = randomized(kind(generator, rank=4, alpha=8))
    lora.save(tmp_path / "a.safetensors", rewards="redness=1", steps_trained=3)
    again = kind.load(generator, tmp_path / "a.safetensors")
    x0, conditioning = generator.noise(2), generator.encode(prompts[:2])
    assert torch.equal(lora.generate(x0, conditioning), again.generate(x0, conditioning))
    assert not torch.equal(lora.generate(x0, conditioning), generator.generate(x0, conditioning))
    assert again.training["rewards"] == "redness=1"


def test_the_file_says_what_it_is_and_uses_pefts_keys(generator, hypernetwork, tmp_path):
    path = tmp_path / "a.safetensors"
    hypernetwork.save(path, steps_trained=3)
    weights, info = read_adapter(path)
    assert info.generator == "embedded"
    assert info.family == "sana-sprint"
    assert (info.kind, info.rank, info.alpha, info.last_layer) == ("noise", 4, 8.0, "proj_out")
    assert info.training["steps_trained"] == "3"
    assert "transformer_blocks.0.attn1.to_q.lora_A.weight" in weights
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def changed(path, tensors=None, metadata=None):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        old = file.metadata()
    weights = load_file(path)
    save_file({**weights, **(tensors or {})}, path, {**old, **(metadata or {})})


def drop_key(path):
    weights, _ = read_adapter(path)
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({k: v for i, (k, v) in enumerate(weights.items()) if i}, path, metadata)


DAMAGE = {
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:1000]), "not a complete safetensors file"),
    "empty": (lambda p: p.write_bytes(b""), "not a complete safetensors file"),
    "giant header": (lambda p: p.write_bytes(b"\xff" * 64), "not a complete safetensors file"),
    "foreign": (lambda p: save_file({"a": torch.zeros(1)}, p), "no HyperNoise LoRA"),
    "another model": (lambda p: changed(p, metadata={"hypernoise.denoiser_sha256": "0"}), "does not fit embedded"),
    "newer format": (lambda p: changed(p, metadata={"hypernoise.format": "9"}), "update"),
    "bad rank": (lambda p: changed(p, metadata={"hypernoise.rank": "many"}), "damaged"),
    "wrong rank": (lambda p: changed(p, metadata={"hypernoise.rank": "5"}), "damaged"),
    "wrong shape": (lambda p: changed(p, {"proj_out.lora_A.weight": torch.zeros(2, 2)}), "damaged"),
    "extra key": (lambda p: changed(p, {"more": torch.zeros(2)}), "damaged"),
    "missing key": (drop_key, "damaged"),
    "not finite": (lambda p: changed(p, {"proj_out.lora_A.weight": torch.full((4, 128), float("nan"))}), "not finite"),
    "no file": (lambda p: p.unlink(), "no HyperNoise LoRA at"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_does_not_fit_is_refused(generator, hypernetwork, tmp_path, case):
    path = tmp_path / "a.safetensors"
    hypernetwork.save(path)
    damage, message = DAMAGE[case]
    damage(path)
    with pytest.raises(ValueError, match=message):
        LoraHypernetwork.load(generator, path)


def test_a_fine_tuned_lora_is_no_hypernetwork(generator, tmp_path):
    FineTunedDenoiser(generator, rank=4).save(tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match="finetune"):
        LoraHypernetwork.load(generator, tmp_path / "a.safetensors")


def test_nothing_is_left_when_writing_fails(generator, hypernetwork, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("hypernoise_core.hypernetworks.adapter_file.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        hypernetwork.save(tmp_path / "a.safetensors")
    assert not list(tmp_path.iterdir())
