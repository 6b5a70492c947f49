"""Every way of making a picture that is compared, and what it costs.

Prompt search, the paper's third test-time method, asks an LLM for proposals and tells it their scores (MILS, Ashutosh
et al. 2025, five proposals a round). Here a rewriter is any function of that shape; the one that is shipped knows the
embedded world's grammar: openings and the order of words.
"""

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from hypernoise_core import NoiseHypernetwork, Reward
from hypernoise_core.embedded.benchmark import Made
from hypernoise_core.embedded.prompts import RELATIONS
from hypernoise_core.generators import Generator
from hypernoise_core.hypernetworks import Adapter
from hypernoise_core.hypernetworks.drawing import Modulation, draw
from hypernoise_core.noise import BetweenSteps
from hypernoise_core.search import GENTLE, Found, Search, best_of_path, search_path

from .world import Batch, World

Rewriter = Callable[[str, list[tuple[str, float]]], list[str]]
"""(prompt, [(what was tried, its score), …] best first) -> new wordings to try; none ends the search."""

BY_RULES = "rules"
OPENINGS = ("a photo of ", "a picture of ", "")
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above", "and": "and"}

_TWO = re.compile(rf"(.+) ({'|'.join(['and', *RELATIONS])}) (.+)")


@dataclass(frozen=True, kw_only=True)
class Spec:
    """A technique in words that JSON can hold."""

    adapter: str | None = None
    """A trained adapter's name; none for the generator as it is."""
    strength: float = 1.0
    """Of a noise hypernetwork."""
    iterations: int = 1
    """How often it moves the noise."""
    steps: int = 1
    between_steps: BetweenSteps = "fresh"
    free_reading: bool = False
    candidates: int = 1
    """Noises that its critic chooses from."""
    refine: int = 0
    """Steps of ascent on its critic."""
    refine_white: bool = False
    best_of: int | None = None
    reno: int | None = None
    """Iterations of `search`."""
    search: Search = "reno"
    limited: bool = False
    """The search ends where its noise is no longer like noise, as it does for users."""
    rewriter: str | None = None
    """Prompt search by `rules` or `module:function`."""

    @property
    def modulation(self) -> Modulation:
        return Modulation(
            strength=self.strength,
            iterations=self.iterations,
            between_steps=self.between_steps,
            free_reading=self.free_reading,
            candidates=self.candidates,
            refine=self.refine,
            refine_white=self.refine_white,
        )

    @property
    def searches(self) -> bool:
        return bool(self.best_of or self.reno or self.rewriter)


def spec_settings(spec: Spec) -> dict:
    """Those that are not the defaults."""
    defaults = asdict(Spec())
    return {key: value for key, value in asdict(spec).items() if value != defaults[key]}


@dataclass(frozen=True)
class Cost:
    """What one kept picture takes."""

    nfe: float
    """Denoiser calls, those of the hypernetwork included."""
    backward: float = 0
    """Backward passes: through generator and reward, or through a denoiser call and a critic."""
    scored: float = 0
    """Pictures that the reward looks at."""


@dataclass(frozen=True)
class Tools:
    """What a technique works with. `reward` is what searches go by."""

    world: World
    generator: Generator
    reward: Reward
    adapter: Adapter | None


def make(spec: Spec, tools: Tools, batch: Batch) -> tuple[Made, Cost]:
    """Pictures of a batch by a technique."""
    *_, (made, cost) = path(spec, tools, batch)
    return made, cost


