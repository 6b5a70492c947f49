"""The HyperNoise LoRA file: one `.safetensors` with peft's key names and its description in the header.

Reading never unpickles, and what does not fit is refused before a weight is touched. PEFT folders and the files of
diffusers' `save_lora_adapter` are read as well.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from safetensors.torch import save_file
from torch import Tensor, nn

from ..files import replacing
from ..layers import lora_settings, target_names, weight_shape
from ..tensor_file import read_metadata, read_tensors
from .comfy_keys import A, B, key_map
from .peft_config import apply_config

FORMAT = "1"
"""`hypernoise.format`: raised when a reader of the old one would go wrong."""

KINDS = ("noise", "finetune")
"""A noise hypernetwork, or a LoRA that was fine-tuned into the generator itself for comparison."""

DIFFUSERS_CONFIG = "lora_adapter_metadata"
"""Header field with a LoRA's peft configuration as JSON, where diffusers writes and looks for it."""


PEFT_PREFIX = "base_model.model."
PREFIXES = (PEFT_PREFIX, "diffusion_model.", "transformer.", "unet.")
"""What stands in front of every layer's name in files of peft, of ComfyUI, and of diffusers' pipelines."""
FOREIGN = {
    "lora_unet_": "kohya's sd-scripts",
    "lora_te": "kohya's sd-scripts",
    "lycoris_": "LyCORIS",
}
"""How names begin that are made of a layer's by a rule that cannot be undone exactly, and whose they are."""
PEFT_CONFIG = "adapter_config.json"
MAX_CONFIG = 2**24
"""Characters of an `adapter_config.json` that are read; real ones have some thousands."""
PEFT_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class AdapterInfo:
    """What is known of an adapter beside its weights. Files of others leave the texts empty."""

    kind: str
    generator: str
    """Hub id or name of the model that it was trained for."""
    family: str
    denoiser_sha256: str
    """`denoiser_fingerprint` of that model."""
    rank: int
    """Of most layers; fusing and splitting for ComfyUI leaves others with other ranks."""
    alpha: float
    """The update is alpha / rank times B A in every layer, whatever the layer's own rank."""
    last_layer: str
    """The layer that is zeroed in f_φ's clone, by its diffusers name; empty for a fine-tuned LoRA."""
    layers: int | None = None
    """How many layers are adapted; None for all of the denoiser's."""
    coarsen: int = 1
    """Latent cells along each side that f_φ sees as one."""
    iterations: int = 1
    """How often f_φ was trained to be applied."""
    training: dict[str, str] = field(default_factory=dict)
    """What is known of the training: `resolution`, `rewards`, `kl`, `steps_trained`, …"""


def denoiser_fingerprint(denoiser: nn.Module) -> str:
    """A hash of the diffusers names and the shapes of the layers that a LoRA adapts: equal where an adapter fits, in
    diffusers and in ComfyUI."""
    shapes = _target_shapes(denoiser)
    keys = key_map(shapes)
    return _hashed(keys.diffusers_shapes(shapes) if keys.comfy else shapes)


def layers_fingerprint(denoiser: nn.Module) -> str:
    """As `denoiser_fingerprint`, by the denoiser's own names: for families whose names in diffusers are not known."""
    return _hashed(_target_shapes(denoiser))


def _target_shapes(denoiser: nn.Module) -> dict[str, tuple[int, ...]]:
    modules = dict(denoiser.named_modules())
    return {name: weight_shape(modules[name]) for name in target_names(denoiser)}


