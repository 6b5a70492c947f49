"""Stage 4: the trained parts as a `SanaSprintPipeline`, saved by diffusers in half precision, reloaded and compared."""

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderDC, SanaSprintPipeline, SCMScheduler

from hypernoise_core.generators import load_generator

from .generator import Sprinter
from .text import build_tokenizer


def save(folder: Path, autoencoder: AutoencoderDC, sprinter: Sprinter) -> None:
    """Write the pipeline to `folder`, replacing its content, and check that it makes the same images."""
    scheduler = SCMScheduler(sigma_data=0.5)
    pipeline = SanaSprintPipeline(
        build_tokenizer(), sprinter.text_encoder, autoencoder, sprinter.transformer, scheduler
    ).to(torch.float16)
    temporary = folder.with_name(f"{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    pipeline.save_pretrained(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)
    pipeline.to(torch.float32)
    _check(folder, autoencoder, sprinter)


@torch.no_grad()
def _check(folder: Path, autoencoder: AutoencoderDC, sprinter: Sprinter) -> None:
    """Check a saved pipeline: its images must be those of the weights in memory, because it could hold untrained
    weights by mistake."""
    generator = load_generator(str(folder))
    prompts = ["a photo of a red square", "a photo of three crosses"]
    x0 = generator.noise(2, seed=1)
    tokens = build_tokenizer()(prompts, padding="max_length", max_length=16, return_tensors="pt")
    text = sprinter.read(tokens.input_ids, tokens.attention_mask)
    v = sprinter(x0, torch.ones(2), text, tokens.attention_mask)
    expected = (autoencoder.decode((x0 - v) / autoencoder.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)
    difference = (generator.generate(x0, generator.encode(prompts)) - expected).abs().max()
    assert difference < 1e-3, f"the saved pipeline's pictures differ by {difference:.2g} from the trained weights'"
