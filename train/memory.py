"""How much memory the process has needed."""

import sys

import torch


def peak_memory(device: str | torch.device) -> int | None:
    """The most bytes that tensors have held on a GPU, or that the process has had in memory. None if the system does
    not say (Windows)."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
