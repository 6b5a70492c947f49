"""Rewards of billions of parameters with weights of 8 or 4 bits, as transformers has bitsandbytes make them."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import torch
from transformers import BitsAndBytesConfig

from ..settings import SettingError

Quantize = Literal["none", "int8", "nf4"]
"""`int8` is LLM.int8 (Dettmers et al. 2022, arXiv 2208.07339), `nf4` QLoRA's 4 bits (Dettmers et al. 2023, arXiv
2305.14314). Scores change a little."""


def check_quantize(quantize: Quantize) -> None:
    """
    Raises:
        SettingError: it needs a package that is not installed.
    """
    if quantize != "none" and find_spec("bitsandbytes") is None:
        raise SettingError(
            "{rewards_quantize} {} needs bitsandbytes: pip install 'comfyui-hypernoise[quantize]', or take none",
            quantize,
        )


def loading(quantize: Quantize, dtype: torch.dtype) -> dict[str, Any]:
    """What `from_pretrained` is told.

    Args:
        dtype: of what stays as it is, and of the arithmetic.

    Raises:
        SettingError: as in `check_quantize`.
    """
    check_quantize(quantize)
    if quantize == "none":
        return {}
    how = (
        {"load_in_8bit": True}
        if quantize == "int8"
        else {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": dtype}
    )
    return {"quantization_config": BitsAndBytesConfig(**how)}
