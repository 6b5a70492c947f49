"""Prompts that a generator or a reward encodes once, kept in memory or on disk until their rows are needed.

During training only this file calls the text encoder, so the encoder can leave the GPU afterwards.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..batch import TensorBatch
from ..files import replacing

Encode = Callable[[Sequence[str]], TensorBatch]

CHUNK = 64
"""Number of prompts that are encoded at a time and stored in one file."""


class EncodedPrompts:
    """The rows of a `TensorBatch` of all `prompts`.

    Args:
        encode: such as `generator.encode`.
        device: where rows are returned. They are kept in CPU memory.
        folder: keep the rows there instead, and find them again in another run with the same prompts and encoder. Use
            it for encodings that do not fit into memory (FLUX's T5: 4 MB per prompt).
    """

    def __init__(
        self, encode: Encode, prompts: Sequence[str], device: torch.device | str, folder: str | Path | None = None
    ):
        self._device, self._count = device, len(prompts)
        chunks = [prompts[i : i + CHUNK] for i in range(0, len(prompts), CHUNK)]
        self._store = _Memory(encode, chunks) if folder is None else _Disk(encode, chunks, Path(folder))

    def __len__(self) -> int:
        return self._count

    def rows(self, index: Sequence[int]) -> TensorBatch:
        """The given rows, in that order."""
        return self._store.rows(list(index)).to(self._device)


class _Memory:
    def __init__(self, encode: Encode, chunks: list[Sequence[str]]):
        self._all = TensorBatch.cat([encode(chunk).to("cpu") for chunk in chunks])

    def rows(self, index: list[int]) -> TensorBatch:
        return self._all.rows(index)


class _Disk:
    """One file per chunk. Rows are padded to the longest of all chunks, as in memory, so the numbers are the same bit
    for bit."""

    def __init__(self, encode: Encode, chunks: list[Sequence[str]], folder: Path):
        # A sample of the encoder's output identifies it; model names do not.
        sample = encode(chunks[0][:1]).to("cpu")
        self._folder = folder / _digest(chunks, sample)
        index = self._folder / "index.json"
        if not index.is_file():
            shapes: dict[str, list[int]] = {}
            for i, chunk in enumerate(chunks):
                batch = encode(chunk).to("cpu")
                with replacing(self._file(i)) as temporary:
                    save_file({name: tensor.contiguous() for name, tensor in batch.tensors.items()}, temporary)
                for name, tensor in batch.tensors.items():
                    shapes[name] = [*map(max, shapes.get(name, tensor.shape[1:]), tensor.shape[1:])]
            with replacing(index) as temporary:
                temporary.write_text(json.dumps(shapes))
        self._shapes = json.loads(index.read_text())

    def _file(self, chunk: int) -> Path:
        return self._folder / f"{chunk:05d}.safetensors"

    def rows(self, index: list[int]) -> TensorBatch:
        rows = [self._row(i) for i in index]
        return TensorBatch({name: torch.stack([row[name] for row in rows]) for name in self._shapes})

    def _row(self, i: int) -> dict[str, Tensor]:
        row = {}
        with safe_open(self._file(i // CHUNK), framework="pt") as file:
            for name, shape in self._shapes.items():
                part = file.get_slice(name)[i % CHUNK]
                row[name] = part.new_zeros(shape)
                row[name][tuple(slice(0, n) for n in part.shape)] = part
        return row


def _digest(chunks: list[Sequence[str]], sample: TensorBatch) -> str:
    digest = hashlib.sha256(json.dumps([list(chunk) for chunk in chunks]).encode())
    for name, tensor in sorted(sample.tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:32]
