"""Generators from their configurations alone, and what stands for their prompts."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from diffusers import DiffusionPipeline
from torch import nn
from torch._subclasses.fake_tensor import unset_fake_temporarily
from transformers import PreTrainedModel

from ..batch import TensorBatch
from ..generators import FAMILIES, SHORT_NAMES, DiffusersGenerator, z_image
from ..settings import SettingError
from .released import CONFIGURATIONS, Configuration
from .without_data import with_numbers

TOKENS = 128
"""Of a prompt, for models that take prompts of any length; longer than nearly all prompts of the published sets."""


def build(
    configuration: Configuration,
    name: str,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    text_length: int | None = None,
) -> DiffusersGenerator:
    """A generator with random weights and random conditionings; inside `without_data` it takes no memory. Text encoders
    are left out of it: training calls them once a prompt, before it starts.

    Raises:
        SettingError: the family is not known here.
    """
    with default_dtype(dtype):
        denoiser, autoencoder = configuration.denoiser().to(device), configuration.autoencoder().to(device)
    with unset_fake_temporarily():
        pipeline = configuration.pipeline(denoiser, autoencoder)
        generator = FAMILIES[type(pipeline).__name__](pipeline, name)
    if generator.max_tokens and text_length:
        generator.max_tokens = text_length
    shapes = conditioning_shapes(generator)

    def encode(prompts: Sequence[str]) -> TensorBatch:
        make = {"mask": torch.ones}
        tensors = {key: make.get(key, torch.randn)((len(prompts), *shape)) for key, shape in shapes.items()}
        return TensorBatch(tensors).to(device)

    generator.encode = encode  # type: ignore[method-assign]
    return generator


def configuration_of(model: str, pipeline: str | None = None) -> Configuration:
    """What is known of a model without its weights: of a short name, of a folder saved by diffusers, of a hub id whose
    configuration files can be read.

    Args:
        pipeline: where `model` is a denoiser alone, the pipeline that it belongs to.

    Raises:
        SettingError: there is nothing to read, or no family runs it.
    """
    name = pipeline or model
    if name in CONFIGURATIONS:
        return CONFIGURATIONS[name]
    source = SHORT_NAMES.get(name, name)
    try:
        index = DiffusionPipeline.load_config(source)
    except (OSError, ValueError) as error:
        raise SettingError("{model} is {!r}, whose configuration cannot be read ({})", name, error) from error
    if index.get("_class_name") not in FAMILIES:
        raise SettingError("{model} is {!r}, a {}: no family here runs it", name, index.get("_class_name"))
    family = FAMILIES[index["_class_name"]]
    return _of_files(source, index, family)


def _of_files(source: str, index: dict[str, Any], family: type[DiffusersGenerator]) -> Configuration:
    components = {key: value for key, value in index.items() if _is_component(value)}
    parts = {key: value for key, value in components.items() if value[0]}
    plain = {key: value for key, value in index.items() if not key.startswith("_") and key not in components}

    def component(name: str) -> nn.Module:
        kind = getattr(diffusers, parts[name][1])
        return kind.from_config(kind.load_config(source, subfolder=name))

    def pipeline(denoiser: nn.Module, autoencoder: nn.Module) -> DiffusionPipeline:
        scheduler = getattr(diffusers, parts["scheduler"][1]).from_pretrained(source, subfolder="scheduler")
        given = {family.denoiser_name: denoiser, "vae": autoencoder, "scheduler": scheduler}
        return family.pipeline_class(**{**dict.fromkeys(components), **plain, **given})

    def encoder(name: str) -> PreTrainedModel:
        kind = getattr(transformers, parts[name][1])
        return kind(kind.config_class.from_pretrained(Path(source, name)))

    names = [name for name in parts if name.startswith("text_encoder")]
    makers = tuple((lambda name=name: encoder(name)) for name in names)
    return Configuration(lambda: component(family.denoiser_name), lambda: component("vae"), pipeline, makers)


def _is_component(value: object) -> bool:
    """[library, class], or nulls for one that a pipeline can do without; other lists are settings."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[0], (str, type(None)))


def conditioning_shapes(generator: DiffusersGenerator) -> dict[str, tuple[int, ...]]:
    """Of one prompt's tensors, by name; `mask` is all ones.

    Raises:
        SettingError: the family is not known here.
    """
    c = generator.denoiser.config
    if generator.family not in SHAPES:
        raise SettingError("{model} is of the family {!r}, whose prompts have unknown shapes", generator.family)
    return SHAPES[generator.family](c, generator.max_tokens or 0)


SHAPES: dict[str, Callable[[Any, int], dict[str, tuple[int, ...]]]] = {
    "sana-sprint": lambda c, tokens: {"embeds": (TOKENS, c.caption_channels), "mask": (TOKENS,)},
    "sd-turbo": lambda c, tokens: {"embeds": (77, c.cross_attention_dim)},
    "sdxl-turbo": lambda c, tokens: {
        "embeds": (77, c.cross_attention_dim),
        "pooled": (c.projection_class_embeddings_input_dim - 6 * c.addition_time_embed_dim,),
    },
    "flux": lambda c, tokens: {"embeds": (tokens, c.joint_attention_dim), "pooled": (c.pooled_projection_dim,)},
    "flux2-klein": lambda c, tokens: {"embeds": (tokens, c.joint_attention_dim)},
    "z-image": lambda c, tokens: {"embeds": (TOKENS, c.cap_feat_dim), "mask": (TOKENS,)},
    "krea2": lambda c, tokens: {"embeds": (TOKENS, c.num_text_layers, c.text_hidden_dim), "mask": (TOKENS,)},
    "qwen-image": lambda c, tokens: {"embeds": (TOKENS, c.joint_attention_dim), "mask": (TOKENS,)},
    "sd3": lambda c, tokens: {"embeds": (77 + tokens, c.joint_attention_dim), "pooled": (c.pooled_projection_dim,)},
}
"""By family, from the denoiser's configuration and the length that texts are filled up to, where they are."""


def countable(generator: DiffusersGenerator) -> DiffusersGenerator:
    """The same, able to sample without data."""
    if hasattr(generator, "_scheduler"):
        generator._scheduler = with_numbers(generator._scheduler)
    return generator


@contextmanager
def every_token_kept() -> Iterator[None]:
    """Without data, nobody can tell which of a prompt's tokens are padding."""
    own, z_image.masked = z_image.masked, lambda embeds, mask: list(embeds)
    try:
        yield
    finally:
        z_image.masked = own


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """What modules are made in, inside."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