def path(spec: Spec, tools: Tools, batch: Batch) -> Iterator[tuple[Made, Cost]]:
    """The pictures after each candidate, iteration or wording of a search; of a technique without search, once."""
    start, calls = None, 0
    if isinstance(tools.adapter, NoiseHypernetwork):
        start = partial(tools.adapter.modulate, strength=spec.strength, iterations=spec.iterations)
        calls = 0 if spec.free_reading else spec.iterations
    text = tools.reward.encode_text([case.prompt.text for case in batch.cases]) if spec.searches else batch.text
    arguments = (tools.generator, tools.reward)
    if spec.best_of:
        noises = candidates(tools.generator, batch, spec.best_of)
        settings = {"steps": spec.steps, "start": start, "between_steps": spec.between_steps}
        for i, found in enumerate(best_of_path(*arguments, noises, batch.conditioning, text, **settings), 1):
            yield _made(found), Cost(i * (spec.steps + calls), scored=i)
    elif spec.reno:
        follows = spec.steps if spec.search.startswith("reno") else 0
        settings = dict(steps=spec.steps, start=start, limits=GENTLE if spec.limited else None)
        found_path = search_path(spec.search, *arguments, batch.x0, batch.conditioning, text, spec.reno, **settings)
        for i, found in enumerate(found_path):
            cost = Cost((i + 1) * spec.steps + calls, backward=i * follows, scored=i + 1)
            yield _made(found), cost
        for _ in range(i, spec.reno):  # what it found stays what it found
            yield _made(found), cost
    elif spec.rewriter:
        yield from _rewritten(spec, tools, batch)
    else:
        made = draw(tools.generator, tools.adapter, batch.x0, batch.conditioning, spec.steps, how=spec.modulation)
        calls += (spec.candidates if spec.candidates > 1 else 0) + (spec.refine + 1 if spec.refine else 0)
        yield Made(*reversed(made)), Cost(spec.steps + calls, backward=spec.refine)


def candidates(generator: Generator, batch: Batch, count: int) -> torch.Tensor:
    """[count, B, C, h, w]: each case's own noise first, then others that no case has."""
    others = [
        torch.cat([generator.noise(1, seed=1_000 * case.seed + i) for case in batch.cases]) for i in range(1, count)
    ]
    return torch.stack([batch.x0, *others])


def _made(found: Found) -> Made:
    return Made(found.images, found.x0)


def _rewritten(spec: Spec, tools: Tools, batch: Batch) -> Iterator[tuple[Made, Cost]]:
    """The best wording for each case, by what the reward says of its picture under the case's own prompt. Wordings are
    of a case by itself: a rewriter may go by scores."""
    images, tries = [], 0
    rewrite = load_rewriter(spec.rewriter or BY_RULES)
    for i, case in enumerate(batch.cases):
        prompt, text = case.prompt.text, tools.reward.encode_text([case.prompt.text])
        tried: list[tuple[str, float]] = []
        best, wordings = None, [prompt]
        while wordings:
            conditioning = tools.world.encode(wordings)
            x0 = batch.x0[i : i + 1].expand(len(wordings), *batch.x0.shape[1:])
            made = tools.generator.generate(x0, conditioning, spec.steps)
            scores = tools.reward.score(made, text.rows([0] * len(wordings)))
            top = int(scores.argmax())
            if best is None or scores[top] > best[0]:
                best = (scores[top], made[top])
            tried = sorted([*tried, *zip(wordings, scores.tolist(), strict=True)], key=lambda pair: -pair[1])
            tries += len(wordings)
            wordings = rewrite(prompt, tried)
        images.append(best[1])
    mean = tries / len(batch.cases)
    yield Made(torch.stack(images), batch.x0), Cost(mean * spec.steps, scored=mean)


def tools_for(spec: Spec, world: World, reward: Reward | None = None, generator: Generator | None = None) -> Tools:
    """Loads what a technique needs."""
    generator = generator or world.generator
    adapter = world.adapter(spec.adapter, generator) if spec.adapter else None
    return Tools(world, generator, reward or world.reward, adapter)


def by_rules(prompt: str, tried: list[tuple[str, float]]) -> list[str]:
    """Every opening that the generator was taught, and the two things in either order."""
    opening = next((o for o in OPENINGS if o and prompt.startswith(o)), "")
    things = [prompt.removeprefix(opening)]
    if match := _TWO.fullmatch(things[0]):
        first, relation, second = match.groups()
        things.append(f"{second} {OPPOSITES[relation]} {first}")
    known = {text for text, _ in tried}
    return [text for o in OPENINGS for t in things if (text := o + t) not in known]


def load_rewriter(name: str) -> Rewriter:
    """`rules`, or your own function as `module:function`, where the module may be a file in this folder.

    Raises:
        ValueError: it does not load.
    """
    if name == BY_RULES:
        return by_rules
    module, _, function = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module.removesuffix(".py")), function)
    except (ImportError, AttributeError, SyntaxError, ValueError) as error:
        raise ValueError(f"rewriter {name!r} does not load ({error}): give {BY_RULES} or module:function") from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if not callable(found):
        raise ValueError(f"rewriter {name!r} is not a function: it is called with a prompt and what was tried")
    return found
