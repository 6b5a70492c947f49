"""The HyperNoise LoRA file: one `.safetensors` with peft's key names and its description in the header.

Reading never unpickles, and what does not fit is refused before a weight is touched.
"""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from .files import replacing
from .lora import target_names

FORMAT = "1"
"""`hypernoise.format`: raised when a reader of the old one would go wrong."""

KINDS = ("noise", "finetune")
"""A noise hypernetwork, or a LoRA that was fine-tuned into the generator itself for comparison."""


@dataclass(frozen=True)
class AdapterInfo:
    """What the header of a HyperNoise LoRA says."""

    kind: str
    generator: str
    """Hub id or name of the model that it was trained for."""
    family: str
    denoiser_sha256: str
    """`denoiser_fingerprint` of that model."""
    rank: int
    alpha: float
    last_layer: str
    """The layer that is zeroed in f_φ's clone; empty for a fine-tuned LoRA."""
    training: dict[str, str] = field(default_factory=dict)
    """What is known of the training: `resolution`, `rewards`, `kl`, `steps_trained`, …"""


def denoiser_fingerprint(denoiser: nn.Module) -> str:
    """A hash of the names and shapes of the layers that a LoRA adapts: equal where an adapter fits."""
    modules = dict(denoiser.named_modules())
    lines = [f"{name} {tuple(modules[name].weight.shape)}" for name in sorted(target_names(denoiser))]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def write_adapter(path: str | Path, weights: dict[str, Tensor], info: AdapterInfo) -> None:
    """Write a HyperNoise LoRA; the file appears whole or not at all."""
    metadata = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{info.family}/lora",
        "modelspec.title": Path(path).stem,
        "hypernoise.format": FORMAT,
        "hypernoise.kind": info.kind,
        "hypernoise.generator": info.generator,
        "hypernoise.family": info.family,
        "hypernoise.denoiser_sha256": info.denoiser_sha256,
        "hypernoise.rank": str(info.rank),
        "hypernoise.alpha": str(info.alpha),
        "hypernoise.last_layer": info.last_layer,
        **{f"hypernoise.{key}": str(value) for key, value in info.training.items()},
    }
    with replacing(path) as temporary:
        save_file({name: weight.detach().cpu().contiguous() for name, weight in weights.items()}, temporary, metadata)


def read_adapter(path: str | Path) -> tuple[dict[str, Tensor], AdapterInfo]:
    """Read a HyperNoise LoRA.

    Raises:
        ValueError: no such file, not a whole safetensors file, or not a HyperNoise LoRA of a known format.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"no HyperNoise LoRA at {path}: give the path of a .safetensors file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  safe_open is no dict
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is not a whole safetensors file ({error}): copy or train it again") from error
    return weights, _info(path, metadata)


def _info(path: Path, metadata: dict[str, str]) -> AdapterInfo:
    fields = {
        key.removeprefix("hypernoise."): value for key, value in metadata.items() if key.startswith("hypernoise.")
    }
    version = fields.pop("format", None)
    if version is None:
        raise ValueError(f"{path} is no HyperNoise LoRA: its header has no hypernoise.format")
    if version != FORMAT:
        raise ValueError(f"{path} has HyperNoise format {version}, this version reads {FORMAT}: update this package")
    try:
        info = AdapterInfo(
            kind=fields.pop("kind"),
            generator=fields.pop("generator"),
            family=fields.pop("family"),
            denoiser_sha256=fields.pop("denoiser_sha256"),
            rank=int(fields.pop("rank")),
            alpha=float(fields.pop("alpha")),
            last_layer=fields.pop("last_layer"),
            training=fields,
        )
    except (KeyError, ValueError) as error:
        raise ValueError(f"{path} has a damaged HyperNoise header ({error}): train or save it again") from error
    if info.kind not in KINDS or info.rank < 1:
        raise ValueError(f"{path} has a damaged HyperNoise header (kind {info.kind!r}, rank {info.rank})")
    return info
