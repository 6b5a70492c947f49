"""How many tokens a prompt is filled up to, where the denoiser sees the padding: the length is then a part of the
model."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from comfy.model_patcher import ModelPatcher

from .adapter import HyperNoise
from .identity import identity

SEE_PADDING = ("flux", "flux2-klein")
"""Families whose text encoders in ComfyUI fill every prompt up to one length."""


def text_length(model: ModelPatcher, conds: Sequence[dict]) -> int | None:
    """Tokens that texts have at least: told by a generator of the core's, else those of the shortest of `conds`; None
    for families that do not see the padding."""
    if own := getattr(model.model, "generator", None):
        return own.text_length
    texts = [cond["cross_attn"].shape[1] for cond in conds if cond.get("cross_attn") is not None]
    return min(texts, default=None) if identity(model)[0] in SEE_PADDING else None


def tell_text_length(hypernoise: HyperNoise, model: ModelPatcher, conds: Sequence[dict]) -> None:
    """Log a warning if `hypernoise` was trained with another length."""
    now, then = text_length(model, conds), hypernoise.training.get("text_length", "")
    if now is None or not then.isdecimal() or now == int(then):
        return
    if now > int(then) and not hasattr(model.model, "generator"):  # ComfyUI's own encoders do not cut a long prompt
        return
    logging.warning(
        f"{hypernoise.name} was trained with texts of {then[:20]} tokens, and this CLIP gives {now}: the model makes "
        f"other pictures of a noise. Set text_length in Load HyperNoise Generator, or min_length in T5 Tokenizer "
        f"Options, to {then[:20]}."
    )
