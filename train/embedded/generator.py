"""Stages 2 and 3: pairs of noise and image, and the one-step generator trained on them.

At full noise (s = 1) the network regresses the scene that the noise is paired with: this is the one-step generator.
Below full noise it is an ordinary denoiser on independent noise, which SANA-Sprint's sampler needs from the second step
on. In the transformer's coordinates, x_s = s z + (1 - s) x, and it predicts v = z - x.
"""

import copy
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC, SanaTransformer2DModel
from torch import nn
from tqdm import tqdm
from transformers import Gemma2Model

from hypernoise_core.embedded.prompts import Prompt
from hypernoise_core.embedded.scenes import Scene

from .coupling import Coupling, encode
from .reading import Reading
from .stage import Stage
from .text import build_tokenizer, sample_prompt, text_config, vocabulary

CONFIG = dict(
    in_channels=16,
    out_channels=16,
    num_attention_heads=4,
    attention_head_dim=32,
    num_layers=6,
    num_cross_attention_heads=4,
    cross_attention_head_dim=32,
    cross_attention_dim=128,
    caption_channels=128,
    mlp_ratio=2.5,
    sample_size=8,
    patch_size=1,
    interpolation_scale=1.0,  # sine positions: without them "left of" is learned hours later
    guidance_embeds=True,
    guidance_embeds_scale=0.1,
    qk_norm="rms_norm_across_heads",
)
GUIDANCE = 4.5 * CONFIG["guidance_embeds_scale"]
"""The default of `SanaSprintPipeline`. The network never learns to distinguish guidance scales."""

THING_WEIGHT = 4
"""Weight in the loss of latent cells that show a thing. Cells that show only background have weight 1."""

READING_WEIGHT = 0.1

TOKENS = 16
"""Longest prompt in tokens during training. Padding is masked, so the pipeline's 300 give the same image."""


def thing_cells(scenes: list[Scene]) -> torch.Tensor:
    """Which cells of the latents show a part of a thing: bool [n, 1, 8, 8]."""
    middle = torch.arange(4, 64, 8)
    cells = torch.zeros(len(scenes), 1, 8, 8, dtype=torch.bool)
    for shown, scene in zip(cells, scenes, strict=True):
        for thing in scene.things:
            near_x, near_y = abs(middle - thing.x) < thing.radius + 4, abs(middle - thing.y) < thing.radius + 4
            shown |= near_y[:, None] & near_x
    return cells


def noise_of(index: int, count: int) -> torch.Tensor:
    """The noises of one file of pairs: [count, 16, 8, 8]."""
    return torch.randn(count, 16, 8, 8, generator=torch.Generator().manual_seed(10_000 + index))


def prompts_of(index: int, count: int) -> list[Prompt]:
    """The prompts of one file of pairs."""
    rng, kinds = np.random.default_rng((1, index)), vocabulary()
    return [sample_prompt(rng, kinds) for _ in range(count)]


def make_pairs(work: Path, autoencoder: AutoencoderDC, files: int, per_file: int = 2000) -> list[Path]:
    """Write prompts and latents of the scenes that seeded noises are paired with. Existing files are kept."""
    folder = work / "pairs"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:04d}.pt" for i in range(files)]
    missing = [i for i, path in enumerate(paths) if not path.exists()]
    if not missing:
        return paths
    coupling, tokenizer = Coupling(autoencoder), build_tokenizer()
    for i in tqdm(missing, desc="pairs"):
        noise = noise_of(i, per_file).flatten(1).numpy()
        prompts = prompts_of(i, per_file)
        scenes = [coupling.scene(z, prompt) for z, prompt in zip(noise, prompts, strict=True)]
        tokens = tokenizer([p.text for p in prompts], padding="max_length", max_length=TOKENS, return_tensors="pt")
        content = {
            "latents": encode(autoencoder, scenes).half(),
            "things": thing_cells(scenes),
            "ids": tokens.input_ids.short(),
            "mask": tokens.attention_mask.bool(),
        }
        temporary = paths[i].with_suffix(".tmp")
        torch.save(content, temporary)
        temporary.rename(paths[i])
    return paths


