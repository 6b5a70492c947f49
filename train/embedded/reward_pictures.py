"""Stage 4: images for training the reward, good and spoilt ones, with the detector's verdict on every prompt.

A prompt's scene is drawn and then, usually, spoilt in the ways of a one-step generator: a second, slightly different
scene shines through in the latents (as regression gives for noises between two scenes), latents are noisy or too small,
things fade, edges blur. Nothing is sampled from the generator. The detector says what is left of the scene.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderDC
from scipy import ndimage
from tqdm import tqdm

from hypernoise_core.embedded.detector import Detection, answers, detect
from hypernoise_core.embedded.prompts import Prompt, relation_holds
from hypernoise_core.embedded.scenes import (
    COLORS,
    SHAPES,
    SIZE,
    Scene,
    Thing,
    apart,
    draw,
    random_background,
    random_scene,
)

from .coupling import DISTANCES, RADII, encode
from .text import SHARES, vocabulary

PATCH = 8
"""Side of the vision tower's patches, in pixels."""

CLASSES = tuple((shape, color) for shape in SHAPES for color in COLORS)
"""The classes of a patch; 0 is none of them, i + 1 is the i-th."""

_COLORS = tuple(COLORS)


def all_prompts() -> list[Prompt]:
    return [prompt for kind in vocabulary().values() for prompt in kind]


def _pick(rng: np.random.Generator, values: tuple[str, ...], but: str | None = None) -> str:
    return str(rng.choice([value for value in values if value != but]))


def _place(rng: np.random.Generator, radius: float, others: list[Thing], tries: int = 40) -> tuple[float, float] | None:
    for _ in range(tries):
        x, y = rng.uniform(radius + 1, SIZE - radius - 1, size=2)
        if all(apart(x, y, radius, other) for other in others):
            return x, y
    return None


def prompted_scene(rng: np.random.Generator, prompt: Prompt) -> Scene:
    """A scene that answers a prompt, with things about as large as the generator's."""
    wants = [want for want in prompt.wants for _ in range(want.count)]
    radius = RADII[len(wants)] * rng.uniform(*DISTANCES)
    while True:
        things: list[Thing] = []
        for want in wants:
            if place := _place(rng, radius, things):
                things.append(Thing(want.shape, want.color or _pick(rng, _COLORS), *place, radius))
        if len(things) == len(wants) and (not prompt.relation or relation_holds(prompt.relation, *things, 0.6)):
            return Scene(tuple(things), random_background(rng))


def mistaken(rng: np.random.Generator, scene: Scene, kind: str | None = None) -> Scene:
    """The scene with one change that a generator may hesitate over: one thing moved, recoloured, reshaped, lost or
    added, traits of two things exchanged, or all things recoloured or reshaped in place. If `kind` is None, it is
    drawn."""
    things = list(scene.things)
    kinds = ["move", "move", "color", "shape", "all colors", "all shapes"]
    kinds += ["lose", "swap places", "swap colors"] if len(things) > 1 else []
    kinds += ["add"] if len(things) < 5 else []
    kind, i = kind or rng.choice(kinds), int(rng.integers(len(things)))
    thing = things.pop(i)
    if kind.startswith("swap"):
        other = things.pop(int(rng.integers(len(things))))
        traits = ("x", "y") if kind == "swap places" else ("color",)
        things.append(replace(thing, **{trait: getattr(other, trait) for trait in traits}))
        things.append(replace(other, **{trait: getattr(thing, trait) for trait in traits}))
    elif kind == "color":
        things.append(replace(thing, color=_pick(rng, _COLORS, but=thing.color)))
    elif kind == "shape":
        things.append(replace(thing, shape=_pick(rng, SHAPES, but=thing.shape)))
    elif kind == "all colors":
        things = [replace(t, color=_pick(rng, _COLORS, but=t.color)) for t in scene.things]
    elif kind == "all shapes":
        things = [replace(t, shape=_pick(rng, SHAPES, but=t.shape)) for t in scene.things]
    elif kind == "move":
        place = _place(rng, thing.radius, things) or (thing.x, thing.y)
        things.append(replace(thing, x=place[0], y=place[1]))
    elif kind == "add":
        things.append(thing)
        if place := _place(rng, thing.radius, things):
            things.append(Thing(_pick(rng, SHAPES), _pick(rng, _COLORS), *place, thing.radius))
    return replace(scene, things=tuple(things))


def _mask(rng: np.random.Generator) -> np.ndarray:
    """How much of the second scene shines through, [1, 8, 8] in [0, 1]: uniformly, or in smooth blotches."""
    if rng.random() < 0.6:
        return np.full((1, 8, 8), rng.uniform(), np.float32)
    field = ndimage.gaussian_filter(rng.standard_normal((8, 8)), rng.uniform(1, 2.5), mode="nearest")
    return (1 / (1 + np.exp(-3 * (field - field.mean()) / field.std() + rng.normal())))[None].astype(np.float32)


