"""The small world that the embedded generator paints: coloured shapes on pastel paper."""

from dataclasses import dataclass

import numpy as np

SIZE = 64
"""Side of a picture in pixels."""

SHAPES = ("square", "triangle", "cross")

COLORS = {
    "red": (0.90, 0.07, 0.10),
    "yellow": (0.95, 0.80, 0.05),
    "green": (0.08, 0.68, 0.14),
    "cyan": (0.06, 0.74, 0.82),
    "blue": (0.10, 0.22, 0.92),
    "magenta": (0.84, 0.10, 0.78),
}
"""Name to RGB in [0, 1]. The hues are about 60 degrees apart, so a pixel's colour is never in doubt. The darkest
channel of each is far below that of any background."""

LEVELS = (0.70, 0.96)
"""Brightness of the paper. Faint things disappear on the brightest one."""

SLOPE = 0.08
"""Largest change of brightness from one edge to the other."""

TINTS = np.array([(0.22, -0.22, -0.22), (0.0, 0.06, -0.06)], np.float32)
"""What the two tints at full strength add to the paper's RGB, in units of its brightness: from cyan to red, and from
magenta to green."""

GAP = 3
"""Smallest distance between two things, in pixels."""


@dataclass(frozen=True)
class Thing:
    """One coloured shape. `x`, `y` (centre) and `radius` (half of its side) are in pixels; y points down."""

    shape: str
    color: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Background:
    """Pastel paper. `level`: brightness in the middle, in LEVELS. `dx`, `dy`: its change from one edge to the other, in
    [-SLOPE, SLOPE]. `red` and `green`: how much of each tint, in [-1, 1]."""

    level: float = sum(LEVELS) / 2
    dx: float = 0.0
    dy: float = 0.0
    red: float = 0.0
    green: float = 0.0


@dataclass(frozen=True)
class Scene:
    things: tuple[Thing, ...]
    background: Background = Background()


_Y, _X = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32) + 0.5


WHOLE = (slice(None), slice(None))


def coverage(shape: str, x: float, y: float, radius: float, window: tuple[slice, slice] = WHOLE) -> np.ndarray:
    """How much of each pixel a shape covers: [64, 64] (or the `window` of rows and columns of it) in [0, 1], edges
    antialiased over one pixel."""
    dx, dy = _X[window] - x, _Y[window] - y
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
    brightness = b.level + b.dx * (_X / SIZE - 0.5) + b.dy * (_Y / SIZE - 0.5)
    picture = brightness[..., None] * (1 + np.array((b.red, b.green), np.float32) @ TINTS)
    for thing in scene.things:
        alpha = coverage(thing.shape, thing.x, thing.y, thing.radius)[..., None]
        picture = picture * (1 - alpha) + np.array(COLORS[thing.color], np.float32) * alpha
    return np.clip(picture, 0.0, 1.0).astype(np.float32)


def apart(x: float, y: float, radius: float, other: Thing) -> bool:
    """Whether a thing at (x, y) would keep `GAP` pixels from `other`."""
    return max(abs(x - other.x), abs(y - other.y)) >= radius + other.radius + GAP


def background_of(traits: np.ndarray) -> Background:
    """The background for five traits, each in [0, 1]: level, dx, dy, red, green."""
    level, dx, dy, red, green = map(float, traits)
    low, high = LEVELS
    return Background(
        low + (high - low) * level, SLOPE * (2 * dx - 1), SLOPE * (2 * dy - 1), 2 * red - 1, 2 * green - 1
    )


def random_background(rng: np.random.Generator) -> Background:
    return background_of(rng.uniform(size=5))


def random_scene(rng: np.random.Generator, count: int | None = None) -> Scene:
    """A scene of `count` (default 1 to 4) things of any shape, colour, size and place, none overlapping."""
    count = count or int(rng.integers(1, 5))
    things: list[Thing] = []
    while len(things) < count:
        radius = rng.uniform(5.8, 11 if count < 3 else 9)
        x, y = rng.uniform(radius + 1, SIZE - radius - 1, size=2)
        if all(apart(x, y, radius, thing) for thing in things):
            things.append(Thing(str(rng.choice(SHAPES)), str(rng.choice(list(COLORS))), x, y, radius))
        elif rng.random() < 0.02:  # a corner that leaves no room: start again
            things.clear()
    return Scene(tuple(things), random_background(rng))