class Sprinter(nn.Module):
    """Text encoder and transformer together, called as `SanaSprintPipeline` calls them."""

    def __init__(self):
        super().__init__()
        self.text_encoder = Gemma2Model(text_config(len(build_tokenizer())))
        self.transformer = SanaTransformer2DModel(**CONFIG)

    def read(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The text encoder's states: [B, tokens, 128]."""
        return self.text_encoder(ids, attention_mask=mask).last_hidden_state

    def forward(self, x: torch.Tensor, s: torch.Tensor, text: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The velocity [B, 16, 8, 8] at noise level `s` [B], given the output of `read` for the prompts."""
        return self.transformer(
            x,
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            timestep=s,
            guidance=torch.full_like(s, GUIDANCE),
            return_dict=False,
        )[0]


class Average:
    """Exponential moving average of weights. Early on it averages over fewer steps."""

    def __init__(self, model: nn.Module, decay: float = 0.998):
        self.model, self.decay, self.count = copy.deepcopy(model).requires_grad_(False).eval(), decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        self.count += 1
        weight = 1 - min(self.decay, self.count / (self.count + 10))
        for average, current in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(current, weight)

    def state_dict(self) -> dict:
        return {"count": self.count, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        self.count = state["count"]
        self.model.load_state_dict(state["model"])


class Pairs:
    """Reads the files of pairs in a seeded order. Its state is only its position."""

    def __init__(self, paths: list[Path], batch: int):
        self.paths, self.batch, self._loaded = paths, batch, (-1, None)

    def __call__(self, step: int) -> tuple[dict[str, torch.Tensor], list[Prompt]]:
        data = self._file(0)
        per_file = len(data["ids"]) // self.batch
        epoch, place = divmod(step // per_file, len(self.paths))
        order = np.random.default_rng((2, epoch)).permutation(len(self.paths))
        data = self._file(int(order[place]))
        rows = np.random.default_rng((3, step // per_file)).permutation(len(data["ids"]))
        part = torch.from_numpy(rows[step % per_file * self.batch :][: self.batch])
        return {key: value[part] for key, value in data.items()}, [self._prompts[i] for i in part.tolist()]

    def _file(self, index: int) -> dict[str, torch.Tensor]:
        if self._loaded[0] != index:
            data = torch.load(self.paths[index], weights_only=True)
            data["noise"] = noise_of(index, len(data["ids"]))
            self._loaded = (index, data)
            self._prompts = prompts_of(index, len(data["ids"]))
        return self._loaded[1]


def _levels(count: int, random: torch.Generator) -> torch.Tensor:
    """Noise levels below full noise: [count]. More than half are near the level of the sampler's second step (0.78 of
    two steps, 0.71 of four), where layouts are corrected."""
    low, high = torch.tensor([[0.05, 0.95], [0.65, 0.88]])[(torch.rand(count, generator=random) < 0.6).long()].T
    return low + (high - low) * torch.rand(count, generator=random)


def train(
    work: Path,
    autoencoder: AutoencoderDC,
    paths: list[Path],
    steps: int = 6_000,
    settle_from: int = 1_500,
    batch: int = 32,
    one_step: float = 0.6,
    lr: float = 2e-3,
) -> Sprinter:
    """Train, resume, or just load the generator. Returns the averaged weights.

    `one_step` is the share of a batch at full noise. From step `settle_from` on, the choice of a noise's scene also
    depends on what the generator already makes of the noise (`Coupling.scene`). Regression alone would fade where two
    scenes are about equally near, and would learn to decide only slowly.
    """
    torch.manual_seed(0)
    model = Sprinter()
    average, reading = Average(model), Reading(CONFIG["caption_channels"], build_tokenizer())
    parameters = [*model.parameters(), *reading.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.01, betas=(0.9, 0.98))
    parts = dict(model=model, optimizer=optimizer, average=average, reading=reading)
    stage = Stage(work / "generator", "generator", steps, **parts)
    pairs = Pairs(paths, batch)
    coupling = Coupling(autoencoder)
    full = round(one_step * batch)
    for step in stage.steps():
        data, prompts = pairs(step)
        random = torch.Generator().manual_seed(step)
        x, coupled = data["latents"].float(), data["noise"]
        z = torch.cat([coupled[:full], torch.randn(coupled[full:].shape, generator=random)])
        s = torch.cat([torch.ones(full), _levels(batch - full, random)])
        s_ = s.view(-1, 1, 1, 1)
        optimizer.param_groups[0]["lr"] = stage.cosine(lr, warmup=200)
        shown = s_ * z + (1 - s_) * x
        ids, mask, things = data["ids"].long(), data["mask"].long(), data["things"]
        with torch.autocast("cpu", torch.bfloat16):
            text = model.read(ids, mask)
            v = model(shown, s, text, mask).float()
        if step >= settle_from:
            outputs = (shown - s_ * v.detach()).flatten(1).numpy()
            cases = zip(coupled.flatten(1).numpy(), prompts, shown.flatten(1).numpy(), outputs, strict=True)
            scenes = [coupling.scene(*case) for case in cases]
            decided = s_ > 0.5  # at less noise there is nothing left to decide
            x = torch.where(decided, encode(autoencoder, scenes), x)
            things = torch.where(decided, thing_cells(scenes), things)
            z = (shown - (1 - s_) * x) / s_  # the noise that would have shown it
        weight = 1.0 + (THING_WEIGHT - 1) * things
        error = ((v - (z - x)).square() * weight).mean((1, 2, 3)) / weight.mean()
        questions = reading(text, ids, prompts)
        optimizer.zero_grad(set_to_none=True)
        (error.mean() + READING_WEIGHT * questions).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.update(model)
        stage.log(one_step=error[:full].mean().item(), denoise=error[full:].mean().item(), reading=questions.item())
    return average.model
