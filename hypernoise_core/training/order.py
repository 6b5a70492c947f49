"""The order of the training prompts: shuffled passes over one set, or over several sets mixed with weights."""

from collections.abc import Sequence

import torch


class PromptOrder:
    """An endless sequence of rows into prompt sets that are laid end to end.

    Each pass over a set is shuffled anew. With several sets, weights decide which set each row comes from, so a small
    set is repeated instead of being drowned out.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float], random: torch.Generator):
        self.sizes, self.weights = list(sizes), torch.tensor(weights, dtype=torch.double)
        self._random = random
        self._left: list[list[int]] = [[] for _ in sizes]

    def next(self, count: int) -> list[int]:
        """The next `count` rows."""
        if len(self.sizes) == 1:
            sets = [0] * count
        else:
            sets = torch.multinomial(self.weights, count, replacement=True, generator=self._random).tolist()
        starts = [sum(self.sizes[:i]) for i in range(len(self.sizes))]
        return [starts[i] + self._next_of(i) for i in sets]

    def _next_of(self, i: int) -> int:
        if not self._left[i]:
            self._left[i] = torch.randperm(self.sizes[i], generator=self._random).tolist()[::-1]
        return self._left[i].pop()

    def state(self) -> list[list[int]]:
        """The rest of each set's current pass, last row first."""
        return [left[:] for left in self._left]

    def load_state(self, state: Sequence[Sequence[int]]) -> None:
        self._left = [list(left) for left in state]
