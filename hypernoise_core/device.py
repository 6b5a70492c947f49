"""Whether a device is there, before anything is loaded onto it, and whether its memory ran out."""

import torch

from .settings import SettingError


def check_device(device: str) -> None:
    """
    Raises:
        SettingError: it is not there, or torch knows none of that name.
    """
    try:
        if torch.empty(0, device=device).is_meta:
            raise SettingError("{device} is {!r}, which holds no numbers: try cpu", device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError("{device} is {!r}, which is not there ({}): try cpu", device, reason) from error


def is_of_memory(error: BaseException) -> bool:
    """Whether memory ran out. torch has a class for it on a GPU only; on a CPU, it says that it could not allocate, or
    count, so much."""
    told = ("DefaultCPUAllocator", "Storage size calculation overflowed", "numel: integer multiplication overflow")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in told)
