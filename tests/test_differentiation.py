"""Backward passes through blocks that write over their inputs, as ComfyUI's FLUX does. The file needs no ComfyUI."""

import copy
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

spec = spec_from_file_location("differentiation", Path(__file__).parents[1] / "nodes/host/differentiation.py")
differentiation = module_from_spec(spec)
spec.loader.exec_module(differentiation)


class Block(nn.Module):
    """Two streams; residuals are added in place if so wished."""

    def __init__(self, in_place):
        super().__init__()
        self.norm, self.linear, self.in_place = nn.LayerNorm(4), nn.Linear(4, 4), in_place

    def forward(self, img, *, txt, options):
        for _ in range(options["times"]):
            change = self.linear(self.norm(img) * txt).sin()
            if self.in_place:
                img += change
                txt += change
            else:
                img, txt = img + change, txt + change
        return img, txt


class Model(nn.Module):
    def __init__(self, in_place):
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList(Block(in_place) for _ in range(2))
        self.out = nn.Linear(4, 4)

    def forward(self, x):
        img, txt = x * 1.0, x.cos()
        for block in self.blocks:
            img, txt = block(img, txt=txt, options={"times": 2, "none": None})
        return self.out(img) + txt


def gradients(model, inside=differentiation.each_with_mutations):
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    model.zero_grad()

    def passes():
        model(x).square().sum().backward()
        yield True

    assert list(inside(passes())) == [True]
    return [x.grad, *(p.grad for p in model.parameters())]


def assert_equal(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_in_place_blocks_have_the_gradients_of_ordinary_ones():
    expected, model = gradients(Model(False)), Model(True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        gradients(model, inside=iter)
    assert_equal(gradients(model), expected)


def test_recomputed_blocks_as_well_where_torchs_own_checkpoint_is_silently_wrong():
    expected, model = gradients(Model(False)), Model(True)
    recomputation = differentiation.Recomputation()
    recomputation.wrap(model)
    assert all("forward" in vars(block) for block in model.blocks)
    assert_equal(gradients(model), expected)
    assert_equal(gradients(copy.deepcopy(model)), expected)  # as the noise hypernetwork's clone is made
    with torch.no_grad():
        assert torch.allclose(model(torch.ones(1, 4)), Model(False)(torch.ones(1, 4)), atol=1e-6)
    recomputation.unwrap()
    assert not any("forward" in vars(module) for module in model.modules())

    block, x = Block(True), torch.randn(3, 4, requires_grad=True)
    honest = copy.deepcopy(block)
    honest.in_place = False

    def loss(run):
        img, txt = run(x * 1.0, txt=x.cos(), options={"times": 2})
        return torch.autograd.grad((img + txt).square().sum(), x)[0]

    def on_copies(img, *, txt, options):
        return block(img * 1.0, txt=txt * 1.0, options=options)

    wrong = loss(lambda *args, **kwargs: checkpoint(on_copies, *args, use_reentrant=False, **kwargs))
    assert not torch.allclose(wrong, loss(honest), atol=1e-3)


def test_gradients_reach_tensors_that_hide_in_a_models_own_objects():
    class Scaled(Block):
        def forward(self, img, scale):
            return self.linear(img) * scale.value

    model = nn.Sequential(Scaled(False))
    differentiation.Recomputation().wrap(model)
    scale = SimpleNamespace(value=torch.ones(4, requires_grad=True))
    model[0](torch.ones(1, 4), scale).sum().backward()
    assert scale.value.grad.abs().sum() > 0


def test_inference_tensors_are_replaced_by_equal_ones_and_tied_ones_stay_tied():
    with torch.inference_mode():
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2)).requires_grad_(False)
        model[1].weight = model[0].weight
        model.scale = torch.ones(2)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.inference_mode(False):
        differentiation.leave_inference_mode(model.modules())
        x = torch.ones(3, 2, requires_grad=True)
        (model.eval()(x) * model.scale).sum().backward()
    assert x.grad is not None
    assert model[1].weight is model[0].weight
    assert not any(tensor.is_inference() for tensor in model.state_dict().values())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
