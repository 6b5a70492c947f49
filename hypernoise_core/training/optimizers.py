"""Optimizers for LoRA weights, and their learning rate."""

from collections.abc import Sequence

import torch
from torch import Tensor

from ..settings import SettingError
from .config import TrainingConfig


def make_optimizer(parameters: Sequence[Tensor], config: TrainingConfig) -> torch.optim.Optimizer:
    """An optimizer for float32 `parameters`, fused into one kernel on a GPU.

    Raises:
        ValueError: the optimizer's package is not installed.
    """
    decay, fused = config.weight_decay, parameters[0].is_cuda
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=decay, fused=fused)
    betas = (0.9, config.beta2)
    if config.optimizer == "adamw8bit":
        try:
            from bitsandbytes.optim import AdamW8bit
        except ImportError as error:
            raise SettingError(
                "{optimizer} adamw8bit needs bitsandbytes: pip install 'comfyui-hypernoise[8bit]', or take adamw"
            ) from error
        return AdamW8bit(parameters, config.lr, betas=betas, weight_decay=decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind(parameters, config.lr, betas=betas, weight_decay=decay, fused=fused)


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Learning rate of the step after `step`: a linear rise over `warmup_steps`, a linear fall over the last
    `decay_fraction`."""
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    left = (config.max_steps - step) / config.max_steps
    decay = min(1.0, left / config.decay_fraction) if config.decay_fraction else 1.0
    return config.lr * warmup * decay


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as tensors named `<parameter's number>/<name>`."""
    tensors: dict[str, Tensor] = {}
    for number, own in optimizer.state_dict()["state"].items():
        for name, value in own.items():
            if isinstance(value, dict):  # bitsandbytes' 8-bit tensors, of which parameters share some
                tensors |= {f"{number}/{key}": tensor.clone() for key, tensor in value.items()}
            else:
                tensors[f"{number}/{name}"] = torch.as_tensor(value)
    return tensors


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Restore what `optimizer_tensors` returned."""
    state: dict[int, dict[str, Tensor | int]] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition("/")
        count = tensor.dtype == torch.int64 and tensor.dim() == 0  # bitsandbytes' steps; torch's are float32 tensors
        state.setdefault(int(number), {})[name] = int(tensor) if count else tensor
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