def _spoil_latents(rng: np.random.Generator, latent: np.ndarray, other: np.ndarray) -> np.ndarray:
    if rng.random() < 0.8:
        mask = _mask(rng)
        latent = latent * (1 - mask) + other * mask
    if rng.random() < 0.5:
        noise = rng.standard_normal(latent.shape)
        if rng.random() < 0.5:
            noise = ndimage.gaussian_filter(noise, (0, 0.7, 0.7)) * 2.5
        latent = latent + rng.uniform(0, 0.7) * noise
    return latent * rng.uniform(0.8, 1.05)


def _spoil_picture(rng: np.random.Generator, picture: np.ndarray, empty: np.ndarray) -> np.ndarray:
    if rng.random() < 0.15:  # things fade into the background
        picture = empty + (picture - empty) * rng.uniform(0.3, 1)
    if rng.random() < 0.15:
        picture = ndimage.gaussian_filter(picture, (*[rng.uniform(0.5, 2.5)] * 2, 0))
    return picture


def patch_classes(detection: Detection) -> np.ndarray:
    """The class of thing over the middle of each patch: uint8 [8, 8]."""
    classes = np.zeros((SIZE // PATCH, SIZE // PATCH), np.uint8)
    y, x = np.mgrid[0:SIZE:PATCH, 0:SIZE:PATCH] + PATCH / 2
    for thing in detection.things:
        inside = np.maximum(abs(x - thing.x), abs(y - thing.y)) <= thing.radius + 1
        classes[inside] = 1 + CLASSES.index((thing.shape, thing.color))
    return classes


def spoilt_pictures(
    rng: np.random.Generator, autoencoder: AutoencoderDC, count: int
) -> tuple[list[int], list[np.ndarray]]:
    """(index of the prompt that each image was meant for, images [64, 64, 3] in [0, 1])."""
    kinds = vocabulary()
    sizes = [len(prompts) for prompts in kinds.values()]
    starts = dict(zip(kinds, np.cumsum([0, *sizes[:-1]]), strict=True))
    meant, scenes, seconds = [], [], []
    for _ in range(count):
        kind = str(rng.choice(list(SHARES), p=list(SHARES.values())))
        index = int(rng.integers(len(kinds[kind])))
        meant.append(int(starts[kind]) + index)
        scene = prompted_scene(rng, kinds[kind][index]) if rng.random() < 0.85 else random_scene(rng)
        if rng.random() < 0.2:
            scene = mistaken(rng, scene)
        fate = rng.random()
        if fate < 0.35:  # a colour between two: the commonest failure where the prompt leaves it open
            second = mistaken(rng, scene, "all colors")
        elif fate < 0.45:
            second = mistaken(rng, scene, "all shapes")
        elif fate < 0.85:
            second = mistaken(rng, scene)
            if rng.random() < 0.3:
                second = mistaken(rng, second)
        else:
            second = prompted_scene(rng, kinds[kind][index])
        scenes.append(scene)
        seconds.append(second)
    drawn = [draw(scene) for scene in scenes]
    latents, others = encode(autoencoder, scenes).numpy(), encode(autoencoder, seconds).numpy()
    latents = np.stack(
        [_spoil_latents(rng, a, b) if rng.random() < 0.8 else a for a, b in zip(latents, others, strict=True)]
    )
    with torch.no_grad():
        scaled = torch.from_numpy(latents.astype(np.float32)) / autoencoder.config.scaling_factor
        decoded = torch.cat([autoencoder.decode(part).sample for part in scaled.split(128)])
    decoded = (decoded.clamp(-1, 1) / 2 + 0.5).permute(0, 2, 3, 1).numpy()
    pictures = []
    for scene, clean, other in zip(scenes, drawn, decoded, strict=True):
        picture = clean if rng.random() < 0.15 else other
        pictures.append(_spoil_picture(rng, picture, draw(replace(scene, things=()))))
    return meant, pictures


def make_pictures(work: Path, autoencoder: AutoencoderDC, files: int, per_file: int = 500) -> list[Path]:
    """Write labelled images, `files` x `per_file` of them. Existing files are kept. Per file:

    pictures uint8 [n, 64, 64, 3], patches uint8 [n, 8, 8], meant int16 [n] (the prompt behind each image) and truth
    uint8 [n, prompts] (0 wrong, 1 correct, 2 strictly so).
    """
    folder = work / "reward_pictures"
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:04d}.pt" for i in range(files)]
    prompts = all_prompts()
    for i in tqdm([i for i, path in enumerate(paths) if not path.exists()], desc="reward pictures"):
        meant, pictures = spoilt_pictures(np.random.default_rng((4, i)), autoencoder, per_file)
        pictures = (np.stack(pictures) * 255).round().astype(np.uint8)
        found = [detect(picture) for picture in pictures.astype(np.float32) / 255]
        verdicts = ((answers(detection, prompt) for prompt in prompts) for detection in found)
        content = {
            "pictures": torch.from_numpy(pictures),
            "patches": torch.from_numpy(np.stack([patch_classes(detection) for detection in found])),
            "meant": torch.tensor(meant, dtype=torch.int16),
            "truth": torch.tensor([[v.correct + v.strict for v in row] for row in verdicts], dtype=torch.uint8),
        }
        temporary = paths[i].with_suffix(".tmp")
        torch.save(content, temporary)
        temporary.rename(paths[i])
    return paths
