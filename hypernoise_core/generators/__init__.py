"""`load_generator`: from a folder or Hugging Face id to a frozen generator. Each family has one file in this folder."""

from pathlib import Path

import diffusers
import torch
from diffusers import DiffusionPipeline
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

from ..device import check_device
from ..embedded import GENERATOR_FOLDER
from ..settings import SettingError, about
from ..tensor_file import refuse_stand_ins
from .base import Generator
from .diffusers_generator import FAMILIES, DiffusersGenerator
from .flux import Flux
from .flux2_klein import Flux2Klein
from .krea2 import Krea2
from .quantized import Quantize, check_quantize, keep_packed, loading
from .qwen_image import QwenImage
from .sana_sprint import SanaSprint
from .saved import check_component, check_saved
from .schedules import Scheduler, set_scheduler
from .stable_diffusion import StableDiffusion, StableDiffusionXL
from .stable_diffusion_3 import StableDiffusion3
from .text_encoders import drop_vision
from .z_image import ZImage

SHORT_NAMES = {
    "embedded": str(GENERATOR_FOLDER),
    "sana": "Efficient-Large-Model/Sana_Sprint_0.6B_1024px_diffusers",
    "sana-1.6b": "Efficient-Large-Model/Sana_Sprint_1.6B_1024px_diffusers",
    "sd-turbo": "stabilityai/sd-turbo",
    "sdxl-turbo": "stabilityai/sdxl-turbo",
    "flux": "black-forest-labs/FLUX.1-schnell",
    "z-image-turbo": "Tongyi-MAI/Z-Image-Turbo",
    "flux2-klein-4b": "black-forest-labs/FLUX.2-klein-4B",
    "krea2-turbo": "krea/Krea-2-Turbo",
    "qwen-image": "Qwen/Qwen-Image",
    "sd3.5-turbo": "stabilityai/stable-diffusion-3.5-large-turbo",
}
"""Short names: those that the reference implementation's `--model` takes, the generator in this repository, and the
models that most people run."""

FILES = (".safetensors", ".gguf")
"""How the names of files with a denoiser end."""

__all__ = [
    "FAMILIES",
    "SHORT_NAMES",
    "DiffusersGenerator",
    "Flux",
    "Flux2Klein",
    "Generator",
    "Krea2",
    "QwenImage",
    "SanaSprint",
    "StableDiffusion",
    "StableDiffusion3",
    "StableDiffusionXL",
    "ZImage",
    "check_generator",
    "load_generator",
]


