"""`load_generator`: folders, single files, precisions and offload as diffusers users expect, and errors that help."""

import json
from types import SimpleNamespace

import diffusers
import pytest
import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from safetensors.torch import save_file
from tiny_pipelines import BUILDERS, PROMPTS, SCHEDULE, tiny_generator, tiny_pipeline

from hypernoise_core import LoraHypernetwork, TensorBatch, load_generator
from hypernoise_core.generators import base, diffusers_generator
from hypernoise_core.hypernetworks.comfy_keys import key_map
from hypernoise_core.layers import target_names


@pytest.fixture(scope="module", params=BUILDERS)
def saved(request, tmp_path_factory):
    """(family, folder with its pipeline as diffusers saves it)"""
    folder = tmp_path_factory.mktemp("models") / request.param
    tiny_pipeline(request.param).save_pretrained(folder)
    return request.param, folder


def pictures(generator):
    return generator.generate(generator.noise(2, 32, 64, seed=1), generator.encode(PROMPTS[:2]))


def test_a_saved_pipeline_makes_the_same_pictures(saved):
    family, folder = saved
    generator = load_generator(str(folder))
    assert (generator.family, generator.name) == (family, family)
    assert torch.allclose(pictures(generator), pictures(tiny_generator(family)), atol=1e-6)
    assert not any(p.requires_grad for p in generator.denoiser.parameters())
    towers = [name for encoder in generator.text_encoders for name, _ in encoder.named_parameters() if "visual" in name]
    assert not towers  # no prompt has a picture


def test_precision_offload_and_slicing(saved):
    _, folder = saved
    generator = load_generator(str(folder), dtype=torch.bfloat16, offload=True, vae_slicing=True)
    assert generator.denoiser.dtype == generator.autoencoder.dtype == torch.bfloat16
    assert generator.offload
    assert len(generator.text_encoders) == len(list(folder.glob("text_encoder*")))
    whole = load_generator(str(folder), dtype=torch.bfloat16)
    assert torch.allclose(pictures(generator), pictures(whole), atol=0.02)


def test_offloaded_text_encoders_change_places_with_the_rest_while_prompts_are_encoded(saved, monkeypatch):
    _, folder = saved
    generator = load_generator(str(folder), offload=True)
    moves = []
    names = ["denoiser", "decoder", *["text"] * len(generator.text_encoders)]
    modules = [generator.denoiser, generator.autoencoder, *generator.text_encoders]
    for name, module in zip(names, modules, strict=True):
        monkeypatch.setattr(module, "to", lambda device, name=name: moves.append(f"{name} {device}"))
    generator.device = torch.device("meta")  # stands in for a GPU
    nothing = TensorBatch({"embeds": torch.zeros(1, 1)})
    monkeypatch.setattr(generator, "_encode", lambda prompts: moves.append("encode") or nothing)
    generator.encode(PROMPTS[:1])
    there, back = (["text meta", "text cpu"][i : i + 1] * len(generator.text_encoders) for i in (0, 1))
    whole = ["denoiser cpu", "decoder cpu", *there, "encode", *back, "denoiser meta", "decoder meta"]
    assert moves == whole
    moves.clear()
    with generator.encoding():
        generator.encode(PROMPTS[:1])
        generator.encode(PROMPTS[:1])
    assert moves == [move for move in whole for _ in range(1 + (move == "encode"))]


def test_prompts_are_encoded_and_pictures_decoded_a_few_at_a_time(saved, monkeypatch):
    _, folder = saved
    generator = load_generator(str(folder))
    whole, own, sizes = generator.encode(PROMPTS), generator._encode, []
    monkeypatch.setattr(diffusers_generator, "PROMPTS_AT_A_TIME", 1)
    monkeypatch.setattr(generator, "_encode", lambda prompts: sizes.append(len(prompts)) or own(prompts))
    parts = generator.encode(PROMPTS)
    assert sizes == [1] * len(PROMPTS)
    for name, tensor in whole.tensors.items():
        kept = whole.tensors["mask"].bool() if "mask" in whole.tensors else ...  # what padding holds is nobody's
        assert torch.allclose(parts[name][kept], tensor[kept], atol=1e-5)
    latents = generator.noise(3, 64, 64)
    pictures, decode = generator.decode(latents), generator._decode
    monkeypatch.setattr(base, "MOST_PIXELS", 2 * 64 * 64)
    sizes.clear()
    monkeypatch.setattr(generator, "_decode", lambda part: sizes.append(len(part)) or decode(part))
    assert torch.allclose(generator.decode(latents), pictures, atol=1e-5)
    generator.decode(latents.requires_grad_())
    assert sizes == [2, 1, 3]


