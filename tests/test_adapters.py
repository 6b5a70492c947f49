"""Adapters in and out: plain peft and diffusers code, PEFT folders of all sorts, ComfyUI's layer names, convert."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
from conftest import randomized
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model, set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_pipelines import BUILDERS, PROMPTS, tiny_generator
from torch import nn

from hypernoise_core import FineTunedDenoiser, LoraHypernetwork
from hypernoise_core.hypernetworks.adapter_file import read_adapter, write_peft_folder
from hypernoise_core.hypernetworks.comfy_keys import key_map
from hypernoise_core.hypernetworks.lora_clone import _DenseConv2d
from hypernoise_core.layers import target_names
from train import convert


@pytest.fixture(scope="module", params=BUILDERS)
def generator(request):
    return tiny_generator(request.param)


@pytest.fixture
def finetuned(generator):
    return randomized(FineTunedDenoiser(generator, rank=4, alpha=12), scale=0.1)


def pictures(lora):
    x0 = lora.generator.noise(2, 32, 32, seed=1)
    return lora.generate(x0, lora.generator.encode(PROMPTS[:2]))


def pictures_by(generator, denoiser):
    x0 = generator.noise(2, 32, 32, seed=1)
    return generator.generate(x0, generator.encode(PROMPTS[:2]), denoiser=denoiser)


def base(generator):
    return copy.deepcopy(generator.denoiser)


def dense_convolutions(config):
    """SANA's depthwise convolutions carry dense LoRAs, which peft has to be taught."""
    config._register_custom_module({nn.Conv2d: _DenseConv2d})
    return config


def test_our_peft_folder_loads_in_plain_peft(generator, finetuned, tmp_path):
    write_peft_folder(tmp_path / "peft", *finetuned.exported())
    config = dense_convolutions(LoraConfig.from_pretrained(tmp_path / "peft"))
    model = PeftModel.from_pretrained(base(generator), tmp_path / "peft", config=config)
    assert torch.allclose(pictures_by(generator, model), pictures(finetuned), atol=1e-5)


def test_our_file_loads_in_plain_diffusers(generator, finetuned, tmp_path):
    finetuned.save(tmp_path / "mine.safetensors")
    denoiser = base(generator)
    if generator.family == "sana-sprint":  # as the docs say
        with pytest.raises(ValueError, match="groups"):
            denoiser.load_lora_adapter(tmp_path, weight_name="mine.safetensors", prefix=None)
        return
    denoiser.load_lora_adapter(tmp_path, weight_name="mine.safetensors", prefix=None)
    assert torch.allclose(pictures_by(generator, denoiser), pictures(finetuned), atol=1e-5)


def test_a_diffusers_lora_file_loads_here(generator, finetuned, tmp_path):
    denoiser = base(generator)
    config = LoraConfig(r=3, lora_alpha=6, target_modules=["to_q", "to_k"], init_lora_weights=False)
    denoiser.add_adapter(config, "mine")
    denoiser.save_lora_adapter(tmp_path, "mine")
    ours = FineTunedDenoiser.load(generator, tmp_path / "pytorch_lora_weights.safetensors")
    assert (ours.rank, ours.alpha) == (3, 6.0)
    assert set(ours.ranks) == {n for n in target_names(generator.denoiser) if n.endswith(("to_q", "to_k"))}
    assert torch.allclose(pictures(ours), pictures_by(generator, denoiser), atol=1e-5)
    ours.save(tmp_path / "ours.safetensors")
    again = FineTunedDenoiser.load(generator, tmp_path / "ours.safetensors")
    assert torch.equal(pictures(again), pictures(ours))
    with pytest.raises(ValueError, match="last layer"):
        LoraHypernetwork.load(generator, tmp_path / "pytorch_lora_weights.safetensors")


CONFIGS = {
    "plain": {},
    "one alpha differs": {"alpha_pattern": {"to_k": 1.0}},
    "ranks differ": {"rank_pattern": {"to_k": 5, "to_v": 2}},
    "all ranks differ": {"rank_pattern": {"to_q": 2, "to_k": 5, "to_v": 2}},
    "rslora": {"use_rslora": True},
}


@pytest.mark.parametrize(("options", "suffix"), [("plain", "bin"), *((name, "safetensors") for name in CONFIGS)])
def test_a_peft_folder_loads_here(generator, tmp_path, options, suffix):
    config = LoraConfig(
        r=3, lora_alpha=6, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False, **CONFIGS[options]
    )
    theirs = get_peft_model(base(generator), config)
    theirs.save_pretrained(tmp_path)
    if suffix == "bin":
        as_bin(tmp_path)
    ours = FineTunedDenoiser.load(generator, tmp_path)
    assert torch.allclose(pictures(ours), pictures_by(generator, theirs), atol=1e-5)
    assert not torch.allclose(pictures(ours), pictures_by(generator, None), atol=1e-3)