def load_generator(
    model: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    variant: str | None = None,
    config: str | None = None,
    quantize: Quantize | None = None,
    offload: bool = False,
    vae_slicing: bool = False,
    vae_tiling: bool = False,
    generator_lora: str | None = None,
    scheduler: Scheduler | None = None,
    shift: float | None = None,
    text_length: int | None = None,
) -> DiffusersGenerator:
    """Load a few-step model and freeze it.

    Args:
        model: a folder saved by diffusers, a Hugging Face id, one of `SHORT_NAMES`, or a `.safetensors` or `.gguf` file
            with a denoiser (alone or in a whole checkpoint, with diffusers' names or the original ones). With `config`
            also a folder or Hugging Face id of a denoiser alone.
        device: where the model runs, such as `cuda`.
        dtype: of the weights. Noise, residuals and images are float32 in any case.
        variant: of the weight files, such as `fp16`, as in diffusers.
        config: for a denoiser alone: folder, Hugging Face id or short name of the pipeline that it belongs to.
            Everything else is loaded from there.
        quantize: pack the denoiser's linear weights as they are loaded: `int8`, `fp8` (torchao), `nf4` (bitsandbytes).
        offload: keep the text encoders in CPU memory; while prompts are encoded, they change places with denoiser and
            autoencoder.
        vae_slicing: decode the images of a batch one at a time: less memory, the same images.
        vae_tiling: decode large images in overlapping tiles: far less memory, slightly different images.
        generator_lora: `FILE` or `FILE=SCALE`, a LoRA that belongs to the generator, such as one that makes a few steps
            enough. It is added to the weights in memory.
        scheduler: the sampler that such a model or LoRA wants, in place of its pipeline's.
        shift: the static shift of a rectified flow's noise levels, in place of its pipeline's.
        text_length: tokens of a prompt that are encoded, in place of the family's own: longer ones are cut, and shorter
            ones filled up where the denoiser sees the padding (FLUX, FLUX.2, SD3).

    Only safetensors are read: pickles may run code.

    Raises:
        ValueError: nothing is found there, its weights are no safetensors, no family here runs its pipeline class, what
            its UNet predicts is not known, the LoRA does not fit, the family cannot use the scheduler, or a package for
            `quantize` is missing.
    """
    check_device(device)
    if quantize:
        check_quantize(quantize, device)
    if quantize and generator_lora:
        raise SettingError(
            "{generator_lora} is given with {quantize} {}: a LoRA cannot be added to packed weights. Save the model "
            "with the LoRA in its weights by diffusers (fuse_lora, save_pretrained), and give that folder as {model}",
            quantize,
        )
    if Path(model).suffix in FILES and not Path(model).is_file():
        raise SettingError("{model} is {!r}: there is no such file", model)
    if Path(model).suffix in FILES and not config:
        raise SettingError(
            "{model} is {!r}, which holds only a denoiser: name its pipeline with {config}, such as sd-turbo", model
        )
    base = config or model
    source = SHORT_NAMES.get(base, base)
    with about("config" if config else "model"):
        family = check_generator(base, without_denoiser=bool(config))
    components = {}
    if config:
        with about("model"):
            _check_denoiser(Path(model))
    try:
        if config or quantize:
            options = loading(quantize, dtype, device) if quantize else {}
            if variant and not config:
                options["variant"] = variant
            path = model if config else source
            components[family.denoiser_name] = _load_denoiser(family.denoiser_name, path, source, dtype, options)
        pipeline = family.pipeline_class.from_pretrained(
            source, dtype=dtype, variant=variant, use_safetensors=True, **components
        )
    except (OSError, HfHubHTTPError, ValueError, RuntimeError) as error:
        raise SettingError("{model} is {!r}, which does not load: {}", model, _remedy(error, source)) from error
    name = model if model in SHORT_NAMES or not Path(model).exists() else Path(model).stem
    set_scheduler(pipeline, family, scheduler, shift, name)
    modules = {key: part for key, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    for key, module in modules.items():
        encodes = key.startswith("text_encoder")
        if encodes:
            drop_vision(module)
        if not (offload and encodes):
            module.to(device)
    if vae_slicing:
        pipeline.vae.enable_slicing()
    if vae_tiling:
        pipeline.vae.enable_tiling()
    lora = _fuse_lora(pipeline, family.denoiser_name, generator_lora, name) if generator_lora else ""
    with about("config" if config else "model"):
        generator = family(pipeline, name, offload)
    if text_length is not None:
        generator.set_text_length(text_length)
    generator.quantized = quantize or ("gguf" if Path(model).suffix == ".gguf" else "")
    generator.lora = lora  # of a LoRA in the model's own files nothing is known
    return generator


def _fuse_lora(pipeline: DiffusionPipeline, denoiser_name: str, told: str, name: str) -> str:
    from .generator_lora import fuse_generator_lora  # needs peft

    return fuse_generator_lora(pipeline, denoiser_name, told, name)


def check_generator(model: str, without_denoiser: bool = False) -> type[DiffusersGenerator]:
    """The family of a pipeline, from its index alone; the weights of a folder are checked without reading them.

    Args:
        model: a folder saved by diffusers, a Hugging Face id, or one of `SHORT_NAMES`.
        without_denoiser: its denoiser comes from elsewhere.

    Raises:
        ValueError: nothing is found there, no family here runs it, or weights are missing, are pickles, or only stand
            for weights.
    """
    source = SHORT_NAMES.get(model, model)
    family = _family(model, source)
    if Path(source).is_dir():
        check_saved(Path(source), without=(family.denoiser_name,) if without_denoiser else ())
    return family


def _family(model: str, source: str) -> type[DiffusersGenerator]:
    try:
        class_name = DiffusionPipeline.load_config(source)["_class_name"]
    except (OSError, HfHubHTTPError, ValueError, KeyError) as error:
        raise ValueError(f"no generator at {model!r}: {_remedy(error, source)}") from error
    if class_name not in FAMILIES:
        raise ValueError(f"{model!r} is a {class_name}; the families known here are {', '.join(FAMILIES)}")
    return FAMILIES[class_name]


def _check_denoiser(place: Path) -> None:
    refuse_stand_ins(place)
    if place.is_dir():
        check_component(place)


def _load_denoiser(name: str, path: str, source: str, dtype: torch.dtype, options: dict) -> torch.nn.Module:
    """The denoiser at `path`, a single file, as diffusers saves one, or the pipeline at `source` itself, built as that
    pipeline describes it."""
    denoiser_class = getattr(diffusers, DiffusionPipeline.load_config(source)[name][1])
    if Path(path).suffix not in FILES:
        where = {"subfolder": name} if path == source else {}
        denoiser = denoiser_class.from_pretrained(path, torch_dtype=dtype, use_safetensors=True, **where, **options)
        keep_packed(denoiser)
        return denoiser
    if Path(path).suffix == ".gguf":
        options = {**options, "quantization_config": diffusers.GGUFQuantizationConfig(compute_dtype=dtype)}
    try:
        denoiser = denoiser_class.from_single_file(path, config=source, subfolder=name, torch_dtype=dtype, **options)
        keep_packed(denoiser)
    except Exception as error:  # diffusers' converters fail in many ways on what they do not know
        raise ValueError(f"its weights are not those of the {name} of {source} ({_short(error)})") from error
    missing = [key for key, parameter in denoiser.named_parameters() if parameter.is_meta]
    if missing:
        raise ValueError(f"it lacks weights of the {name} of {source}, such as {missing[0]}")
    return denoiser


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _remedy(error: BaseException, source: str) -> str:
    """Advice for a model that does not load, from the error's first cause."""
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return (
            f"it is gated: accept its terms at huggingface.co/{source} and log in with `hf auth login`, or give a "
            "folder with its files"
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return "the hub has no such public repository: check the name, or log in with `hf auth login` if it is private"
    if Path(source).is_dir() or "safetensors" in str(error):  # of a hub's repository, that it has none
        return _short(causes[0])
    return (
        "give a folder saved by diffusers (with model_index.json), a hub id that this machine can reach, or one of "
        + ", ".join(SHORT_NAMES)
    )