def test_tiles_are_differentiable_and_close(saved):
    _, folder = saved
    whole, tiled = load_generator(str(folder)), load_generator(str(folder), vae_tiling=True)
    vae, scale = tiled.autoencoder, tiled.pipeline.vae_scale_factor
    if hasattr(vae, "tile_sample_min_height"):
        vae.enable_tiling(64, 64, 48, 48)
        vae.tile_latent_min_height = vae.tile_latent_min_width = 64 // scale
    else:
        vae.tile_sample_min_size, vae.tile_latent_min_size = 64, 64 // scale
    latents = whole.noise(1, 96, 96, seed=1).requires_grad_()
    a, b = whole.decode(latents), tiled.decode(latents)
    assert a.shape == b.shape
    assert not torch.equal(a, b)
    assert (a - b).abs().mean() < 0.1
    assert torch.autograd.grad(b.mean(), latents)[0].isfinite().all()


def test_a_variant_is_asked_for_by_name(saved, tmp_path):
    family, folder = saved
    with pytest.raises(ValueError, match="fp16"):
        load_generator(str(folder), variant="fp16")
    tiny_pipeline(family).to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    generator = load_generator(str(tmp_path), variant="fp16")
    assert torch.allclose(pictures(generator), pictures(tiny_generator(family)), atol=0.02)


def test_sdxls_autoencoder_is_kept_from_overflowing_in_float16(tmp_path):
    tiny_pipeline("sdxl-turbo").save_pretrained(tmp_path)
    generator = load_generator(str(tmp_path), dtype=torch.float16)
    assert generator.denoiser.dtype == torch.float16
    assert generator.autoencoder.dtype == torch.float32
    assert pictures(generator).isfinite().all()


@pytest.mark.parametrize("spelling", ["diffusers", "original"])
def test_a_single_file_brings_the_denoiser(tmp_path, spelling):
    tiny_pipeline("sd-turbo", seed=1).save_pretrained(tmp_path / "other")
    other = tiny_pipeline("sd-turbo", seed=1)
    trained = tiny_pipeline("sd-turbo", seed=2).unet
    weights = trained.state_dict()
    if spelling == "original":
        weights = original_names(trained)
    save_file({k: v.contiguous() for k, v in weights.items()}, tmp_path / "mine.safetensors")
    with pytest.raises(ValueError, match="config"):
        load_generator(str(tmp_path / "mine.safetensors"))
    generator = load_generator(str(tmp_path / "mine.safetensors"), config=str(tmp_path / "other"))
    assert generator.name == "mine"
    assert all(torch.equal(v, generator.denoiser.state_dict()[k]) for k, v in trained.state_dict().items())
    assert torch.equal(generator.autoencoder.decoder.conv_in.weight, other.vae.decoder.conv_in.weight)


@pytest.mark.parametrize("content", ["nothing", "another model", "half of it"])
def test_single_files_that_do_not_fit_are_named(tmp_path, content):
    pipeline = tiny_pipeline("sd-turbo")
    pipeline.save_pretrained(tmp_path / "model")
    path, weights = tmp_path / "bad.safetensors", pipeline.unet.state_dict()
    if content == "nothing":
        path.write_bytes(b"")
    elif content == "another model":
        save_file({"blocks.0.weight": torch.zeros(3, 3)}, path)
    else:
        save_file({k: v.contiguous() for k, v in weights.items() if "up_blocks" not in k}, path)
    with pytest.raises(ValueError, match=r"bad\.safetensors', which does not load"):
        load_generator(str(path), config=str(tmp_path / "model"))


def original_names(unet):
    """A UNet's weights as the original release names them."""
    keys = key_map(target_names(unet))
    norms = {"norm1": "in_layers.0", "norm2": "out_layers.0"}
    result = {}
    for name, tensor in unet.state_dict().items():
        layer, kind = name.rsplit(".", 1)
        if layer == "conv_norm_out":
            place = "out.0"
        elif layer in {part for parts in keys.layers.values() for part in parts}:
            place = keys.comfy_name(layer)
        elif ".resnets." in layer:  # its norms, found by the conv that follows them
            block, norm = layer.rsplit(".", 1)
            conv = keys.comfy_name(f"{block}.conv1")
            place = conv.removesuffix("in_layers.2") + norms[norm]
        else:  # norms inside of attention blocks
            block, rest = layer.split(".transformer_blocks.") if ".transformer_blocks." in layer else (layer[:-5], None)
            place = keys.comfy_name(f"{block}.proj_in").removesuffix("proj_in")
            place += f"transformer_blocks.{rest}" if rest else "norm"
        result[f"model.diffusion_model.{place}.{kind}"] = tensor
    return result


