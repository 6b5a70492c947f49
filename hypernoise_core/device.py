"""Whether a device is there, before anything is loaded onto it."""

import torch

from .settings import SettingError


def check_device(device: str) -> None:
    """
    Raises:
        SettingError: it is not there, or torch knows none of that name.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise SettingError("{device} is {!r}, which is not there ({}): try cpu", device, reason) from error
