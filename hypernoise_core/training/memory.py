"""Advice for when the device's memory runs out."""

from collections.abc import Iterator
from contextlib import contextmanager

from ..device import is_of_memory
from ..settings import Message, joined
from .config import TrainingConfig


class OutOfMemoryError(MemoryError):
    """The device's memory ran out. The message says what to lower, and by how much."""


@contextmanager
def explaining_out_of_memory(config: TrainingConfig, processes: int) -> Iterator[None]:
    """Turn torch's error inside the block into an `OutOfMemoryError` with advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_of_memory(error):
            raise
        lines = [Message("({}) {}", i, line) for i, line in enumerate(out_of_memory_advice(config, processes), 1)]
        told = " ".join(str(error).split())[:160]
        raise OutOfMemoryError(
            Message("the device's memory ran out ({}). Set, in this order: {}", told, joined("; ", lines))
        ) from error


def out_of_memory_advice(config: TrainingConfig, processes: int = 1) -> list[Message]:
    """The first three settings to lower, each with its new value, cheapest first."""
    lines: list[Message] = []
    if config.gradient_checkpointing is not True:
        told = "{gradient_checkpointing} on (a third slower, activations fall to a fraction, results stay)"
        lines.append(Message(told))
    at_a_time = min(config.micro_batch_size or config.batch_size, config.batch_size // processes)
    if at_a_time > 1:
        told = "{micro_batch_size} {} -> {} (activations halve, results stay)"
        lines.append(Message(told, at_a_time, at_a_time // 2))
    if config.optimizer != "sgd":
        told = "{optimizer} {} -> sgd (optimizer state halves or better, with {lr} 10 to 100 times higher)"
        lines.append(Message(told, config.optimizer))
    if config.rank > 16:
        told = "{rank} {} -> {} (adapter and optimizer state halve)"
        lines.append(Message(told, config.rank, config.rank // 2))
    size = [
        Message(f"{{{name}}} {{}} -> {{}}", v, v * 3 // 4 // 32 * 32)
        for name in ("height", "width")
        if (v := getattr(config, name))
    ]
    smaller = joined(" and ", size) if size else Message("{height} and {width} to three quarters")
    lines.append(Message("{} (activations fall to 56 %)", smaller))
    lines.append(Message("{dtype} float32 -> bfloat16, and offload of text encoder and rewards"))
    return lines[:3]
