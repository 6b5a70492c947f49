"""How many tokens of a prompt a model reads: a setting, kept in an adapter's file, and told where it differs."""

import pytest
import torch
from conftest import randomized
from tiny_pipelines import PROMPTS, tiny_generator, tiny_pipeline

from hypernoise_core import LoraHypernetwork, Trainer, TrainingConfig, load_generator, load_hypernetwork


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "flux"
    tiny_pipeline("flux").save_pretrained(folder)
    return folder


def test_flux_is_told_how_long_its_texts_are(folder):
    usual, short = load_generator(str(folder)), load_generator(str(folder), text_length=8)
    assert (usual.text_length, short.text_length) == (16, 8)  # the tokenizer takes no more
    assert short.encode(PROMPTS)["embeds"].shape[1] == 8
    pipeline = tiny_pipeline("flux")
    pipeline.text_encoder_2.eval()
    expected = pipeline.encode_prompt(PROMPTS, None, max_sequence_length=8)[0]
    assert torch.allclose(short.encode(PROMPTS)["embeds"], expected, atol=1e-6)
    with pytest.warns(UserWarning, match="cut to the first 8"):
        short.encode(["red " * 9])


@pytest.mark.parametrize(
    ("family", "length", "told"),
    [
        ("flux", 17, r"^text_length is 17: tiny-flux takes 1 to 16 tokens"),
        ("flux", 0, r"^text_length is 0: tiny-flux takes 1"),
        ("sd-turbo", 8, r"^text_length is 8, and tiny-sd-turbo always reads CLIP's 16 tokens"),
    ],
)
def test_lengths_that_cannot_be_are_refused(family, length, told):
    with pytest.raises(ValueError, match=told):
        tiny_generator(family).set_text_length(length)


def test_an_adapter_keeps_the_length_and_another_is_told(folder, redness, tmp_path, recwarn):
    generator = load_generator(str(folder), text_length=8)
    config = TrainingConfig(rank=2, alpha=4, batch_size=1, max_steps=1, warmup_steps=0, diagnostics_every=0)
    Trainer(generator, redness, PROMPTS[:1], config).save(tmp_path / "f.safetensors")
    assert load_hypernetwork(generator, tmp_path / "f.safetensors").training["text_length"] == "8"
    assert not [w for w in recwarn if "was trained with texts" in str(w.message)]
    with pytest.warns(UserWarning, match="was trained with texts of 8 tokens, and flux reads them as 16 now"):
        load_hypernetwork(load_generator(str(folder)), tmp_path / "f.safetensors")


def test_files_that_do_not_say_it_are_loaded_without_a_word(tmp_path, recwarn):
    generator = tiny_generator("flux")
    randomized(LoraHypernetwork(generator, rank=2, alpha=4)).save(tmp_path / "f.safetensors")
    load_hypernetwork(generator, tmp_path / "f.safetensors")
    assert not [w for w in recwarn if "was trained with texts" in str(w.message)]
