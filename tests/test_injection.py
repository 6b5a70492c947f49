"""The LoRA as hosts run it: injected for one call, equal to the one that was trained, and without peft."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from hypernoise_core.hypernetworks.adapter_file import read_adapter
from hypernoise_core.hypernetworks.adapter_fit import fit_adapter
from hypernoise_core.hypernetworks.injection import LowRankBranch, injected

CORE_MODEL_IMPORTS = """
import sys
sys.modules["diffusers"] = sys.modules["peft"] = None
import hypernoise_core.hypernetworks.adapter_fit, hypernoise_core.hypernetworks.injection
from hypernoise_core import RewardEnsemble, TensorBatch, load_reward
load_reward("embedded")
"""


def branches_of(denoiser, path):
    weights, info = read_adapter(path)
    weights, last_layer = fit_adapter(denoiser, weights, info)
    names = [key.removesuffix(".lora_A.weight") for key in weights if key.endswith(".lora_A.weight")]
    halves = {name: (weights[f"{name}.lora_A.weight"], weights[f"{name}.lora_B.weight"]) for name in names}
    scale = info.alpha / info.rank
    return {n: LowRankBranch(denoiser.get_submodule(n), a, b, scale) for n, (a, b) in halves.items()}, last_layer


def test_equals_the_trained_clone_and_leaves_the_denoiser_alone(generator, hypernetwork, prompts, tmp_path):
    hypernetwork.save(tmp_path / "a.safetensors")
    branches, last_layer = branches_of(generator.denoiser, tmp_path / "a.safetensors")
    x0, conditioning = generator.noise(2), generator.encode(prompts[:2])
    base = generator.first_call(generator.denoiser, x0, conditioning)
    with torch.no_grad(), injected(generator.denoiser, branches, last_layer):
        delta = generator.first_call(generator.denoiser, x0, conditioning)
    expected = hypernetwork(x0, conditioning)
    assert expected.abs().max() > 0.01
    assert torch.allclose(delta, expected, atol=1e-5)
    assert torch.equal(generator.first_call(generator.denoiser, x0, conditioning), base)


def test_an_interrupted_call_leaves_the_denoiser_clean_with_what_others_had_put_there():
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    others = vars(net[1])["forward"] = nn.Identity()
    with pytest.raises(KeyboardInterrupt), injected(net, {"0": nn.Identity(), "1": nn.Identity()}, "1"):
        raise KeyboardInterrupt
    assert "forward" not in net[0].__dict__
    assert net[1].forward is others


def test_strided_convolutions_branch_like_the_layer():
    layer = nn.Conv2d(4, 6, 3, stride=2, padding=1, dilation=1, bias=False)
    a, b = torch.randn(5, 4, 3, 3), torch.randn(6, 5, 1, 1)
    branch = LowRankBranch(layer, a, b, scale=0.5)
    layer.weight.data = 0.5 * torch.einsum("orxy,rihw->oihw", b, a)
    x = torch.randn(2, 4, 9, 9)
    assert torch.allclose(branch(x), layer(x), atol=1e-5)


@pytest.mark.slow
def test_what_a_core_model_needs_in_comfyui_imports_without_diffusers_and_peft():
    subprocess.run([sys.executable, "-c", CORE_MODEL_IMPORTS], check=True)
