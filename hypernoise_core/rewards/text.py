"""Prepare prompts for a text encoder: windows of tokens, and features cached per prompt."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..batch import TensorBatch

LongPrompts = Literal["report", "chunk"]
"""What happens to a prompt beyond an encoder's window. `report` cuts it and warns. `chunk` scores it in pieces of
nearly equal length and averages the scores."""


TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "vocab.txt")
"""Every tokenizer's folder has one of these files."""


def load_tokenizer(name: str, sources: Sequence[str | Path], hint: str) -> PreTrainedTokenizerBase:
    """The tokenizer of the first source (folder or Hugging Face id) that has one.

    Raises:
        ValueError: none of them has one; `hint` says what to download.
    """
    for source in sources:
        folder = Path(source)
        # from a folder with only a model, transformers makes an empty tokenizer
        if folder.is_dir() and not any((folder / file).is_file() for file in TOKENIZER_FILES):
            continue
        try:
            return AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError, KeyError, TypeError):
            continue
    raise ValueError(f"reward {name!r} has no tokenizer: {hint}")


def token_windows(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int, long_prompts: LongPrompts
) -> list[list[list[int]]]:
    """The windows of each prompt: lists of at most `length` token ids, including the first and last special tokens. A
    prompt has one window, unless it is longer and `long_prompts` is `chunk`."""
    first, *_, last = tokenizer("a")["input_ids"]
    room = length - 2
    windows = []
    for prompt, ids in zip(prompts, tokenizer(list(prompts), add_special_tokens=False)["input_ids"], strict=True):
        count = max(1, -(-len(ids) // room))
        if count > 1 and long_prompts == "report":
            warnings.warn(
                f"a prompt of {len(ids)} tokens is judged by its first {room}, which is all that the encoder takes "
                f"(long_prompts=chunk scores it in pieces): {prompt[:60]!r}…",
                stacklevel=2,
            )
            ids, count = ids[:room], 1
        cuts = [round(i * len(ids) / count) for i in range(count + 1)]
        windows.append([[first, *ids[a:b], last] for a, b in pairwise(cuts)])
    return windows


class PromptCache:
    """Caches an encoder's output for the last `size` prompts, on the CPU.

    Args:
        encode: prompts to a batch with one row per prompt.
    """

    def __init__(self, encode: Callable[[Sequence[str]], TensorBatch], size: int = 4096, chunk: int = 64):
        self.encode, self.size, self.chunk = encode, size, chunk
        self._rows: OrderedDict[str, TensorBatch] = OrderedDict()

    def __call__(self, prompts: Sequence[str]) -> TensorBatch:
        """One row per prompt. `encode` is called only for prompts that are not cached."""
        known = {prompt: self._rows[prompt] for prompt in prompts if prompt in self._rows}
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in known]
        for start in range(0, len(new), self.chunk):
            part = new[start : start + self.chunk]
            rows = self.encode(part).to("cpu")
            known |= {prompt: rows.rows([i]) for i, prompt in enumerate(part)}
        for prompt in dict.fromkeys(prompts):
            self._rows[prompt] = known[prompt]
            self._rows.move_to_end(prompt)
        while len(self._rows) > self.size:
            self._rows.popitem(last=False)
        return TensorBatch.cat([known[prompt] for prompt in prompts])