def as_bin(folder, keys=lambda key: key):
    weights = load_file(folder / "adapter_model.safetensors")
    (folder / "adapter_model.safetensors").unlink()
    torch.save({keys(key): tensor for key, tensor in weights.items()}, folder / "adapter_model.bin")


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
@pytest.mark.parametrize("prefixed", [True, False])
def test_the_authors_release_loads_here(tmp_path, suffix, prefixed):
    """As their trainer saves it: every layer, r = 128 and alpha = 256 in proportion, no word on the last layer."""
    generator = tiny_generator("sana-sprint")
    f = randomized(LoraHypernetwork(generator, rank=4, alpha=8), scale=0.1)
    prefix = "base_model.model." if prefixed else ""
    weights = {prefix + name: tensor for name, tensor in f.state_dict().items()}
    if suffix == "bin":
        torch.save(weights, tmp_path / "adapter_model.bin")
    else:
        save_file(weights, tmp_path / "adapter_model.safetensors")
    LoraConfig(
        r=4, lora_alpha=8, target_modules=target_names(generator.denoiser), init_lora_weights="gaussian"
    ).save_pretrained(tmp_path)
    again = LoraHypernetwork.load(generator, tmp_path)
    assert again.last_layer == "proj_out"
    assert torch.equal(pictures(again), pictures(f))


def test_prefixes_of_other_tools_are_read(generator, tmp_path):
    f = randomized(LoraHypernetwork(generator, rank=4, alpha=8), scale=0.1)
    for prefix in ("diffusion_model.", "transformer.", "unet.", "base_model.model.transformer."):
        f.save(tmp_path / "f.safetensors")
        renamed(tmp_path / "f.safetensors", lambda name, prefix=prefix: prefix + name)
        again = LoraHypernetwork.load(generator, tmp_path / "f.safetensors").state_dict()
        assert again.keys() == f.state_dict().keys()
        assert all(torch.equal(again[name], weight) for name, weight in f.state_dict().items())


def test_layers_by_the_names_that_comfyui_has_for_them_are_read(generator, tmp_path):
    f = randomized(LoraHypernetwork(generator, rank=4, alpha=8), scale=0.1)
    f.save(tmp_path / "f.safetensors")
    keys = key_map(target_names(generator.denoiser))
    theirs = {f"diffusion_model.{name}": w for name, w in keys.to_comfy(f.state_dict()).items()}
    with safe_open(tmp_path / "f.safetensors", "pt") as file:
        header = file.metadata()
    save_file({name: w.contiguous() for name, w in theirs.items()}, tmp_path / "f.safetensors", header)
    again = LoraHypernetwork.load(generator, tmp_path / "f.safetensors")
    assert torch.allclose(pictures(again), pictures(f), atol=1e-5)


@pytest.mark.parametrize(("start", "tool"), [("lora_unet_", "kohya"), ("lora_te1_", "kohya"), ("lycoris_", "LyCORIS")])
def test_names_of_other_trainers_are_told_whose_they_are(generator, tmp_path, start, tool):
    LoraHypernetwork(generator, rank=4, alpha=8).save(tmp_path / "f.safetensors")
    renamed(tmp_path / "f.safetensors", lambda name: start + name.replace(".", "_"))
    with pytest.raises(ValueError, match=f"f.safetensors has the names of {tool}.*: give what HyperNoise, peft or"):
        LoraHypernetwork.load(generator, tmp_path / "f.safetensors")


def renamed(file, name):
    """The same file with other names for its tensors."""
    with safe_open(file, "pt") as opened:
        weights, header = {name(key): opened.get_tensor(key) for key in opened.keys()}, opened.metadata()  # noqa: SIM118
    save_file({key: weight.clone() for key, weight in weights.items()}, file, header)


def test_a_hypernetwork_is_computed_in_plain_peft_as_the_authors_do(generator, tmp_path):
    """Inject, load, and let the last layer return its LoRA branch alone."""
    f = randomized(LoraHypernetwork(generator, rank=4, alpha=8), scale=0.1)
    f.save(tmp_path / "f.safetensors")
    denoiser = base(generator)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=target_names(denoiser))
    inject_adapter_in_model(dense_convolutions(config), denoiser)
    result = set_peft_model_state_dict(denoiser, load_file(tmp_path / "f.safetensors"))
    assert not result.unexpected_keys
    layer = denoiser.get_submodule(f.last_layer)
    layer.forward = lambda x: layer.lora_B["default"](layer.lora_A["default"](x)) * layer.scaling["default"]
    x0, conditioning = generator.noise(2, 32, 32, seed=1), generator.encode(PROMPTS[:2])
    assert torch.allclose(f(x0, conditioning), generator.first_call(denoiser, x0, conditioning), atol=1e-5)


LAST_IN_COMFYUI = {
    "sd-turbo": "out.2",
    "flux": "final_layer.linear",
    "flux2-klein": "final_layer.linear",
    "z-image": "final_layer.linear",
    "krea2": "last.linear",
    "sd3": "final_layer.linear",
}


