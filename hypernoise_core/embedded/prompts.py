"""The prompts of the embedded world, in GenEval's six categories (Ghosh et al. 2023), and their held-out part."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations

from .scenes import COLORS, SHAPES, Thing

CATEGORIES = ("single_object", "two_object", "counting", "colors", "position", "color_attr")

RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}
"""Each relation and the unit vector from the second thing to the first; y points down."""

NUMBERS = {"two": 2, "three": 3, "four": 4}

PLURALS = {"square": "squares", "triangle": "triangles", "cross": "crosses"}


@dataclass(frozen=True)
class Want:
    """`count` things of one shape. If `color` is None, any colour will do."""

    shape: str
    color: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Prompt:
    text: str
    category: str
    wants: tuple[Want, ...]
    relation: str | None = None
    held_out: bool = False
    """Prompts that no hypernetwork or fine-tuned generator is trained on; they are used to judge both."""


def relation_holds(relation: str, a: Thing, b: Thing, margin: float = 0.5) -> bool:
    """Whether `a` stands in `relation` to `b`: the direction from b to a agrees with the relation by at least `margin`
    (a cosine; GenEval uses 0.5)."""
    dx, dy = a.x - b.x, a.y - b.y
    ux, uy = RELATIONS[relation]
    return dx * ux + dy * uy > margin * (dx * dx + dy * dy) ** 0.5


def _all_prompts() -> Iterator[Prompt]:
    colors = tuple(COLORS)
    for shape in SHAPES:  # three prompts only: the one category whose prompts are shared with training
        yield Prompt(f"a photo of a {shape}", "single_object", (Want(shape),), held_out=True)
        yield Prompt(f"a photo of a {shape}", "single_object", (Want(shape),))
    for i, (a, b) in enumerate(permutations(SHAPES, 2)):
        yield Prompt(f"a photo of a {a} and a {b}", "two_object", (Want(a), Want(b)), held_out=i in (1, 4))
    for i, shape in enumerate(SHAPES):
        for j, (word, count) in enumerate(NUMBERS.items()):
            text = f"a photo of {word} {PLURALS[shape]}"
            yield Prompt(text, "counting", (Want(shape, count=count),), held_out=i == j)
    for i, shape in enumerate(SHAPES):
        for j, color in enumerate(colors):
            yield Prompt(f"a photo of a {color} {shape}", "colors", (Want(shape, color),), held_out=j % 3 == i)
    for i, (a, b) in enumerate(permutations(SHAPES, 2)):
        for j, relation in enumerate(RELATIONS):
            text = f"a photo of a {a} {relation} a {b}"
            yield Prompt(text, "position", (Want(a), Want(b)), relation, held_out=(i + j) % 4 == 0)
    for i, (a, b) in enumerate(permutations(SHAPES, 2)):
        for j, (first, second) in enumerate(permutations(colors, 2)):
            if (i + j) % 3 == 0:  # a third of the 180 combinations, so that they do not crowd out the rest
                text = f"a photo of a {first} {a} and a {second} {b}"
                wants = (Want(a, first), Want(b, second))
                yield Prompt(text, "color_attr", wants, held_out=(i + j) % 9 == 0)


@cache
def prompts(held_out: bool) -> tuple[Prompt, ...]:
    """The prompts that training may use (`held_out=False`) or those kept for judging (`held_out=True`)."""
    return tuple(prompt for prompt in _all_prompts() if prompt.held_out == held_out)
