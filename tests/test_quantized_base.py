"""A head that was trained on a float32 base, on that base with its weights rounded to 8 and to 4 bits."""

import pytest
import torch

from hypernoise_core import load_generator
from hypernoise_core.embedded import HEAD_FILE
from hypernoise_core.embedded.benchmark import cases, measure, paired_interval
from hypernoise_core.hypernetworks.head import HeadHypernetwork
from hypernoise_core.layers import target_names
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
