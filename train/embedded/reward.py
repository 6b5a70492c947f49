"""Stage 5: the reward of the embedded pipeline, a small `CLIPModel` trained to say whether images answer prompts.

As in SigLIP (Zhai et al. 2023), every image of a batch is asked about many prompts, each a yes-or-no question, not only
about its own caption. The exact detector gives the answers, and the prompts include near misses of each image. Targets
are soft, so that scores stay a few units apart. "Left of" stayed at chance for 2,300 steps, until every image was asked
about the plain relations of the things it shows and a head had learned to say where they are. That head, the head that
names what each patch shows, and the bias only help in training and are discarded. A score is CLIP's usual
exp(logit_scale) * cosine, as `ClipReward` computes it.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from torch import nn
from torch.nn import functional as F
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from hypernoise_core.embedded.scenes import SHAPES
from hypernoise_core.rewards.clip import preprocess

from .generator import Average
from .reward_pictures import CLASSES, PATCH, all_prompts, make_pictures
from .stage import Stage
from .text import OPENINGS, build_tokenizer, vocabulary

TOKENS = 16
"""Longest prompt in tokens, a little longer than any in training."""

TARGETS = (0.03, 0.80, 0.95)
"""Target probabilities of wrong, correct and strictly correct images: never certain, and cleaner is better."""


def reward_tokenizer() -> PreTrainedTokenizerFast:
    """The embedded pipeline's words. <eos> must not have id 2, because `CLIPTextModel` would then take the highest id
    for it."""
    return build_tokenizer(special=("<pad>", "<bos>", "<unk>", "<eos>"), longest=TOKENS)


def config(tokenizer: PreTrainedTokenizerFast) -> CLIPConfig:
    special = dict(
        pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id
    )
    text = dict(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=TOKENS,
        **special,
    )
    vision = dict(
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=5,
        num_attention_heads=4,
        image_size=64,
        patch_size=PATCH,
    )
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=192)


def _sine_positions(side: int, width: int) -> torch.Tensor:
    """[side * side, width]: the position of each patch. Starting from noise, positions are learned much later."""
    angle = torch.arange(side)[:, None] * torch.pi * 2.0 ** -torch.arange(width // 4)[None].mul(5 / (width // 4))
    line = torch.cat([angle.sin(), angle.cos()], 1)
    rows = line[:, None].expand(side, side, -1)
    columns = line[None].expand(side, side, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)


class Examinee(nn.Module):
    """The model with the parts that it needs only in training."""

    def __init__(self):
        super().__init__()
        self.clip = CLIPModel(config(reward_tokenizer()))
        vision = self.clip.config.vision_config
        self.patches = nn.Linear(vision.hidden_size, 1 + len(CLASSES))
        self.places = nn.Linear(vision.hidden_size, 2 * len(SHAPES))
        self.bias = nn.Parameter(torch.zeros(()))
        with torch.no_grad():
            positions = self.clip.vision_model.embeddings.position_embedding.weight
            positions[1:] = 0.2 * _sine_positions(vision.image_size // PATCH, vision.hidden_size)

    def forward(self, pictures: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Logits of each image for each prompt, [images, prompts], and of its patches, [images, 64, classes]; and the
        place of each shape, [images, shapes, 2] as (row, column) in [-1, 1]."""
        seen = self.clip.vision_model(pixel_values=preprocess(pictures, 64))
        read = self.clip.text_model(input_ids=ids, attention_mask=mask)
        image = F.normalize(self.clip.visual_projection(seen.pooler_output).float(), dim=-1)
        text = F.normalize(self.clip.text_projection(read.pooler_output).float(), dim=-1)
        logits = self.clip.logit_scale.exp() * image @ text.T + self.bias
        places = self.places(seen.pooler_output).float().unflatten(1, (len(SHAPES), 2))
        return logits, self.patches(seen.last_hidden_state[:, 1:]).float(), places