@pytest.mark.parametrize(
    ("kind", "remedy"),
    [(GatedRepoError, r"accept its terms.*hf auth login"), (RepositoryNotFoundError, "check the name")],
)
def test_hub_refusals_say_what_to_do(monkeypatch, kind, remedy):
    def refuse(*args, **kwargs):
        raise kind("no access", response=SimpleNamespace(headers={}, request=None))

    monkeypatch.setattr("diffusers.configuration_utils.hf_hub_download", refuse)
    with pytest.raises(ValueError, match=remedy):
        load_generator("some/model")


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text(
        json.dumps({"_class_name": "FluxPipeline", "vae": ["diffusers", "AutoencoderKL"]})
    )
    with pytest.raises(ValueError, match="does not load"):
        load_generator(str(tmp_path))


@pytest.mark.parametrize(
    ("scheduler", "kind", "words"),
    [
        ("EulerDiscreteScheduler", "trigflow", "EulerDiscreteScheduler with prediction_type 'trigflow', which is not"),
        ("EulerAncestralDiscreteScheduler", "sample", "with prediction_type 'sample', which it does not support"),
        ("FlowMatchEulerDiscreteScheduler", None, "FlowMatchEulerDiscreteScheduler with prediction_type None"),
    ],
)
def test_what_a_unet_predicts_must_be_known(tmp_path, scheduler, kind, words):
    pipeline = tiny_pipeline("sd-turbo")
    settings = {} if kind is None else {**SCHEDULE, "prediction_type": kind}
    pipeline.scheduler = getattr(diffusers, scheduler)(**settings)
    pipeline.save_pretrained(tmp_path / "mine")
    with pytest.raises(ValueError, match=f"model: mine has the scheduler .*{words}"):
        load_generator(str(tmp_path / "mine"))


def test_devices_that_are_not_there_are_named(saved):
    with pytest.raises(ValueError, match="nonsense"):
        load_generator(str(saved[1]), device="nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="cuda"):
            load_generator(str(saved[1]), device="cuda")


def test_adapters_of_another_family_are_refused_with_both_names(tmp_path):
    families = [tiny_generator(name) for name in BUILDERS]
    for family in families:
        LoraHypernetwork(family, rank=2, alpha=2).save(tmp_path / f"{family.family}.safetensors")
    for family in families:
        for other in families:
            if other is family:
                LoraHypernetwork.load(family, tmp_path / f"{other.family}.safetensors")
                continue
            with pytest.raises(ValueError, match=f"made for {other.name} .*does not fit {family.name}"):
                LoraHypernetwork.load(family, tmp_path / f"{other.family}.safetensors")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 7\n"


@pytest.fixture
def folder(tmp_path):
    tiny_pipeline("sd-turbo").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "name", ["unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors", "tokenizer/tokenizer.json"]
)
def test_a_pointer_of_git_lfs_in_a_folder_is_told(folder, name):
    (folder / name).write_bytes(POINTER)
    with pytest.raises(ValueError, match=rf"^model: .*{name} holds no data, it is a pointer of git-lfs"):
        load_generator(str(folder))


def test_pickles_are_refused_before_anything_is_read(folder, monkeypatch):
    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_pretrained", lambda *_, **__: pytest.fail("read"))
    (folder / "vae/diffusion_pytorch_model.safetensors").rename(folder / "vae/diffusion_pytorch_model.bin")
    with pytest.raises(ValueError, match=r"^model: .*vae/diffusion_pytorch_model\.bin is a pickle, which may run code"):
        load_generator(str(folder))


def test_missing_weights_are_named(folder):
    (folder / "unet/diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"^model: .*unet holds no weights"):
        load_generator(str(folder))
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "text_encoder/model.safetensors").rename(folder / "text_encoder/model-00001-of-00002.safetensors")
    (folder / "text_encoder/model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"lacks model-00002-of-00002\.safetensors, which model\.safetensors\.index"):
        load_generator(str(folder))


def test_pointers_and_pickles_of_a_denoiser_alone_are_told(folder, tmp_path):
    for name in ("mine.safetensors", "mine.gguf"):
        (tmp_path / name).write_bytes(POINTER)
        with pytest.raises(ValueError, match=rf"^model: .*{name} holds no data, it is a pointer of git-lfs"):
            load_generator(str(tmp_path / name), config=str(folder))
    tiny_pipeline("sd-turbo").unet.save_pretrained(tmp_path / "unet", safe_serialization=False)
    with pytest.raises(ValueError, match=r"^model: .*unet/diffusion_pytorch_model\.bin is a pickle"):
        load_generator(str(tmp_path / "unet"), config=str(folder))