@pytest.mark.parametrize("family", LAST_IN_COMFYUI)
def test_adapters_travel_between_diffusers_and_comfyui(family, tmp_path):
    """A denoiser with ComfyUI's layers takes our file, its updates are the same, and what it saves loads here."""
    generator = tiny_generator(family)
    f = randomized(LoraHypernetwork(generator, rank=4, alpha=8), scale=0.1)
    f.save(tmp_path / "f.safetensors")
    host = comfy_host(generator)
    there = LoraHypernetwork.load(host, tmp_path / "f.safetensors")
    assert there.last_layer == LAST_IN_COMFYUI[family]
    x = torch.randn(5, 32)
    if family == "flux":
        fused, scale = there.network.get_submodule("single_blocks.1.linear1"), f.alpha / f.rank
        weights = f.state_dict()
        parts = [f"single_transformer_blocks.1.{p}" for p in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
        branches = [x @ weights[f"{p}.lora_A.weight"].T @ weights[f"{p}.lora_B.weight"].T for p in parts]
        expected = scale * torch.cat(branches, 1) + fused.base_layer(x)
        assert torch.allclose(fused(x), expected, atol=1e-5)
    there.save(tmp_path / "back.safetensors")
    back = LoraHypernetwork.load(generator, tmp_path / "back.safetensors")
    assert torch.equal(pictures(back), pictures(f))
    assert read_adapter(tmp_path / "back.safetensors")[1].last_layer == f.last_layer

    made_there = randomized(LoraHypernetwork(host, rank=4, alpha=8, last_layer=there.last_layer), scale=0.1)
    made_there.save(tmp_path / "there.safetensors")
    here = LoraHypernetwork.load(generator, tmp_path / "there.safetensors")
    assert set(here.ranks.values()) == {4}
    here.save(tmp_path / "here.safetensors")
    again = LoraHypernetwork.load(host, tmp_path / "here.safetensors")
    assert all(torch.equal(a, b) for a, b in zip(made_there.parameters(), again.parameters(), strict=True))


def comfy_host(generator):
    """Stands in for a generator on ComfyUI's model: its layers by ComfyUI's names and shapes, nothing else."""
    modules = dict(generator.denoiser.named_modules())
    root = nn.Module()
    for name, parts in key_map(target_names(generator.denoiser)).layers.items():
        layers = [modules[part] for part in parts]
        if isinstance(layers[0], nn.Conv2d):
            (layer,) = layers
        else:
            layer = nn.Linear(layers[0].in_features, sum(part.out_features for part in layers))
        *path, last = name.split(".")
        place = root
        for step in path:
            if not hasattr(place, step):
                place.add_module(step, nn.Module())
            place = getattr(place, step)
        place.add_module(last, layer)
    return SimpleNamespace(denoiser=root, name="a checkpoint in ComfyUI", family=generator.family)


def test_convert_prints_and_turns_files_into_folders_and_back(tmp_path, capsys, monkeypatch):
    generator = tiny_generator("sd-turbo")
    generator.pipeline.save_pretrained(tmp_path / "model")
    f = randomized(LoraHypernetwork(generator, rank=4, alpha=8), scale=0.1)
    f.save(tmp_path / "f.safetensors", steps_trained=7)
    convert.main([f"--adapter={tmp_path / 'f.safetensors'}"])
    printed = capsys.readouterr().out
    assert (
        "noise hypernetwork" in printed
        and "tiny-sd-turbo (sd-turbo)" in printed
        and "steps_trained7" in printed.replace(" ", "")
    )
    convert.main([f"--adapter={tmp_path / 'f.safetensors'}", f"--output={tmp_path / 'peft'}", "--dtype=bfloat16"])
    assert json.loads((tmp_path / "peft/adapter_config.json").read_text())["lora_alpha"] == 8
    assert all(t.dtype == torch.bfloat16 for t in load_file(tmp_path / "peft/adapter_model.safetensors").values())
    convert.main([f"--adapter={tmp_path / 'peft'}", f"--output={tmp_path / 'again.safetensors'}"])
    again = LoraHypernetwork.load(generator, tmp_path / "again.safetensors")
    assert torch.allclose(pictures(again), pictures(f), atol=0.01)
    assert again.training == {"steps_trained": "7"}


def test_convert_asks_for_the_model_of_a_folder_that_does_not_say(tmp_path):
    generator = tiny_generator("sd-turbo")
    generator.pipeline.save_pretrained(tmp_path / "model")
    f = randomized(LoraHypernetwork(generator, rank=4, alpha=8), scale=0.1)
    write_peft_folder(tmp_path / "peft", *f.exported())
    as_bin(tmp_path / "peft")
    line = [f"--adapter={tmp_path / 'peft'}", f"--output={tmp_path / 'f.safetensors'}"]
    with pytest.raises(ValueError, match="--model"):
        convert.main(line)
    convert.main([*line, f"--model={tmp_path / 'model'}"])
    assert torch.equal(pictures(LoraHypernetwork.load(generator, tmp_path / "f.safetensors")), pictures(f))
    with pytest.raises(ValueError, match="exists"):
        convert.main([*line, f"--model={tmp_path / 'model'}"])
    tiny_generator("flux").pipeline.save_pretrained(tmp_path / "flux")
    with pytest.raises(ValueError, match=r"made for model \(sd-turbo\) and does not fit flux"):
        convert.main([f"--adapter={tmp_path / 'f.safetensors'}", f"--model={tmp_path / 'flux'}"])
