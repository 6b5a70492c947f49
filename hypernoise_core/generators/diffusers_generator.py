"""What all generators based on diffusers pipelines share. A family adds what its denoiser receives."""

import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import ClassVar

import torch
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from ..batch import TensorBatch
from ..checkpointing import checkpoint_layers
from ..settings import SettingError
from .base import Generator

FAMILIES: dict[str, type["DiffusersGenerator"]] = {}
"""diffusers pipeline class name to the family that runs it."""


PROMPTS_AT_A_TIME = 4
"""Of those that are encoded: more would take more memory than a step of training."""

DEFAULT_SIZE = 1024
"""Side of the pictures, in pixels, of pipelines that state it in their `__call__` alone."""


class DiffusersGenerator(Generator):
    """A frozen diffusers pipeline.

    A family sets `family` and `pipeline_class` and implements `_encode`, `first_call` and `denoise`. `load_generator`
    knows it as soon as its file is imported.

    Args:
        pipeline: with its denoiser and autoencoder on the device where they will run.
        name: for messages and metadata.
        offload: keep text encoders in CPU memory; while prompts are encoded, they change places with denoiser and
            autoencoder.
    """

    denoiser: ModelMixin
    pipeline_class: type[DiffusionPipeline]
    denoiser_name = "transformer"
    """The pipeline's component that denoises."""
    schedulers: ClassVar[dict[str, tuple[type[SchedulerMixin], dict]]] = {}
    """Samplers that can take the place of the pipeline's: name to diffusers' class and what changes in the config."""
    max_tokens: int | None = None
    """Tokens of a prompt that are encoded, if the tokenizer takes so many. None: CLIP's window, always."""

    def __init_subclass__(cls):
        if "pipeline_class" in vars(cls):
            FAMILIES[cls.pipeline_class.__name__] = cls

    def __init__(self, pipeline: DiffusionPipeline, name: str, offload: bool = False):
        self.name = name
        self.pipeline = pipeline
        self.denoiser = getattr(pipeline, self.denoiser_name)
        self.autoencoder = pipeline.vae
        self.text_encoders = [
            module
            for key, module in pipeline.components.items()
            if key.startswith("text_encoder") and isinstance(module, nn.Module)
        ]
        for module in (self.denoiser, self.autoencoder, *self.text_encoders):
            module.eval().requires_grad_(False)
        self.offload, self._encoding = offload, False
        self.device = self.denoiser.device
        self.latent_channels = self.denoiser.config.in_channels
        self.latent_scale = pipeline.vae_scale_factor
        self.latent_scaling = self.autoencoder.config.get("scaling_factor") or 1.0
        cells = self.denoiser.config.get("sample_size") or getattr(pipeline, "default_sample_size", None)
        self.default_size = cells * self.latent_scale if cells else DEFAULT_SIZE

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> TensorBatch:
        """As of `Generator`. A prompt that comes again is encoded once. Warns of every prompt that is cut."""
        rows = {prompt: row for row, prompt in enumerate(dict.fromkeys(prompts))}
        distinct = list(rows)
        self._tell_cuts(distinct)
        with self.encoding():
            parts = [distinct[i : i + PROMPTS_AT_A_TIME] for i in range(0, len(distinct), PROMPTS_AT_A_TIME)]
            encoded = TensorBatch.cat([self._encode(part) for part in parts])
        return encoded.rows([rows[prompt] for prompt in prompts])

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """It splits the text that the denoiser reads."""
        return self.pipeline.tokenizer

    @property
    def text_length(self) -> int | None:  # type: ignore[override]  # there it is an attribute
        return self.max_tokens and min(self.max_tokens, self.tokenizer.model_max_length)

    def set_text_length(self, length: int) -> None:
        """Encode prompts at this `text_length`.

        Raises:
            SettingError: the family's is fixed, or its tokenizer does not take so many tokens.
        """
        most = self.tokenizer.model_max_length
        if self.max_tokens is None:
            raise SettingError(
                "{text_length} is {}, and {} always reads CLIP's {} tokens: leave it out", length, self.name, most
            )
        if not 1 <= length <= most:
            raise SettingError("{text_length} is {}: {} takes 1 to {} tokens", length, self.name, most)
        self.max_tokens = length

    def _tell_cuts(self, prompts: list[str]) -> None:
        tokenizer = self.tokenizer
        most = self.text_length or tokenizer.model_max_length
        for prompt, ids in zip(prompts, tokenizer(prompts, verbose=False)["input_ids"], strict=True):
            if len(ids) > most:
                warnings.warn(
                    f"a prompt of {len(ids)} tokens is cut to the first {most}, which is all that {self.name} reads: "
                    f"{prompt[:60]!r}…",
                    stacklevel=3,
                )

    @abstractmethod
    def _encode(self, prompts: list[str]) -> TensorBatch:
        """`encode` of a few prompts, without gradients and with the text encoders on the right device."""

    @contextmanager
    def encoding(self) -> Iterator[None]:
        if not self.offload or self._encoding:
            yield
            return
        self._encoding = True
        try:
            _move((self.denoiser, self.autoencoder), "cpu")
            _move(self.text_encoders, self.device)
            yield
        finally:
            _move(self.text_encoders, "cpu")
            _move((self.denoiser, self.autoencoder), self.device)
            self._encoding = False

    def decode(self, latents: Tensor) -> Tensor:
        if latents.requires_grad and torch.is_grad_enabled():
            return self._decode(latents)
        return torch.cat([self._decode(latents[rows]) for rows in self.parts(latents)])

    def _decode(self, latents: Tensor) -> Tensor:
        """`decode`, all at once."""
        config = self.autoencoder.config
        latents = latents.to(self.autoencoder.dtype) / config.scaling_factor + (config.get("shift_factor") or 0.0)
        return as_pictures(self.autoencoder.decode(latents, return_dict=False)[0])

    def encode_pictures(self, pictures: Tensor) -> Tensor:
        """The latents [B, C, h, w] of pictures [B, 3, H, W] in [0, 1]: what `decode` undoes, as far as the autoencoder
        can."""
        config, latents = self.autoencoder.config, self._encoded(pictures)
        return (latents - (config.get("shift_factor") or 0.0)) * config.scaling_factor

    def _encoded(self, pictures: Tensor) -> Tensor:
        """What the autoencoder makes of pictures, without a draw, in float32."""
        found = self.autoencoder.encode(pictures.to(self.autoencoder.dtype) * 2 - 1, return_dict=False)[0]
        return (found if isinstance(found, Tensor) else found.mode()).float()

    def checkpoint_gradients(self, enabled: bool = True) -> None:
        for module in (self.denoiser, self.autoencoder):
            self._checkpoint(module, enabled)

    @staticmethod
    def _checkpoint(module: ModelMixin, enabled: bool) -> None:
        if not module._supports_gradient_checkpointing:  # its decoder's up blocks hold most of the activations
            stages = module.decoder.up_blocks
            sequences = [stage.children() if isinstance(stage, nn.Sequential) else [stage] for stage in stages]
            checkpoint_layers(chain.from_iterable(sequences), enabled)
        elif enabled:
            module.enable_gradient_checkpointing()
        else:
            module.disable_gradient_checkpointing()


def _move(modules: Iterable[nn.Module], device: torch.device | str) -> None:
    for module in modules:
        module.to(device)


def as_pictures(decoded: Tensor) -> Tensor:
    """An autoencoder's output in [-1, 1] as pictures in [0, 1], in float32."""
    return (decoded.float() / 2 + 0.5).clamp(0, 1)
