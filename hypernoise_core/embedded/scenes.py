"""The small world that the embedded generator paints: coloured shapes on a dark slate gradient."""

from dataclasses import dataclass

import numpy as np

SIZE = 64
"""Side of a picture in pixels."""

SHAPES = ("square", "triangle", "cross")

COLORS = {
    "red": (0.93, 0.16, 0.18),
    "yellow": (0.96, 0.84, 0.16),
    "green": (0.20, 0.76, 0.26),
    "cyan": (0.18, 0.82, 0.88),
    "blue": (0.22, 0.36, 0.96),
    "magenta": (0.88, 0.26, 0.84),
}
"""Name to RGB in [0, 1]. The hues lie about 60 degrees apart, so that a pixel's colour is never in doubt."""

GAP = 3
"""Pixels that always separate two things."""


@dataclass(frozen=True)
class Thing:
    """One coloured shape. `x`, `y` (centre) and `radius` (half of its side) are in pixels, y pointing down."""

    shape: str
    color: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Background:
    """A linear grey gradient: `level` in the middle, changing by `dx`, `dy` from one edge to the other, in [0, 1]."""

    level: float = 0.24
    dx: float = 0.0
    dy: float = 0.0


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    background: Background = Background()


_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5


def coverage(shape: str, x: float, y: float, radius: float) -> np.ndarray:
    """How much of each pixel a shape covers: [64, 64] in [0, 1], edges antialiased over one pixel."""
    dx, dy = _X - x, _Y - y
    if shape == "square":
        distance = np.maximum(abs(dx), abs(dy)) - radius
    elif shape == "cross":
        arm = 0.36 * radius
        distance = np.minimum(np.maximum(abs(dx) - radius, abs(dy) - arm), np.maximum(abs(dx) - arm, abs(dy) - radius))
    elif shape == "triangle":  # apex up, as wide as high
        slope = 5**-0.5
        distance = np.maximum((2 * abs(dx) - (dy + radius)) * slope, dy - radius)
    else:
        raise ValueError(f"unknown shape {shape!r}: choose one of {', '.join(SHAPES)}")
    return np.clip(0.5 - distance, 0.0, 1.0)


def draw(scene: Scene) -> np.ndarray:
    """The picture of a scene: float32 [64, 64, 3] in [0, 1]."""
    b = scene.background
    grey = b.level + b.dx * (_X / SIZE - 0.5) + b.dy * (_Y / SIZE - 0.5)
    picture = np.repeat(grey[..., None], 3, axis=2) * np.array((0.92, 1.0, 1.14), np.float32)  # slate
    for thing in scene.things:
        alpha = coverage(thing.shape, thing.x, thing.y, thing.radius)[..., None]
        picture = picture * (1 - alpha) + np.array(COLORS[thing.color], np.float32) * alpha
    return np.clip(picture, 0.0, 1.0).astype(np.float32)


def apart(x: float, y: float, radius: float, other: Thing) -> bool:
    """Whether a thing at (x, y) would keep `GAP` pixels from `other`."""
    return max(abs(x - other.x), abs(y - other.y)) >= radius + other.radius + GAP


def random_background(rng: np.random.Generator) -> Background:
    return Background(rng.uniform(0.16, 0.32), rng.uniform(-0.16, 0.16), rng.uniform(-0.16, 0.16))


def random_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """A scene of `count` (default 1 to 4) things of any shape, colour, size and place, none overlapping."""
    count = count or int(rng.integers(1, 5))
    things: list[Thing] = []
    while len(things) < count:
        radius = rng.uniform(6, 11 if count < 3 else 8.5)
        x, y = rng.uniform(radius + 1, SIZE - radius - 1, size=2)
        if all(apart(x, y, radius, thing) for thing in things):
            things.append(Thing(str(rng.choice(SHAPES)), str(rng.choice(list(COLORS))), x, y, radius))
        elif rng.random() < 0.02:  # a corner that leaves no room: start again
            things.clear()
    return Scene(tuple(things), random_background(rng))