def place_error(places: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
    """Mean squared error of `places` against the middle of each shape's patches; absent shapes do not count."""
    classes = F.one_hot(patches, 1 + len(CLASSES))[..., 1:].float().transpose(1, 2)
    shown = classes.unflatten(1, (len(SHAPES), -1)).sum(2)  # [n, shapes, patches]
    axis = torch.linspace(-1, 1, round(patches.shape[1] ** 0.5))
    grid = torch.cartesian_prod(axis, axis)
    count = shown.sum(-1, keepdim=True)
    present = count.squeeze(-1) > 0
    return (places - shown @ grid / count.clamp_min(1))[present].square().mean()


class Questions:
    """The prompts that a batch of images is asked about."""

    def __init__(self):
        tokenizer, prompts = reward_tokenizer(), all_prompts()
        texts = [opening + prompt.text for opening in OPENINGS for prompt in prompts]
        tokens = tokenizer(texts, padding=True, return_tensors="pt")
        self.ids = tokens.input_ids.view(len(OPENINGS), len(prompts), -1)
        self.mask = tokens.attention_mask.view(len(OPENINGS), len(prompts), -1)
        self.kind = np.repeat(np.arange(len(vocabulary())), [len(kind) for kind in vocabulary().values()])
        words = np.array([(prompt.text.split() + 12 * [""])[:12] for prompt in prompts])
        # Always asked too: the plain relations. Of two things that are there, which stands where?
        self.relations = [i for i, prompt in enumerate(prompts) if prompt.relation and not prompt.wants[0].color]
        both = {prompt.wants: i for i, prompt in enumerate(prompts) if prompt.category == "two_object"}
        self.both = [both[prompts[i].wants] for i in self.relations]
        near_kind = (self.kind[:, None] == self.kind[None]) & ~np.eye(len(prompts), dtype=bool)
        near = near_kind & ((words[:, None] != words[None]).sum(-1) <= 3)
        self.near = [np.flatnonzero(row) for row in near]
        same: dict[tuple, list[int]] = {}
        for i, prompt in enumerate(prompts):
            same.setdefault(prompt.wants, []).append(i)
        self.turned = [
            [j for j in same[p.wants] if j != i and prompts[j].relation] if p.relation else []
            for i, p in enumerate(prompts)
        ]
        index = {prompt.text: i for i, prompt in enumerate(prompts)}
        swap = {"left": "right", "right": "left"}
        self.mirrored = np.array([index[" ".join(swap.get(w, w) for w in p.text.split())] for p in prompts])

    def choose(self, rng: np.random.Generator, meant: np.ndarray, truth: np.ndarray) -> np.ndarray:
        """For each image: the prompt that it was meant for, a prompt that is true of it, and a near miss of either: [3,
        images]. Every image is asked about all of them."""
        true = []
        for row, fallback in zip(truth, meant, strict=True):
            yes = np.flatnonzero(row)
            if len(yes):
                kind = rng.choice(np.unique(self.kind[yes]))
                true.append(rng.choice(yes[self.kind[yes] == kind]))
            else:
                true.append(fallback)
        base = np.where(rng.random(len(meant)) < 0.5, meant, true)
        turn = rng.random(len(meant)) < 0.6  # only the relation differs: the last thing to be learned
        misses = [self.turned[i] if t and self.turned[i] else self.near[i] for i, t in zip(base, turn, strict=True)]
        return np.stack([meant, true, [rng.choice(miss) for miss in misses]])


class Album:
    """The labelled images in memory, read in a seeded order. Every second one is mirrored."""

    def __init__(self, paths: list[Path], mirrored: np.ndarray):
        files = [torch.load(path, weights_only=True) for path in paths]
        self.data = {key: torch.cat([file[key] for file in files]) for key in files[0]}
        self.mirrored = mirrored

    def __call__(self, step: int, batch: int, rng: np.random.Generator) -> tuple[torch.Tensor, ...]:
        count = len(self.data["meant"])
        epoch, place = divmod(step, count // batch)
        rows = np.random.default_rng((5, epoch)).permutation(count)[place * batch :][:batch]
        data = {key: value[torch.from_numpy(rows)] for key, value in self.data.items()}
        pictures = data["pictures"].float().div(255).permute(0, 3, 1, 2)
        patches, meant, truth = data["patches"].long(), data["meant"].long().numpy(), data["truth"].numpy()
        flip = torch.from_numpy(rng.random(batch) < 0.5)
        pictures = torch.where(flip.view(-1, 1, 1, 1), pictures.flip(3), pictures)
        patches = torch.where(flip.view(-1, 1, 1), patches.flip(2), patches)
        turn = flip.numpy()
        meant = np.where(turn, self.mirrored[meant], meant)
        truth = np.where(turn[:, None], truth[:, self.mirrored], truth)
        return pictures, patches.flatten(1), meant, truth


def _balanced(losses: torch.Tensor, yes: torch.Tensor) -> torch.Tensor:
    """Mean loss over the yes answers plus mean loss over the no answers, because most answers are no."""
    return losses[yes].mean() + losses[~yes].mean()


def train(
    work: Path, autoencoder: AutoencoderDC, files: int = 36, steps: int = 4200, batch: int = 64, lr: float = 1e-3
) -> CLIPModel:
    """Train, resume, or just load the reward. Returns the averaged weights."""
    questions = Questions()
    album = Album(make_pictures(work, autoencoder, files), questions.mirrored)
    torch.manual_seed(0)
    model = Examinee()
    average = Average(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.02, betas=(0.9, 0.98))
    stage = Stage(work / "reward", "reward", steps, model=model, optimizer=optimizer, average=average)
    targets = torch.tensor(TARGETS)
    for step in stage.steps():
        rng, random = np.random.default_rng((6, step)), torch.Generator().manual_seed(step)
        pictures, patches, meant, truth = album(step, batch, rng)
        # Noise that the labels do not know of: scores that do not turn on single pixels give gradients one can follow.
        strength = 0.06 * torch.rand(batch, 1, 1, 1, generator=random)
        pictures = pictures + strength * torch.randn(pictures.shape, generator=random)
        asked = np.concatenate([questions.choose(rng, meant, truth).ravel(), questions.relations])
        opening = rng.choice(len(OPENINGS), size=asked.size)
        ids, mask = questions.ids[opening, asked], questions.mask[opening, asked]
        answer = torch.from_numpy(truth[:, asked]).long()
        optimizer.param_groups[0]["lr"] = stage.cosine(lr, warmup=200)
        with torch.autocast("cpu", torch.bfloat16):
            logits, named, places = model(pictures, ids, mask)
        losses, yes = F.binary_cross_entropy_with_logits(logits, targets[answer], reduction="none"), answer > 0
        own = torch.arange(batch).repeat(3), torch.arange(3 * batch)
        asked_all, asked_own = _balanced(losses, yes), _balanced(losses[own], yes[own])
        both = torch.zeros_like(yes)
        both[:, 3 * batch :] = torch.from_numpy(truth[:, questions.both] > 0)
        relation = _balanced(losses[both], yes[both])
        patch, place = F.cross_entropy(named.flatten(0, 1), patches.flatten()), place_error(places, patches)
        optimizer.zero_grad(set_to_none=True)
        (asked_all + asked_own + relation + patch + 4 * place).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        average.update(model)
        right = (logits[own] > 0) == yes[own]
        stage.log(
            all=asked_all.item(), own=asked_own.item(), patch=patch.item(), place=place.item(),
            right=right.float().mean().item(), relation=relation.item(),
            scale=model.clip.logit_scale.exp().item(),
        )  # fmt: skip
    return average.model.clip


def save(clip: CLIPModel, folder: Path) -> None:
    """Write the model in half precision and its tokenizer, for `from_pretrained`."""
    half = CLIPModel(clip.config)
    half.load_state_dict(clip.state_dict())
    half.half().save_pretrained(folder)
    reward_tokenizer().save_pretrained(folder)
