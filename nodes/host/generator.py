"""ComfyUI's MODEL, CLIP and VAE as a differentiable `Generator` of the core. Needs diffusers, as the core's do.

Nodes run in inference mode, and tensors made there cannot be differentiated through. So use everything here inside
`torch.inference_mode(False)`; `load` converts the weights in place, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest

import comfy.model_management
import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import comfy.sd
import torch
from comfy.ldm.modules.attention import attention_pytorch
from comfy.model_patcher import ModelPatcher
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from hypernoise_core import TensorBatch
from hypernoise_core.generators.base import Generator
from hypernoise_core.noise import First, streams
from hypernoise_core.reading import Reading, inputs_of

from .adapter import check_conditioning
from .call import raw_output, still
from .differentiation import Recomputation, leave_inference_mode
from .features import patch_size, picture_grid
from .identity import identity, latent_space, makes_stills
from .kernels import without_fused_kernels
from .quantized import check_quantized, gradients_through
from .sampling import NoiseSampler, Run, Sampling, adds_noise
from .text_length import text_length

EVERYTHING = 1e20
"""More bytes than there are. ComfyUI then unloads all other models, as for its own training."""


class HostGenerator(Generator):
    """A MODEL with its CLIP and VAE, and with any LoRAs and patches on them.

    The denoiser is called as ComfyUI's samplers call it. Latents are [B, C, h, w] here, also those of models that
    ComfyUI gives a time axis, as long as it is one picture. Call `encode` for all prompts first, then `load`.

    Args:
        default_size: pixels along each side of the pictures that it is tried on.
        sampling: how pictures are made beyond the first call.

    Raises:
        ValueError: the model cannot be trained for; the message says why.
    """

    def __init__(
        self,
        model: ModelPatcher,
        clip: comfy.sd.CLIP,
        vae: comfy.sd.VAE,
        default_size: int,
        sampling: Sampling | None = None,
    ):
        self._patcher, self._clip, self._vae = _undynamic(model), clip, vae
        self._vae_patcher, self._sampling = _undynamic(vae.patcher), sampling or Sampling()
        latents = self._patcher.model.latent_format
        self._has_time = getattr(latents, "latent_dimensions", 2) == 3
        if not makes_stills(self._patcher) or vae.latent_dim not in (2, 3):
            raise ValueError("model: its latents are not those of still images, so you cannot train for it")
        if latents.latent_channels != vae.latent_channels:
            raise ValueError(
                f"vae: it decodes {vae.latent_channels} channels, but the model makes {latents.latent_channels}: "
                f"connect the VAE of this model"
            )
        self.denoiser: nn.Module = self._patcher.model.diffusion_model
        self.autoencoder: nn.Module = self._vae_patcher.model
        check_quantized(self.denoiser)
        self.family, self.name = identity(self._patcher)
        self.latent_channels = latents.latent_channels
        self.latent_scale = int(getattr(latents, "spacial_downscale_ratio", vae.downscale_ratio))
        self.latent_scaling = latent_space(self._patcher).scaling
        self.default_size = default_size
        self.device = self._patcher.load_device
        self._prompts: dict[tuple[str, bool], int] = {}
        self._conds: list[dict] = []
        self._recomputation = Recomputation()
        self._called_for: list[list[int]] = []
        """Rows of the batch that the denoiser was called for last, call by call."""

    @property
    def adds_noise(self) -> bool:
        return adds_noise(self._sampling.sampler(self._patcher))

    @property
    def text_length(self) -> int | None:
        return text_length(self._patcher, self._conds)

    @property
    def size_multiple(self) -> int:
        return self.latent_scale * (patch_size(self.denoiser) or 1)

    @property
    def trial_size(self) -> int:
        """The size that is trained at: some models cannot do a much smaller one."""
        return max(1, self.default_size // self.size_multiple) * self.size_multiple

    def encode(self, prompts: Sequence[str]) -> TensorBatch:
        """The numbers of the conditionings. The conditionings themselves stay here in ComfyUI's format, which differs
        between models."""
        numbers = [self._number(prompt) for prompt in prompts]
        if self._sampling.cfg != 1:
            self._number(self._sampling.negative_prompt, positive=False)
        return TensorBatch({"number": torch.tensor(numbers)})

    @torch.no_grad()
    def _number(self, prompt: str, positive: bool = True) -> int:
        if (prompt, positive) not in self._prompts:
            comfy.model_management.throw_exception_if_processing_interrupted()
            encoded = self._clip.encode_from_tokens_scheduled(self._clip.tokenize(prompt))
            (cond, *_) = comfy.sampler_helpers.convert_cond(encoded)
            check_conditioning(self._patcher, [cond.get("cross_attn")])
            if positive and self._sampling.guidance:
                cond["guidance"] = self._sampling.guidance
            self._prompts[prompt, positive] = len(self._conds)
            self._conds.append({key: _own(value) for key, value in cond.items()})
        return self._prompts[prompt, positive]

    @torch.no_grad()
    def check(self, steps: int) -> None:
        """Make a first call, so that what cannot work is told before the run.

        Raises:
            ValueError: there is no schedule of that many `steps`, or the call failed.
        """
        self._sampling.sigmas(self._patcher, steps)
        x0, first = self.noise(1, self.trial_size, self.trial_size), TensorBatch({"number": torch.zeros(1).long()})
        try:
            self.first_call(self.denoiser, x0, first)
        except torch.OutOfMemoryError:
            raise
        except ZeroDivisionError as error:
            raise ValueError(
                f"width and height: {type(self._patcher.model).__name__} cannot make pictures as small as "
                f"{self.trial_size} pixels: give more"
            ) from error
        except (RuntimeError, TypeError, KeyError, AttributeError) as error:
            text = self._conds[0].get("cross_attn")
            shape = "" if text is None else f", {list(text.shape)}"
            raise ValueError(
                f"clip: {type(self._patcher.model).__name__} cannot be run on what this text encoder gives{shape} "
                f"({error}): connect the CLIP of this model"
            ) from error

    def load(self) -> None:
        """Make ComfyUI load the model and the VAE completely and unload everything else; then take their weights out of
        inference mode."""
        patchers = [self._patcher, self._vae_patcher]
        with torch.inference_mode():
            comfy.model_management.load_models_gpu(patchers, memory_required=EVERYTHING, force_full_load=True)
        for module in (self._patcher.model, self._vae_patcher.model):
            leave_inference_mode(module.modules())
        leave_inference_mode([self._patcher.model.latent_format])

    @contextmanager
    def training(self) -> Iterator[None]:
        """Inside the block, ComfyUI's models run in a way that backward passes can handle. Afterwards they run as
        before."""
        self._patcher.pre_run()
        try:
            with without_fused_kernels(), gradients_through(list(self.denoiser.modules())):
                yield
        finally:
            self.checkpoint_gradients(False)
            self._patcher.cleanup()

    def first_call(self, denoiser: nn.Module, x0: Tensor, conditioning: TensorBatch) -> Tensor:
        x, sigma = self._first_input(x0)
        denoised = self._denoised(denoiser, x, sigma, conditioning)
        return raw_output(self._patcher.model.model_sampling, sigma, x, denoised)

    def clean(self, x0: Tensor, prediction: Tensor) -> Tensor:
        x, sigma = self._first_input(x0)
        return self._patcher.model.model_sampling.calculate_denoised(sigma, prediction, x)

    def _first_input(self, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Unit noise as the model's sampling scales it, and the sigma of pure noise."""
        sampling = self._patcher.model.model_sampling
        sigma = torch.as_tensor(float(sampling.sigma_max), device=x0.device)
        return sampling.noise_scaling(sigma, x0, torch.zeros_like(x0)), sigma

    def read(self, x0: Tensor, conditioning: TensorBatch) -> Reading:
        def call() -> Tensor:
            return self._denoised(self.denoiser, *self._first_input(x0), conditioning)

        return self._read(self.denoiser, x0, call)[1]

    def _read(self, denoiser: nn.Module, x0: Tensor, call: Callable[[], Tensor]) -> tuple[Tensor, Reading]:
        """Here `call` returns clean latents, and may call the denoiser for one group of rows after the other."""
        with inputs_of(denoiser.get_submodule(self.last_layer)) as received:
            denoised = call()
        grids = [self.as_grid(tokens, *x0.shape[-2:]) for tokens in received]
        whole = [grid is not None and len(grid) == len(rows) for grid, rows in zip_longest(grids, self._called_for)]
        return denoised, Reading(denoised, _in_order(grids, self._called_for) if all(whole) else None)

    def as_grid(self, tokens: Tensor, height: int, width: int) -> Tensor | None:
        return picture_grid(self.denoiser, tokens, height, width)

    def denoise(
        self,
        x0: Tensor,
        conditioning: TensorBatch,
        steps: int,
        seed: int | Sequence[int],
        denoiser: nn.Module | None = None,
        between: Tensor | None = None,
        first: First | None = None,
    ) -> Tensor:
        """As the core's. A single `seed` draws between steps what ComfyUI's sampler draws for it."""
        kept, name = self._kept(x0, denoiser, steps, between, first), self._sampling.sampler(self._patcher)
        residual: Tensor | None = None

        def predict(x: Tensor, sigma: Tensor, options: dict) -> Tensor:
            nonlocal residual
            if residual is not None:  # the start is in every x, sigma times
                x = x + sigma * residual
            denoised = kept.call(self._guided, denoiser or self.denoiser, x, sigma, conditioning, options)
            if residual is None and first is not None and between is None:
                residual = kept.moved(torch.zeros_like(x0), 1.0)
            return denoised

        one = not isinstance(seed, Sequence)
        draw = None if one else _noise_sampler(x0, seed)
        if between is not None:
            draw = lambda *_: kept.between  # noqa: E731
        sigmas = self._sampling.sigmas(self._patcher, steps).to(x0.device)
        return Run(self._patcher, predict).sample(name, x0, sigmas, seed if one else seed[0], draw)

    def calls(self, steps: int) -> int:
        """How often the sampler asks for a prediction in so many steps."""
        asked = []

        def predict(x: Tensor, sigma: Tensor, options: dict) -> Tensor:
            asked.append(sigma)
            return x

        sigmas = self._sampling.sigmas(self._patcher, steps)
        x0 = self.noise(1, self.size_multiple, self.size_multiple)
        Run(self._patcher, predict).sample(self._sampling.sampler(self._patcher), x0, sigmas.to(x0.device), 0)
        return len(asked)

    def _guided(
        self, denoiser: nn.Module, x: Tensor, sigma: Tensor, conditioning: TensorBatch, options: dict
    ) -> Tensor:
        """The clean latents with the prompt's guidance, as ComfyUI's samplers compute them."""
        scale = self._sampling.cfg
        denoised = self._denoised(denoiser, x, sigma, conditioning)
        without = torch.zeros_like(denoised)
        if scale != 1:
            number = self._number(self._sampling.negative_prompt, positive=False)
            negative = TensorBatch({"number": torch.full((len(x),), number)})
            without = self._denoised(denoiser, x, sigma, negative, "negative")
        model, sigmas = self._patcher.model, sigma.expand(len(x))
        return comfy.samplers.cfg_function(model, denoised, without, scale, x, sigmas, options)

    def decode(self, latents: Tensor) -> Tensor:
        vae = self._vae
        latents = self._patcher.model.process_latent_out(self._timed(latents))
        latents = still(latents) if vae.latent_dim == 2 else still(latents).unsqueeze(2)
        pictures = self._vae_patcher.model.decode(latents.to(self._vae_patcher.load_device, vae.vae_dtype))
        pictures = pictures[:, :, 0] if pictures.dim() == 5 else pictures
        return vae.process_output(pictures.to(latents.device).float().clone()).clamp(0, 1)  # it writes in place

    def checkpoint_gradients(self, enabled: bool = True) -> None:
        self._recomputation.unwrap()
        if enabled:
            self._recomputation.wrap(self.denoiser)
            for name, module in self._vae_patcher.model.named_modules():
                if name.endswith("decoder"):
                    self._recomputation.wrap(module)

    def _timed(self, x: Tensor) -> Tensor:
        """`x` [B, C, h, w] as ComfyUI has it for this model: with a time axis of one picture where it wants one."""
        return x.unsqueeze(2) if self._has_time else x

    def _denoised(
        self, denoiser: nn.Module, x: Tensor, sigma: Tensor, conditioning: TensorBatch, kind: str = "positive"
    ) -> Tensor:
        """The clean latents that ComfyUI computes from `denoiser`'s output at x [B, C, h, w], in float32. `kind` is the
        conditioning's input of a sampler."""
        model, parts, x = self._patcher.model, [], self._timed(x)
        conds = self._model_conds(conditioning["number"], x, kind)
        with _in_place_of(model, denoiser):
            self._called_for = _alike(conds)
            for rows in self._called_for:
                options = self._options(sigma)
                c = comfy.samplers.cond_cat([conds[row] for row in rows])
                c["transformer_options"] = options["transformer_options"]
                inputs = {"input": x[rows], "timestep": sigma.expand(len(rows)), "c": c, "cond_or_uncond": [0]}
                if wrapper := options.get("model_function_wrapper"):
                    parts.append(wrapper(model.apply_model, inputs))
                else:
                    parts.append(model.apply_model(inputs["input"], inputs["timestep"], **c))
        return still(_in_order(parts, self._called_for))

    def _model_conds(self, numbers: Tensor, x: Tensor, kind: str) -> list[dict]:
        """ComfyUI's inputs of the denoiser besides noise and time, for each row."""
        return self._conds_of(numbers.tolist(), x, kind)

    def _conds_of(self, numbers: Sequence[int], x: Tensor, kind: str) -> list[dict]:
        made = {}
        for number in set(numbers):
            (cond,) = comfy.samplers.encode_model_conds(
                self._patcher.model.extra_conds, [self._conds[number]], x[:1].detach(), x.device, kind
            )
            made[number] = {k: v.process_cond(batch_size=1, area=None) for k, v in cond["model_conds"].items()}
        return [made[number] for number in numbers]

    def _options(self, sigma: Tensor) -> dict:
        """The MODEL's options, prepared as ComfyUI's samplers do for a call."""
        options = self._patcher.model_options.copy()
        merge = comfy.patcher_extension.merge_nested_dicts
        transformer = merge({}, options.get("transformer_options", {}))
        transformer = merge(transformer, {"wrappers": self._patcher.wrappers, "callbacks": self._patcher.callbacks})
        transformer |= {"cond_or_uncond": [0], "sigmas": sigma.view(1), "sample_sigmas": sigma.view(1)}
        if comfy.model_management.sage_attention_enabled() or comfy.model_management.flash_attention_enabled():
            transformer["optimized_attention_override"] = _differentiable_attention
        options["transformer_options"] = transformer
        return options


