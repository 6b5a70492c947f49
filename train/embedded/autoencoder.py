"""Stage 1: the `AutoencoderDC` of the embedded pipeline, from 64x64 images to 8x8 latents of 16 channels.

The loss is L1 + 2 MSE on drawn scenes, plus a penalty per channel that keeps latents near zero mean and unit variance.
Noise on the latents makes the decoder robust to a generator's small errors. The last part trains only the decoder.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC

from hypernoise_core.embedded.detector import detect
from hypernoise_core.embedded.scenes import draw, random_scene

from .stage import Stage

CONFIG = dict(
    latent_channels=16,
    attention_head_dim=32,
    encoder_block_out_channels=(16, 32, 64, 128),
    decoder_block_out_channels=(16, 32, 64, 128),
    encoder_layers_per_block=(0, 1, 1, 2),  # nothing at full resolution: three times as fast
    decoder_layers_per_block=(0, 1, 1, 2),
    encoder_qkv_multiscales=((), (), (), ()),
    decoder_qkv_multiscales=((), (), (), ()),
)


def pictures(rng: np.random.Generator, count: int) -> torch.Tensor:
    """Images of random scenes: [count, 3, 64, 64] in [-1, 1]."""
    batch = np.stack([draw(random_scene(rng)) for _ in range(count)])
    return torch.from_numpy(batch).permute(0, 3, 1, 2) * 2 - 1


def reconstruction_score(autoencoder: AutoencoderDC, count: int = 200) -> float:
    """The share of drawn scenes in which the detector finds the same things after encoding and decoding."""
    rng = np.random.default_rng(999)
    scenes = [random_scene(rng) for _ in range(count)]
    x = torch.from_numpy(np.stack([draw(s) for s in scenes])).permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        y = autoencoder.decode(autoencoder.encode(x).latent).sample
    hits = 0
    for scene, picture in zip(scenes, y.clamp(-1, 1) / 2 + 0.5, strict=True):
        found = detect(picture.permute(1, 2, 0).numpy())
        same = sorted((t.shape, t.color) for t in found.things) == sorted((t.shape, t.color) for t in scene.things)
        hits += same and not found.unknown
    return hits / count


def train(work: Path, steps: int = 3200, batch: int = 32, lr: float = 2e-3, seed: int = 0) -> AutoencoderDC:
    """Train, resume, or just load the autoencoder. Its latents have unit variance after `scaling_factor`."""
    torch.manual_seed(seed)
    model = AutoencoderDC(**CONFIG).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-4, betas=(0.9, 0.98))
    stage = Stage(work / "autoencoder", "autoencoder", steps, model=model, optimizer=optimizer)
    decoder_only_from = int(0.8 * steps)
    for step in stage.steps():
        rng = np.random.default_rng((seed, step))
        x = pictures(rng, batch).to(memory_format=torch.channels_last)
        optimizer.param_groups[0]["lr"] = stage.cosine(lr, warmup=50)
        with torch.autocast("cpu", torch.bfloat16):
            with torch.set_grad_enabled(step < decoder_only_from):
                z = model.encode(x).latent
            z = z.float()
            noisy = z + torch.rand(batch, 1, 1, 1) * 0.3 * torch.randn_like(z)
            y = model.decode(noisy).sample.float()
        loss = (y - x).abs().mean() + 2 * (y - x).square().mean()
        if step < decoder_only_from:
            mean, std = z.mean((0, 2, 3)), z.std((0, 2, 3))
            loss = loss + 0.01 * (mean.square() + (std - 1).square()).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        stage.log(loss=loss.item())
        if step % 400 == 399:
            stage.log_now(reconstruction=reconstruction_score(model))
    model = model.to(memory_format=torch.contiguous_format).eval()
    with torch.no_grad():
        z = torch.cat([model.encode(pictures(np.random.default_rng((seed, 10**6, i)), 64)).latent for i in range(8)])
    model.register_to_config(scaling_factor=round(1 / z.std().item(), 4))
    return model
