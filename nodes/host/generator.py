"""ComfyUI's MODEL, CLIP and VAE as a differentiable `Generator` of the core. Needs diffusers, as the core's do.

Nodes run in inference mode, and tensors made there cannot be differentiated through. So use everything here inside
`torch.inference_mode(False)`; `load` converts the weights in place, bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import comfy.k_diffusion.sampling
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
from hypernoise_core.hypernetworks.adapter_file import denoiser_fingerprint
from hypernoise_core.layers import TARGETS, is_target
from hypernoise_core.noise import First, streams
from hypernoise_core.reading import Reading, inputs_of

from .call import raw_output
from .differentiation import Recomputation, leave_inference_mode
from .features import patch_size, picture_grid
from .identity import identity, latent_space

EVERYTHING = 1e20
"""More bytes than there are. ComfyUI then unloads all other models, as for its own training."""


class HostGenerator(Generator):
    """A MODEL with its CLIP and VAE, and with any LoRAs and patches on them.

    The denoiser is called as ComfyUI's samplers call it: with `simple` sigmas and, beyond one step, the sampler `lcm`,
    which suits few-step models. Call `encode` for all prompts first, then `load`.

    Raises:
        ValueError: the model cannot be trained for; the message says why.
    """

    def __init__(self, model: ModelPatcher, clip: comfy.sd.CLIP, vae: comfy.sd.VAE, default_size: int):
        self._patcher, self._clip, self._vae = _undynamic(model), clip, vae
        self._vae_patcher = _undynamic(vae.patcher)
        latents = self._patcher.model.latent_format
        if getattr(latents, "latent_dimensions", 2) != 2 or vae.latent_dim != 2:
            raise ValueError("model: its latents are not those of still images, so you cannot train for it")
        if latents.latent_channels != vae.latent_channels:
            raise ValueError(
                f"vae: it decodes {vae.latent_channels} channels, but the model makes {latents.latent_channels}: "
                f"connect the VAE of this model"
            )
        self.denoiser: nn.Module = self._patcher.model.diffusion_model
        _check_layers(self.denoiser)
        self.family, self.name = identity(self._patcher)
        self.latent_channels = latents.latent_channels
        self.latent_scale = int(getattr(latents, "spacial_downscale_ratio", vae.downscale_ratio))
        self.latent_scaling = latent_space(self._patcher).scaling
        self.default_size = default_size
        self.device = self._patcher.load_device
        self._prompts: dict[str, int] = {}
        self._conds: list[dict] = []
        self._recomputation = Recomputation()
        self._called_for: list[list[int]] = []
        """Rows of the batch that the denoiser was called for last, call by call."""

    @property
    def adds_noise(self) -> bool:
        return True  # as `lcm`

    @property
    def size_multiple(self) -> int:
        return self.latent_scale * (patch_size(self.denoiser) or 1)

    def encode(self, prompts: Sequence[str]) -> TensorBatch:
        """The numbers of the conditionings. The conditionings themselves stay here in ComfyUI's format, which differs
        between models."""
        return TensorBatch({"number": torch.tensor([self._number(prompt) for prompt in prompts])})

    @torch.no_grad()
    def _number(self, prompt: str) -> int:
        if prompt not in self._prompts:
            comfy.model_management.throw_exception_if_processing_interrupted()
            encoded = self._clip.encode_from_tokens_scheduled(self._clip.tokenize(prompt))
            (cond, *_) = comfy.sampler_helpers.convert_cond(encoded)
            self._prompts[prompt] = len(self._conds)
            self._conds.append({key: _own(value) for key, value in cond.items()})
        return self._prompts[prompt]

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
        before = getattr(comfy.model_management, "in_training", False)
        comfy.model_management.in_training = True  # no fused kernels that have no gradient
        try:
            yield
        finally:
            comfy.model_management.in_training = before
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
        features = None if any(grid is None for grid in grids) else _in_order(grids, self._called_for)
        return denoised, Reading(denoised, features)

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
        kept, sampling = self._kept(x0, denoiser, steps, between, first), self._patcher.model.model_sampling
        sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps).to(x0.device)
        x = sampling.noise_scaling(sigmas[0], x0, torch.zeros_like(x0), max_denoise=True)
        draw = _noise_sampler(x, seed)
        for sigma, after in pairwise(sigmas):
            x = kept.call(self._denoised, denoiser or self.denoiser, x, sigma, conditioning)
            if after > 0:
                noise = draw(sigma, after) if kept.between is None else kept.between
                x = sampling.noise_scaling(after, noise, x)
        return sampling.inverse_noise_scaling(sigmas[-1], x)

    def decode(self, latents: Tensor) -> Tensor:
        vae = self._vae
        latents = self._patcher.model.process_latent_out(latents)
        pictures = self._vae_patcher.model.decode(latents.to(self._vae_patcher.load_device, vae.vae_dtype))
        return vae.process_output(pictures.to(latents.device).float().clone()).clamp(0, 1)  # it writes in place

    def checkpoint_gradients(self, enabled: bool = True) -> None:
        self._recomputation.unwrap()
        if enabled:
            self._recomputation.wrap(self.denoiser)
            for name, module in self._vae_patcher.model.named_modules():
                if name.endswith("decoder"):
                    self._recomputation.wrap(module)

    def _denoised(self, denoiser: nn.Module, x: Tensor, sigma: Tensor, conditioning: TensorBatch) -> Tensor:
        """The clean latents that ComfyUI computes from `denoiser`'s output at x [B, C, h, w], in float32."""
        model, parts = self._patcher.model, []
        conds = self._model_conds(conditioning["number"].tolist(), x)
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
        return _in_order(parts, self._called_for)

    def _model_conds(self, numbers: Sequence[int], x: Tensor) -> list[dict]:
        """ComfyUI's inputs of the denoiser besides noise and time, for each row."""
        made = {}
        for number in set(numbers):
            (cond,) = comfy.samplers.encode_model_conds(
                self._patcher.model.extra_conds, [self._conds[number]], x[:1].detach(), x.device, "positive"
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


def _noise_sampler(x: Tensor, seed: int | Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """What draws noise like `x` between steps: ComfyUI's own for one seed, which it keeps apart from the starting noise
    of that seed; the core's streams for one of each picture."""
    if not isinstance(seed, Sequence):
        return comfy.k_diffusion.sampling.default_noise_sampler(x, seed)
    random = streams(seed, len(x))
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


def _check_layers(denoiser: nn.Module) -> None:
    odd = [name for name, m in denoiser.named_modules() if is_target(m) and not isinstance(m, TARGETS)]
    if odd:
        raise ValueError(f"model: {odd[0]} is quantized; train on the model's 16 bit file, the result works on both")


def check_lora_names(denoiser: nn.Module) -> None:
    """Whether a LoRA on `denoiser` can be written under diffusers' names.

    Raises:
        ValueError: it is of a family that has none known here.
    """
    try:
        denoiser_fingerprint(denoiser)
    except ValueError as error:
        raise ValueError(
            f"hypernetwork: a lora cannot be trained for {type(denoiser).__name__}, take a head: {error}"
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