def _noise_sampler(x: Tensor, seeds: Sequence[int]) -> NoiseSampler:
    """Draws noise like `x` between steps, from a stream of each picture's own."""
    random = streams(seeds, len(x))
    return lambda *_: randn_tensor(x.shape, generator=random, device=x.device, dtype=x.dtype)


def _undynamic(patcher: ModelPatcher) -> ModelPatcher:
    """A patcher whose weights stay on the GPU for the backward pass. Weights that ComfyUI streams layer by layer would
    be gone by then. ComfyUI's own hooks use such a delegate too."""
    if not (hasattr(patcher, "is_dynamic") and patcher.is_dynamic()):
        return patcher.clone()
    try:
        return patcher.get_non_dynamic_delegate()
    except RuntimeError as error:
        raise ValueError(
            "model: with dynamic VRAM, training loads the model a second time, and this model's loader cannot do that: "
            "use one of ComfyUI's own loaders, or start ComfyUI with --disable-dynamic-vram"
        ) from error


def _in_order(parts: Sequence[Tensor], rows: Sequence[Sequence[int]]) -> Tensor:
    """One batch of parts that hold these rows of it."""
    order = [row for group in rows for row in group]
    batch = torch.cat(list(parts)) if len(parts) > 1 else parts[0]
    return batch if order == sorted(order) else batch[torch.tensor(order).argsort().to(batch.device)]


def _alike(conds: Sequence[dict]) -> list[list[int]]:
    """Rows in groups whose inputs fit into one batch."""
    groups: list[list[int]] = []
    for row, cond in enumerate(conds):
        for group in groups:
            first = conds[group[0]]
            if first.keys() == cond.keys() and all(first[key].can_concat(cond[key]) for key in cond):
                group.append(row)
                break
        else:
            groups.append([row])
    return groups


@contextmanager
def _in_place_of(model: nn.Module, denoiser: nn.Module) -> Iterator[None]:
    before = model.diffusion_model
    model.diffusion_model = denoiser
    try:
        yield
    finally:
        model.diffusion_model = before


def _own(value):
    return value.detach().cpu().clone() if torch.is_tensor(value) else value


def _differentiable_attention(_, *args, **kwargs) -> Tensor:
    """Replaces SageAttention and FlashAttention, which ComfyUI calls without a gradient."""
    return attention_pytorch(*args, **kwargs)
