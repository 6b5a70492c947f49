"""What to do when the device's memory runs out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .config import TrainingConfig


class OutOfMemoryError(RuntimeError):
    """The device's memory ran out; the message says what to lower, and by how much."""


@contextmanager
def explaining_out_of_memory(config: TrainingConfig, processes: int) -> Iterator[None]:
    """torch's error inside becomes an `OutOfMemoryError` with advice."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        advice = "; ".join(f"({i}) {line}" for i, line in enumerate(out_of_memory_advice(config, processes), 1))
        raise OutOfMemoryError(
            f"the device's memory ran out ({' '.join(str(error).split())[:160]}). Set, in this order: {advice}"
        ) from error


def out_of_memory_advice(config: TrainingConfig, processes: int = 1) -> list[str]:
    """The three settings to lower first, each with its new value, cheapest first."""
    lines = []
    if config.gradient_checkpointing is not True:
        lines.append("gradient checkpointing on (a third slower, activations fall to a fraction, results stay)")
    at_a_time = min(config.micro_batch_size or config.batch_size, config.batch_size // processes)
    if at_a_time > 1:
        lines.append(f"micro_batch_size {at_a_time} -> {at_a_time // 2} (activations halve, results stay)")
    if config.optimizer != "sgd":
        lines.append(
            f"optimizer {config.optimizer} -> sgd (optimizer state halves or better, with lr 10 to 100 times higher)"
        )
    if config.rank > 16:
        lines.append(f"rank {config.rank} -> {config.rank // 2} (adapter and optimizer state halve)")
    size = " and ".join(
        f"{name} {v} -> {v * 3 // 4 // 32 * 32}" for name in ("height", "width") if (v := getattr(config, name))
    )
    lines.append(f"{size or 'height and width to three quarters'} (activations fall to 56 %)")
    lines.append("dtype float32 -> bfloat16, and offload of text encoder and rewards")
    return lines[:3]
