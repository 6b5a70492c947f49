"""Prompt search by rewriting: other words for the same prompt, the best picture kept.

The paper's third test-time method asks an LLM for proposals and tells it their scores (MILS, Ashutosh et al. 2025, five
proposals a round). Here a rewriter is any function of that shape; the one that is shipped knows the embedded world's
grammar: openings and the order of words.
"""

import importlib
import re
import sys
from collections.abc import Callable
from pathlib import Path

from hypernoise_core.embedded.prompts import RELATIONS

Rewriter = Callable[[str, list[tuple[str, float]]], list[str]]
"""(prompt, [(what was tried, its score), …] best first) -> new wordings to try; none ends the search."""

BY_RULES = "rules"
OPENINGS = ("a photo of ", "a picture of ", "")
OPPOSITES = {"left of": "right of", "right of": "left of", "above": "below", "below": "above", "and": "and"}

_TWO = re.compile(rf"(.+) ({'|'.join(['and', *RELATIONS])}) (.+)")


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
