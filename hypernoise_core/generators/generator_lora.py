"""A LoRA that belongs to the generator, such as one that makes a few steps enough: Lightning, Hyper-SD, DMD2, LCM."""

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from diffusers import DiffusionPipeline
from diffusers.utils import logging
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors import safe_open

from ..hypernetworks.adapter_file import content_sha256
from ..settings import SettingError, about
from ..tensor_file import refuse_stand_ins


def fuse_generator_lora(pipeline: DiffusionPipeline, denoiser_name: str, told: str, model: str) -> str:
    """Add a LoRA to the weights of a pipeline in memory, by diffusers' own loading.

    It is fused: layers keep their kind and their names, so that every hypernetwork, file and quantized base sees the
    generator as one without a LoRA, and a call costs what it cost before. The files of the model are only read.

    Args:
        told: `FILE` or `FILE=SCALE`; the file may be `owner/name/file.safetensors` on the hub.
        model: its name, for messages.

    Returns:
        What an adapter's metadata says of it: `name=scale hash`, the hash of its content.

    Raises:
        SettingError: there is no such file, or it does not fit; the message names a layer.
    """
    file, scale = _parsed(told)
    path = _local(file)
    with about("generator_lora"):
        refuse_stand_ins(path)
    with _quiet():
        try:
            pipeline.load_lora_weights(str(path.parent), weight_name=path.name)
            wanted = _layers(pipeline, path, denoiser_name)
        except Exception as error:  # diffusers and peft fail in many ways on what they do not know
            raise _misfit(path, model, f"{_short(error)} (one of its layers is {_first_layer(path)})") from error
        modules = getattr(pipeline, denoiser_name).named_modules()
        adapted = {name for name, module in modules if isinstance(module, BaseTunerLayer)}
        if left_out := sorted(wanted - adapted):
            raise _misfit(path, model, f"the {denoiser_name} has no layer {left_out[0]}")
        if not adapted:
            reason = f"it has nothing for the {denoiser_name} (one of its layers is {_first_layer(path)})"
            raise _misfit(path, model, reason)
        pipeline.fuse_lora(lora_scale=scale)
        pipeline.unload_lora_weights()
    return f"{path.stem}={scale:g} {content_sha256(path)[:16]}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without diffusers' advice to open an issue: whatever did not load is found here and told in one sentence."""
    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _parsed(told: str) -> tuple[str, float]:
    """(file, scale)."""
    file, equals, text = told.rpartition("=")
    if not equals:
        return told, 1.0
    try:
        scale = float(text)
    except ValueError:
        scale = math.nan
    if not math.isfinite(scale) or not file:
        raise SettingError("{generator_lora} is {!r}: give FILE, or FILE=SCALE with a number such as 0.8", told)
    return file, scale


def _local(file: str) -> Path:
    """Where the file lies on this machine."""
    path = Path(file)
    if path.is_file():
        return path
    parts = file.split("/")
    if path.is_absolute() or len(parts) < 3 or path.suffix != ".safetensors":
        raise SettingError(
            "{generator_lora} is {!r}, and there is no such file: give a .safetensors file, here or on the hub as "
            "owner/name/file.safetensors",
            file,
        )
    try:
        return Path(hf_hub_download("/".join(parts[:2]), "/".join(parts[2:])))
    except (OSError, HfHubHTTPError, ValueError) as error:
        raise SettingError(
            "{generator_lora} is {!r}, which is neither here nor on the hub, as far as this machine can reach it: {}",
            file,
            _short(error),
        ) from error


def _layers(pipeline: DiffusionPipeline, path: Path, denoiser_name: str) -> set[str]:
    """The denoiser's layers that the file has weights for, as diffusers reads them."""
    state = pipeline.lora_state_dict(str(path.parent), weight_name=path.name)
    weights = state[0] if isinstance(state, tuple) else state
    prefix = f"{denoiser_name}."
    keys = [key.removeprefix(prefix) for key in weights if key.startswith(prefix)]
    return {re.split(r"[._]lora(?=[._])", key)[0].replace(".processor.", ".") for key in keys if "lora" in key}


def _first_layer(path: Path) -> str:
    with safe_open(path, framework="pt") as file:
        return min(file.keys(), default="none at all")


def _misfit(path: Path, model: str, reason: str) -> SettingError:
    return SettingError("{generator_lora} is {!r}, which does not fit {}: {}", str(path), model, reason)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
