"""A few-step LoRA in the generator, the sampler that goes with it, and a denoiser in place of the pipeline's own."""

import warnings

import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler, LCMScheduler, TCDScheduler
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from reference import pipeline_pictures
from safetensors.torch import load_file, save_file
from test_flow_training import SMALL, redness
from tiny_pipelines import PROMPTS, tiny_pipeline

from hypernoise_core import Trainer, TrainingConfig, load_generator, load_hypernetwork
from train import generate

FAMILIES = ["sd-turbo", "sdxl-turbo", "qwen-image"]


def denoiser_of(pipeline):
    return ("unet", pipeline.unet) if hasattr(pipeline, "unet") else ("transformer", pipeline.transformer)


def save_lora(folder, family):
    """A random LoRA on some layers of the family's tiny denoiser, as diffusers' training scripts save it."""
    pipeline = tiny_pipeline(family)
    name, denoiser = denoiser_of(pipeline)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        denoiser.add_adapter(LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    layers = {f"{name}_lora_layers": get_peft_model_state_dict(denoiser)}
    type(pipeline).save_lora_weights(folder, weight_name=f"{family}.safetensors", **layers)
    return folder / f"{family}.safetensors"


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folders of pipelines and files of LoRAs, by family."""
    folder = tmp_path_factory.mktemp("files")
    for name in FAMILIES:
        tiny_pipeline(name).save_pretrained(folder / name)
    return {name: (folder / name, save_lora(folder, name)) for name in FAMILIES}


def pictures(generator):
    return generator.generate(generator.noise(2, 32, 64, seed=1), generator.encode(PROMPTS[:2]), 2)


def test_it_makes_the_pictures_of_diffusers_own_loading(family, files):
    folder, file = files[family]
    content = {path: path.read_bytes() for path in folder.rglob("*.safetensors")}
    plain, generator = load_generator(str(folder)), load_generator(str(folder), generator_lora=f"{file}=0.5")
    reference = load_generator(str(folder))
    reference.pipeline.load_lora_weights(str(file.parent), weight_name=file.name, adapter_name="other")
    reference.pipeline.set_adapters(["other"], [0.5])
    with torch.no_grad():
        got, expected = (
            pictures(generator),
            pipeline_pictures(reference, generator.noise(2, 32, 64, seed=1), PROMPTS[:2], 2),
        )
        assert (got - expected).abs().max() < 1e-5
        assert (got - pictures(plain)).abs().max() > 1e-4
    before, after = plain.denoiser.state_dict(), generator.denoiser.state_dict()
    assert before.keys() == after.keys()
    changed = {name for name in after if not torch.equal(after[name], before[name])}
    assert changed
    assert all(name.endswith(("to_q.weight", "to_v.weight")) for name in changed)
    assert content == {path: path.read_bytes() for path in content}


def test_an_adapter_says_what_it_was_trained_on_and_a_mismatch_is_told(files, tmp_path):
    folder, file = files["qwen-image"]
    generator = load_generator(str(folder), generator_lora=str(file))
    config = TrainingConfig(hypernetwork="head", teacher="critic", steps=2, **SMALL)
    trainer = Trainer(generator, redness(), PROMPTS, config)
    list(trainer.events())
    trainer.save(tmp_path / "f.safetensors")
    renamed = tmp_path / "renamed.safetensors"
    renamed.write_bytes(file.read_bytes())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = load_generator(str(folder), generator_lora=str(renamed))
        assert load_hypernetwork(same, tmp_path / "f.safetensors").training["generator_lora"] == generator.lora
    for other in (None, f"{file}=0.5"):
        with pytest.warns(UserWarning, match="was trained with the generator LoRA qwen-image=1 .*, and is used with"):
            load_hypernetwork(load_generator(str(folder), generator_lora=other), tmp_path / "f.safetensors")


def test_a_pointer_of_git_lfs_is_told(files, tmp_path):
    (tmp_path / "some.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    with pytest.raises(ValueError, match=r"^generator_lora: .*some\.safetensors holds no data, it is a pointer of git"):
        load_generator(str(files["sd-turbo"][0]), generator_lora=str(tmp_path / "some.safetensors"))


@pytest.mark.parametrize(
    ("model", "lora", "layer"),
    [
        ("sd-turbo", "sdxl-turbo", "attn2.to_v"),
        ("sd-turbo", "qwen-image", r"transformer_blocks\.0\.attn\.to_q"),
        ("qwen-image", "sd-turbo", r"down_blocks\.0\.attentions"),
    ],
)
def test_one_that_does_not_fit_is_named_with_a_layer(model, lora, layer, files):
    with pytest.raises(ValueError, match=rf"generator_lora is '.*{lora}\.safetensors', which does not fit .*{layer}"):
        load_generator(str(files[model][0]), generator_lora=str(files[lora][1]))


def test_one_with_a_layer_too_many_is_refused(files, tmp_path):
    folder, file = files["qwen-image"]
    more = {key.replace("blocks.0", "blocks.7"): value for key, value in load_file(file).items()}
    save_file(load_file(file) | more, tmp_path / "more.safetensors")
    with pytest.raises(
        ValueError, match=r"more\.safetensors', which does not fit .*no layer transformer_blocks\.7\.attn"
    ):
        load_generator(str(folder), generator_lora=str(tmp_path / "more.safetensors"))


@pytest.mark.parametrize(
    ("told", "words"),
    [("nothing.safetensors", "there is no such file"), ("{file}=big", "give FILE, or FILE=SCALE"), ("=1", "give FILE")],
)
def test_what_cannot_be_read_is_named_as_it_was_typed(told, words, files, tmp_path):
    folder, file = files["sd-turbo"]
    line = [f"--model={folder}", "--prompt=a cross", f"--save_dir={tmp_path / 'out'}"]
    with pytest.raises(ValueError, match=f"--generator_lora is .*{words}"):
        generate.main([*line, f"--generator_lora={told.format(file=file)}"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("lcm", LCMScheduler),
        ("euler", EulerDiscreteScheduler),
        ("ddim-trailing", DDIMScheduler),
        ("tcd", TCDScheduler),
    ],
)
def test_stable_diffusions_schedulers_are_diffusers_own(name, kind, files):
    generator = load_generator(str(files["sdxl-turbo"][0]), scheduler=name)
    assert type(generator.pipeline.scheduler) is kind
    x0 = generator.noise(2, 32, 64, seed=2)
    for steps in (1, 4):
        with torch.no_grad():
            got = generator.generate(x0, generator.encode(PROMPTS[:2]), steps, seed=7)
            eta = {"eta": 0.3} if name == "tcd" else {}  # TCD's own default; the pipeline's, 0, adds no noise
            expected = pipeline_pictures(generator, x0, PROMPTS[:2], steps, seed=7, **eta)
            assert (got - expected).abs().max() < 1e-5


def test_a_flow_takes_euler_lcm_and_a_static_shift(tmp_path):
    pipeline = tiny_pipeline("flux")
    terminal = {"use_dynamic_shifting": True, "shift_terminal": 0.02}
    pipeline.register_modules(scheduler=type(pipeline.scheduler).from_config(pipeline.scheduler.config, **terminal))
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no schedule"):
        load_generator(str(tmp_path)).check_steps(1)
    sigmas = {}
    for name, shift in (("euler", None), ("euler", 3.0), ("lcm", 3.0)):
        generator = load_generator(str(tmp_path), scheduler=name, shift=shift)
        assert generator.adds_noise == (name == "lcm")
        x0 = generator.noise(2, 32, 64, seed=2)
        for steps in (1, 4):
            with torch.no_grad():
                expected = pipeline_pictures(generator, x0, PROMPTS[:2], steps, seed=7)
                got = generator.generate(x0, generator.encode(PROMPTS[:2]), steps, seed=7)
            sigmas[name, shift] = generator.pipeline.scheduler.sigmas
            if name == "euler":  # the pipeline gives its scheduler no stream to draw from
                assert (got - expected).abs().max() < 1e-5
            assert got.isfinite().all()
    assert torch.allclose(sigmas["euler", 3.0], torch.tensor([1, 0.9, 0.75, 0.5, 0]))


@pytest.mark.parametrize(
    ("family", "option", "words"),
    [
        ("qwen-image", "--scheduler=tcd", "--scheduler is 'tcd', which qwen-image cannot use: give euler or lcm"),
        ("sd-turbo", "--shift=3", "--shift is 3.0, and sd-turbo is no rectified flow"),
        ("qwen-image", "--shift=0", "--shift is 0.0: give a number above 0"),
        ("sd-turbo", "--scheduler=heun", "--scheduler is 'heun': give lcm, euler, ddim-trailing or tcd"),
    ],
)
def test_a_scheduler_that_the_family_cannot_use_is_refused(family, option, words, files, tmp_path):
    with pytest.raises(ValueError, match=words):
        generate.main([f"--model={files[family][0]}", "--prompt=a", option, f"--save_dir={tmp_path / 'out'}"])
    assert not (tmp_path / "out").exists()


def test_a_folder_with_a_denoiser_alone_takes_the_place_of_the_pipelines(files, tmp_path):
    folder, _ = files["sd-turbo"]
    other = tiny_pipeline("sd-turbo", seed=2).unet
    other.save_pretrained(tmp_path / "unet")
    generator = load_generator(str(tmp_path / "unet"), config=str(folder))
    assert generator.name == "unet"
    assert all(torch.equal(v, generator.denoiser.state_dict()[k]) for k, v in other.state_dict().items())
