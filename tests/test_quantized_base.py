"""Generators with weights of 8 and 4 bits: heads of the float32 base on them, and training on them."""

import copy

import pytest
import torch
from torch import nn

from hypernoise_core import LoraHypernetwork, RewardEnsemble, Trainer, TrainingConfig, load_generator, load_hypernetwork
from hypernoise_core.embedded import HEAD_FILE
from hypernoise_core.embedded.benchmark import cases, measure, paired_interval
from hypernoise_core.generators import quantized
from hypernoise_core.generators.quantized import PackedLinear
from hypernoise_core.hypernetworks.head import HeadHypernetwork
from hypernoise_core.layers import target_names
from hypernoise_core.rewards.redness import Redness
from hypernoise_core.training import StepDone, load_trainer_state, trainer_state
from train.evaluation.embedded import method


@torch.no_grad()
def round_weights_(denoiser, bits):
    """Round every layer's weights, output channel by output channel, to the levels that `bits` tell apart."""
    for name in target_names(denoiser):
        weight = denoiser.get_submodule(name).weight
        rows = weight.flatten(1)
        step = rows.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        weight.copy_(((rows / step).round() * step).view_as(weight))


@pytest.mark.parametrize("bits", [8, pytest.param(4, marks=pytest.mark.slow)])
def test_a_head_keeps_its_gain_on_a_rounded_base(reward, bits):
    generator, todo = load_generator("embedded"), cases(120)
    exact = generator.denoiser.state_dict()
    before = {name: weight.clone() for name, weight in exact.items()}
    round_weights_(generator.denoiser, bits)
    assert any(not torch.equal(weight, before[name]) for name, weight in exact.items())
    head = HeadHypernetwork.load(generator, HEAD_FILE)
    base = measure(generator, reward, method(generator), todo)
    moved = measure(generator, reward, method(generator, head), todo)
    difference, low, _ = paired_interval(moved, base)
    assert low > 0
    assert difference > 0.08
    assert moved.reward.mean() > base.reward.mean() + 0.5


def test_a_packed_layer_has_the_values_and_gradients_of_a_plain_one_and_keeps_no_weight():
    plain = nn.Linear(6, 4).double().requires_grad_(False)
    packed = nn.Linear(6, 4).double().requires_grad_(False)
    packed.load_state_dict(plain.state_dict())
    packed.__class__ = PackedLinear
    x = torch.randn(3, 6, dtype=torch.double, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        packed(x)
    assert not kept
    for layer in (plain, packed):
        assert torch.autograd.gradcheck(layer, x)
        assert torch.autograd.gradgradcheck(layer, x)
    assert torch.allclose(packed(x), plain(x))


@pytest.fixture(scope="module", params=["int8", "fp8"])
def packed(request):
    pytest.importorskip("torchao", reason="the extra [quantize] is not installed")
    return load_generator("embedded", quantize=request.param)


def test_a_packed_generator_makes_nearly_the_same_pictures_and_gradients(packed, generator):
    layers = [m for m in packed.denoiser.modules() if isinstance(m, nn.Linear)]
    assert layers and all(type(layer) is PackedLinear for layer in layers)
    x0, conditioning = packed.noise(4).requires_grad_(), packed.encode(["a red circle"] * 4)
    made = [g.generate(x0, conditioning) for g in (generator, packed)]
    first, second = (torch.autograd.grad(images.mean(), x0)[0].flatten() for images in made)
    assert 0 < (made[0] - made[1]).abs().mean() < 0.01
    assert torch.cosine_similarity(first, second, dim=0) > 0.8


@pytest.mark.parametrize("kind", ["head", "lora"])
def test_what_is_trained_on_a_packed_generator_resumes_and_fits_the_whole_one(packed, generator, kind, tmp_path):
    def trainer() -> Trainer:
        config = TrainingConfig(
            hypernetwork=kind,
            rank=4,
            alpha=8,
            head_width=32,
            head_depth=1,
            batch_size=2,
            max_steps=2,
            warmup_steps=0,
            diagnostics_every=0,
            lr=1e-2,
            optimizer="adamw",
        )
        return Trainer(packed, RewardEnsemble([(Redness(), 1.0)]), ["a red circle"], config)

    whole, resumed = trainer(), trainer()
    events = whole.events()
    next(events)
    load_trainer_state(resumed, copy.deepcopy(trainer_state(whole)))
    last, again = next(events), next(resumed.events())
    assert isinstance(last, StepDone) and last.metrics == again.metrics
    own = whole.adapter.state_dict()
    assert all(torch.equal(weight, own[name]) for name, weight in resumed.adapter.state_dict().items())
    whole.save(tmp_path / "f.safetensors")
    found = load_hypernetwork(generator, tmp_path / "f.safetensors")
    assert found.training["generator_quantized"] == packed.quantized
    x0, conditioning = generator.noise(1), generator.encode(["a red circle"])
    with torch.no_grad():
        mine, theirs = (f(x0, conditioning).flatten() for f in (whole.adapter, found))
    assert theirs.norm() > 0
    assert torch.cosine_similarity(mine, theirs, dim=0) > 0.8


def test_a_clone_shares_packed_weights(packed):
    network = LoraHypernetwork(packed, rank=2, alpha=4).network
    shared = {id(p) for p in packed.denoiser.parameters()}
    own = [name for name, p in network.named_parameters() if id(p) not in shared and ".lora_" not in name]
    assert all(name.startswith(packed.last_layer) for name in own)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"quantize": "int3"}, "quantize is 'int3': choose from int8, fp8, nf4"),
        ({"quantize": "nf4"}, "quantize is nf4, which diffusers loads onto a GPU alone: take int8"),
        ({"quantize": "int8", "generator_lora": "a.safetensors"}, "generator_lora is given with quantize int8"),
        ({"model": "a.gguf", "config": "embedded"}, "model is 'a.gguf': there is no such file"),
    ],
)
def test_what_cannot_be_packed_is_refused_in_words(given, message, monkeypatch):
    monkeypatch.setattr(quantized, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match=message):
        load_generator(**{"model": "embedded", **given})


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(quantized, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"quantize int8 needs torchao: pip install 'comfyui-hypernoise\[quantize\]'"):
        load_generator("embedded", quantize="int8")