def _hashed(shapes: dict[str, tuple[int, ...]]) -> str:
    lines = [f"{name} {shape}" for name, shape in sorted(shapes.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def layer_ranks(weights: dict[str, Tensor]) -> dict[str, int]:
    """The rank of each layer of a LoRA."""
    return {k.removesuffix(f".{A}"): w.shape[0] if w.dim() else 0 for k, w in weights.items() if k.endswith(f".{A}")}


def write_adapter(path: str | Path, weights: dict[str, Tensor], info: AdapterInfo) -> None:
    """Write a HyperNoise LoRA; the file appears whole or not at all."""
    with replacing(path) as temporary:
        _save(temporary, weights, info, Path(path).stem)


def write_peft_folder(folder: str | Path, weights: dict[str, Tensor], info: AdapterInfo) -> None:
    """Write what `peft.PeftModel.from_pretrained` reads, and the authors' inference script with it: the weights under
    peft's prefix and `adapter_config.json`, which appears last."""
    prefixed = {PEFT_PREFIX + name: weight for name, weight in weights.items()}
    config = {"peft_type": "LORA", "base_model_name_or_path": info.generator or None, **_peft_config(weights, info)}
    with replacing(Path(folder) / PEFT_WEIGHTS[0]) as temporary:
        _save(temporary, prefixed, info, Path(folder).name)
    with replacing(Path(folder) / PEFT_CONFIG) as temporary:
        temporary.write_text(json.dumps(config, indent=2))


def _save(path: Path, weights: dict[str, Tensor], info: AdapterInfo, title: str) -> None:
    tensors = {name: weight.detach().cpu().contiguous() for name, weight in weights.items()}
    save_file(tensors, path, _header(info, weights, title))


def _header(info: AdapterInfo, weights: dict[str, Tensor], title: str) -> dict[str, str]:
    return {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{info.family}/lora",
        "modelspec.title": title,
        "hypernoise.format": FORMAT,
        "hypernoise.kind": info.kind,
        "hypernoise.generator": info.generator,
        "hypernoise.family": info.family,
        "hypernoise.denoiser_sha256": info.denoiser_sha256,
        "hypernoise.rank": str(info.rank),
        "hypernoise.alpha": str(info.alpha),
        "hypernoise.last_layer": info.last_layer,
        **({} if info.layers is None else {"hypernoise.layers": str(info.layers)}),
        **({} if info.coarsen == 1 else {"hypernoise.coarsen": str(info.coarsen)}),
        **({} if info.iterations == 1 else {"hypernoise.iterations": str(info.iterations)}),
        **{f"hypernoise.{key}": str(value) for key, value in info.training.items()},
        DIFFUSERS_CONFIG: json.dumps(_peft_config(weights, info)),
    }


def _peft_config(weights: dict[str, Tensor], info: AdapterInfo) -> dict:
    ranks = {name.removeprefix(PEFT_PREFIX): rank for name, rank in layer_ranks(weights).items()}
    return {**lora_settings(ranks, info.alpha / info.rank, info.rank), "target_modules": sorted(ranks)}


def read_kind(path: str | Path) -> str:
    """What a HyperNoise file says it is: `noise` (a LoRA), `head` or `finetune`. Files and folders of others, which do
    not say it, hold LoRAs of noise hypernetworks.

    Raises:
        ValueError: it is no whole safetensors file, or of a kind that is not known here.
    """
    file = Path(path)
    if not file.is_file() or file.suffix != ".safetensors":
        return "noise"
    kind = read_metadata(file).get("hypernoise.kind", "noise")
    if kind not in (*KINDS, "head"):
        raise ValueError(f"{path} is of kind {kind[:60]!r}, which this version does not know: update this package")
    return kind


def content_sha256(path: str | Path) -> str:
    """A hash of an adapter's weights and description: equal for a copy, wherever it lies. `path` as of `read_adapter`;
    of any kind.

    Raises:
        ValueError: nothing there.
    """
    file, config = _find(path)
    with open(file, "rb") as content:
        digest = hashlib.file_digest(content, "sha256")
    digest.update((config or "").encode())
    return digest.hexdigest()


def read_adapter(path: str | Path) -> tuple[dict[str, Tensor], AdapterInfo]:
    """Read an adapter: its weights under diffusers' names without prefix, and what is known of it.

    Args:
        path: a HyperNoise LoRA file, a file of diffusers' `save_lora_adapter`, a PEFT folder, or the hub id of one,
            such as the paper's authors' release `lucaeyring/HyperNoise_Sana_Sprint_0.6B`.

    Raises:
        ValueError: nothing there, damaged, not a LoRA, or of an unknown format.
    """
    file, config = _find(path)
    tensors, metadata = read_tensors(file)
    weights = _without_prefix(tensors)
    try:
        if metadata.get("hypernoise.kind") == "head":
            raise ValueError("is a HyperNoise head, which holds no LoRA: load it with load_hypernetwork")
        _check_weights(weights)
        if "hypernoise.format" in metadata:
            info = _info(metadata)
        elif config := config or metadata.get(DIFFUSERS_CONFIG):
            rank, alpha, base_model = apply_config(weights, config)
            info = AdapterInfo("", base_model, "", "", rank, alpha, "", len(weights) // 2)
        else:
            raise ValueError("is no HyperNoise LoRA: its header has no hypernoise.format, and no adapter_config.json")
        _check_ranks(weights, info)
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error
    # Out of the mapped file: how a header's length aligns what follows decides the last bits of a product, and a file
    # that is replaced while it is mapped would change the weights.
    return {name: weight.clone() for name, weight in weights.items()}, info


def _without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the prefixes that all of their names have."""
    names = list(tensors)
    while prefix := next((p for p in PREFIXES if names and all(name.startswith(p) for name in names)), None):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, tensors.values(), strict=True))


def _find(path: str | Path) -> tuple[Path, str | None]:
    """The file with the weights, and the PEFT configuration beside it if the path is a folder's or a hub id."""
    place = Path(path)
    if place.is_file():
        return place, None
    if not place.is_dir():
        place = _download(str(path))
    try:
        with open(place / PEFT_CONFIG, encoding="utf-8") as file:
            config = file.read(MAX_CONFIG)
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"no HyperNoise LoRA at {path}: the folder has no readable {PEFT_CONFIG}") from error
    weights = next((place / name for name in PEFT_WEIGHTS if (place / name).is_file()), None)
    if weights is None:
        raise ValueError(f"no HyperNoise LoRA at {path}: the folder has neither {' nor '.join(PEFT_WEIGHTS)}")
    return weights, config


def _download(hub_id: str) -> Path:
    """The local copy of a PEFT folder on the hub."""
    hint = "give a .safetensors file, a PEFT folder, or the hub id of one that this machine can reach"
    if Path(hub_id).suffix in (".safetensors", ".bin"):
        raise ValueError(f"no HyperNoise LoRA at {hub_id}: {hint}")
    try:
        return Path(snapshot_download(hub_id, allow_patterns=[PEFT_CONFIG, *PEFT_WEIGHTS]))
    except (OSError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError) as error:
        raise ValueError(f"no HyperNoise LoRA at {hub_id}: {hint}") from error


def _check_weights(weights: dict[str, Tensor]) -> None:
    """Complete pairs of finite A and B that can be multiplied, and nothing else."""
    layers = layer_ranks(weights)
    for start, tool in FOREIGN.items():
        if any(name.startswith(start) for name in weights):
            raise ValueError(
                f"has the names of {tool} ({start}…), which are not read: give what HyperNoise, peft or diffusers saved"
            )
    if not layers:
        raise ValueError("is no HyperNoise LoRA: it has no lora_A weights")
    expected = {f"{layer}.{half}" for layer in layers for half in (A, B)}
    if odd := sorted(weights.keys() ^ expected):
        raise ValueError(
            f"is damaged, or no plain LoRA: {odd[0]} is {'not expected' if odd[0] in weights else 'missing'}"
        )
    for layer, rank in layers.items():
        a, b = weights[f"{layer}.{A}"], weights[f"{layer}.{B}"]
        if a.dtype not in DTYPES or b.dtype not in DTYPES:
            raise ValueError(f"has weights of {a.dtype} and {b.dtype} at {layer}; save it as float32 or bfloat16")
        if a.dim() not in (2, 4) or b.dim() != a.dim() or b.shape[1] != rank or 0 in (*a.shape, *b.shape):
            raise ValueError(f"is damaged: {layer} has A {tuple(a.shape)} and B {tuple(b.shape)}")
        if not (a.isfinite().all() and b.isfinite().all()):
            raise ValueError(f"holds values that are not finite, first in {layer}: train it again")


def _check_ranks(weights: dict[str, Tensor], info: AdapterInfo) -> None:
    ranks = layer_ranks(weights)
    if info.rank not in ranks.values():
        raise ValueError(f"is damaged: its header says rank {info.rank}, its weights have {max(ranks.values())}")
    if info.layers is not None and info.layers != len(ranks):
        raise ValueError(f"is damaged: its header says {info.layers} layers, it has {len(ranks)}")


def _info(metadata: dict[str, str]) -> AdapterInfo:
    fields = {
        key.removeprefix("hypernoise."): value for key, value in metadata.items() if key.startswith("hypernoise.")
    }
    version = fields.pop("format")
    if version != FORMAT:
        raise ValueError(f"has HyperNoise format {version}, this version reads {FORMAT}: update this package")
    try:
        info = AdapterInfo(
            kind=fields.pop("kind"),
            generator=fields.pop("generator"),
            family=fields.pop("family"),
            denoiser_sha256=fields.pop("denoiser_sha256"),
            rank=int(fields.pop("rank")),
            alpha=float(fields.pop("alpha")),
            last_layer=fields.pop("last_layer"),
            layers=int(fields.pop("layers")) if "layers" in fields else None,
            coarsen=int(fields.pop("coarsen", "1")),
            iterations=int(fields.pop("iterations", "1")),
            training=fields,
        )
    except (KeyError, ValueError) as error:
        raise ValueError(f"has a damaged HyperNoise header ({error}): train or save it again") from error
    if (
        info.kind not in KINDS
        or info.rank < 1
        or info.coarsen < 1
        or info.iterations < 1
        or not (math.isfinite(info.alpha) and info.alpha > 0)
    ):
        raise ValueError(f"has a damaged HyperNoise header (kind {info.kind!r}, rank {info.rank}, alpha {info.alpha})")
    return info
