"""The text encoders of pipelines: what a prompt needs of them."""

from torch import nn


def drop_vision(encoder: nn.Module) -> None:
    """Take the vision tower out of a vision-language model, in place: it sees no prompt. 1.3 GiB of Qwen-Image's."""
    inner = getattr(encoder, "model", encoder)
    if getattr(inner, "visual", None) is not None:
        inner.visual = None
