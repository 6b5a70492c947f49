"""Pair noises with scenes: the transport coupling that trains the embedded generator.

A one-step generator is a deterministic map from noise to images. Distillation inherits that map from a teacher's ODE.
Here it is chosen directly, as in multisample optimal transport (Pooladian et al. 2023, "Multisample flow matching"): of
all scenes that a prompt allows, a noise is paired with the scene whose latent is nearest, found object by object.
Layout, open colours and background are then functions of the noise, every scene of a prompt is reached, and regression
on the pairs needs neither teacher nor guidance. The trained network fails where a second scene is nearly as close.
"""

import numpy as np
import torch
from diffusers import AutoencoderDC
from scipy.stats import norm

from hypernoise_core.embedded.prompts import RELATIONS, Prompt, Want
from hypernoise_core.embedded.scenes import (
    COLORS,
    GAP,
    LEVELS,
    SHAPES,
    SIZE,
    SLOPE,
    Background,
    Scene,
    Thing,
    background_of,
    draw,
)

RADII = {1: 10.0, 2: 9.0, 3: 8.5, 4: 8.0}
"""Number of things to their radius in pixels, seen from the middle distance."""

DISTANCES = (0.72, 1.10)
"""Factors on the radius, from far to near. A one-step generator spoils small things most."""

_AXIS = np.arange(12, SIZE - 11, 4, dtype=np.float32)
PLACES = np.stack(np.meshgrid(_AXIS, _AXIS, indexing="xy"), -1).reshape(-1, 2)
"""Possible centres of a thing: [P, 2] as (x, y)."""

SHARPNESS = np.array((1.0, 1.0, 1.0, 0.8, 1.0, 1.0), np.float32)
"""Scales for the five traits of a background and for the distance. Below 1, noises ask for extremes less often."""

_COLORS = tuple(COLORS)


def encode(autoencoder: AutoencoderDC, scenes: list[Scene]) -> torch.Tensor:
    """Scaled latents of drawn scenes: [n, 16, 8, 8], about unit variance."""
    pictures = torch.from_numpy(np.stack([draw(s) for s in scenes])).permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        parts = [autoencoder.encode(part).latent for part in pictures.split(128)]
    return torch.cat(parts) * autoencoder.config.scaling_factor


class Coupling:
    """Pairs noises with scenes, by inner products with the latents of single things and of backgrounds."""

    def __init__(self, autoencoder: AutoencoderDC):
        empty = encode(autoencoder, [Scene(())])
        self.empty = empty.flatten().numpy()
        self.templates = {}  # count -> [shapes, colours, places, 1024], unit length
        for count, radius in RADII.items():
            scenes = [Scene((Thing(s, c, x, y, radius),)) for s in SHAPES for c in _COLORS for x, y in PLACES]
            difference = (encode(autoencoder, scenes) - empty).flatten(1)
            unit = difference / difference.norm(dim=1, keepdim=True)
            self.templates[count] = unit.view(len(SHAPES), len(_COLORS), len(PLACES), -1).numpy()
        ends = [
            Background(level=LEVELS[1]),
            Background(dx=SLOPE),
            Background(dy=SLOPE),
            Background(red=1.0),
            Background(green=1.0),
        ]
        difference = (encode(autoencoder, [Scene((), end) for end in ends]) - empty).flatten(1)
        near = torch.from_numpy(self.templates[1]).mean((0, 1, 2))  # what things have in common: more of it is nearer
        self.traits = _orthonormal(torch.cat([difference, near[None]])).numpy()
        offset = PLACES[:, None] - PLACES[None]
        self._chebyshev = abs(offset).max(-1)
        distance = np.maximum(np.sqrt((offset**2).sum(-1)), 1e-6)
        self._related = {r: (offset @ np.array(u)) / distance > 0.75 for r, u in RELATIONS.items()}

    def scene(
        self, noise: np.ndarray, prompt: Prompt, shown: np.ndarray | None = None, output: np.ndarray | None = None
    ) -> Scene:
        """The scene that one noise, [1024], is paired with under a prompt.

        `output` is the latent [1024] that a generator makes of `shown` (the noise itself, or a noisy latent). It takes
        part in the choice of places: among layouts that are about equally near, the one that it already shows wins.
        This turns a blend of two layouts into one of them. Open colours depend on `shown` alone, because a blend of
        colours looks most like magenta, and soon everything would be magenta. Background and distance always depend on
        the noise.
        """
        shown = noise if shown is None else shown
        count = sum(want.count for want in prompt.wants)
        *background, distance = norm.cdf(SHARPNESS * (self.traits @ noise))
        far, near = DISTANCES
        radius = RADII[count] * (far + (near - far) * distance)
        free = self._chebyshev >= 2 * radius + GAP
        scores, colors = zip(*(self._scores(shown, output, want, count) for want in prompt.wants), strict=True)
        if len(prompt.wants) == 2:
            allowed = free & self._related[prompt.relation] if prompt.relation else free
            joint = np.where(allowed, scores[0][:, None] + scores[1][None], -np.inf)
            places = np.unravel_index(joint.argmax(), joint.shape)
            chosen = [(want, colors[i][p], p) for i, (want, p) in enumerate(zip(prompt.wants, places, strict=True))]
        else:
            places = _greedy(scores[0], free, count, np.ones(len(PLACES), bool))
            chosen = [(prompt.wants[0], colors[0][p], p) for p in places]
        things = tuple(Thing(w.shape, _COLORS[c], *map(float, PLACES[p]), radius) for w, c, p in chosen)
        return Scene(things, background_of(background))

    def _scores(self, shown, output, want: Want, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(how well each place suits, which colour the thing would take there), both [P]."""
        shape = self.templates[count][SHAPES.index(want.shape)]
        colors = [_COLORS.index(want.color)] if want.color else list(range(len(_COLORS)))
        by_input = shape[colors] @ shown
        scores = by_input if output is None else by_input + shape[colors] @ (output - self.empty)
        return scores.max(0), np.array(colors)[by_input.argmax(0)]


def _orthonormal(directions: torch.Tensor) -> torch.Tensor:
    """Orthonormal rows that are together as near to the given ones as possible, so that the traits of a noise are
    independent."""
    left, _, right = torch.linalg.svd(directions / directions.norm(dim=1, keepdim=True), full_matrices=False)
    return left @ right


def _greedy(score: np.ndarray, free: np.ndarray, count: int, open_: np.ndarray) -> list[int] | None:
    """The best place, then the best of the remaining ones, and so on. A choice that leaves no room for the rest is
    undone."""
    if count == 0:
        return []
    for place in np.argsort(-np.where(open_, score, -np.inf))[: open_.sum()]:
        rest = _greedy(score, free, count - 1, open_ & free[place])
        if rest is not None:
            return [int(place), *rest]
    return None
