"""Questions that teach the text encoder to read: which colour belongs to which thing, how many things, and which stands
where.

The transformer's loss teaches binding slowly: for thousands of steps "a red square and a blue cross" and its swap give
the same image. Linear heads on the encoder's states at the words for shapes ask directly. The encoder then binds within
a thousand steps, and the transformer only has to look. The heads are discarded.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast

from hypernoise_core.embedded.prompts import PLURALS, RELATIONS, Prompt
from hypernoise_core.embedded.scenes import COLORS, SHAPES

_COLORS, _RELATIONS = (None, *COLORS), (None, *RELATIONS)

QUESTIONS = {"colour": len(_COLORS), "count": 4, "relation": len(_RELATIONS), "first shape": 1 + len(SHAPES)}
"""The questions at every word for a shape, and their number of answers. The encoder is causal, so only the second word
can answer for the relation and for the first shape."""


class Reading(nn.Module):
    """One linear head per question on the encoder's states, [B, tokens, width]."""

    def __init__(self, width: int, tokenizer: PreTrainedTokenizerFast):
        super().__init__()
        self.heads = nn.ModuleList(nn.Linear(width, count) for count in QUESTIONS.values())
        self._shapes = torch.tensor(tokenizer.convert_tokens_to_ids([*SHAPES, *PLURALS.values()]))

    def forward(self, states: torch.Tensor, ids: torch.Tensor, prompts: list[Prompt]) -> torch.Tensor:
        """Sum over the questions of the mean cross-entropy of their answers."""
        asked = torch.isin(ids, self._shapes)  # the words come in the order of the prompt's wants
        answers = torch.tensor([answer for prompt in prompts for answer in _answers(prompt)])
        at = states[asked].float()
        return sum(F.cross_entropy(head(at), answers[:, i]) for i, head in enumerate(self.heads))


def _answers(prompt: Prompt) -> list[tuple[int, int, int, int]]:
    """The right answers at each word for a shape, in the order of `QUESTIONS`."""
    rows = []
    for i, want in enumerate(prompt.wants):
        relation = _RELATIONS.index(prompt.relation if i else None)
        first = 1 + SHAPES.index(prompt.wants[0].shape) if i else 0
        rows.append((_COLORS.index(want.color), want.count - 1, relation, first))
    return rows
