"""The file of a head: one `.safetensors` with the network's weights and its description in the header.

Reading never unpickles, and what does not fit is refused before a weight is used.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..files import replacing
from ..tensor_file import read_tensors, reason
from .adapter_file import DTYPES, FORMAT
from .critic_network import CriticNetwork
from .head_network import HeadNetwork, HeadShape

Network = TypeVar("Network", HeadNetwork, CriticNetwork)

KIND = "head"

CRITIC = "critic."
"""What the names of a critic's weights begin with."""

CRITIC_DTYPE = torch.bfloat16
"""Of a critic's weights in a file: its answers are estimates, and half the size is worth the last digits."""

CRITICS_OWN = ("width", "depth", "patch", "feature_cell")
"""Of a critic's shape, what need not be that of its head."""

LARGEST = {
    "channels": 1024,
    "features": 65_536,
    "width": 4096,
    "depth": 64,
    "patch": 64,
    "feature_cell": 64,
    "latent_scale": 1024,
    "iterations": 1000,
    "coarsen": 64,
    "critics": 16,
}
"""The most that a header may ask for. A larger value is damage, and would cost memory or time before it is noticed."""


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """Where a noise lives: heads that read predictions alone serve every model with the same one."""

    channels: int
    scale: int
    """Pixels per cell, along each side."""
    scaling: float
    """What the autoencoder's latents are multiplied by (`scaling_factor`): it tells spaces of one shape apart."""

    def __str__(self) -> str:
        return f"{self.channels} channels at 1/{self.scale}, scaled by {self.scaling:g}"

    def fits(self, other: LatentSpace) -> bool:
        same = (self.channels, self.scale) == (other.channels, other.scale)
        return same and math.isclose(self.scaling, other.scaling, rel_tol=1e-3)


@dataclass(frozen=True, kw_only=True)
class HeadInfo:
    """What is known of a head beside its weights."""

    generator: str
    """Hub id or name of the model that it was trained for."""
    family: str
    space: LatentSpace
    shape: HeadShape
    iterations: int = 1
    """Readings that it was trained for."""
    coarsen: int = 1
    critics: int = 0
    """Members of the critic in the same file; 0 for none."""
    critic: HeadShape | None = None
    """The shape of each."""
    training: dict[str, str] = field(default_factory=dict)
    """`resolution`, `rewards`, `kl`, `steps_trained`, …"""


def write_head(
    path: str | Path, weights: dict[str, Tensor], info: HeadInfo, critic: CriticNetwork | None = None
) -> None:
    """Write a head and, where there is one, its critic; the file appears whole or not at all."""
    own: dict[str, str] = {}
    if critic is not None:
        weights = weights | {CRITIC + name: weight.to(CRITIC_DTYPE) for name, weight in critic.named_parameters()}
        weights |= {CRITIC + name: scale for name, scale in critic.named_buffers()}
        own = {f"hypernoise.critic_{key}": str(getattr(critic.shape, key)) for key in CRITICS_OWN}
        own["hypernoise.critics"] = str(len(critic.members))
    header = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": f"{info.family}/hypernoise-head",
        "modelspec.title": Path(path).stem,
        "hypernoise.format": FORMAT,
        "hypernoise.kind": KIND,
        "hypernoise.generator": info.generator,
        "hypernoise.family": info.family,
        **{f"hypernoise.latent_{key}": str(value) for key, value in asdict(info.space).items()},
        **{f"hypernoise.head_{key}": str(value) for key, value in asdict(info.shape).items()},
        "hypernoise.iterations": str(info.iterations),
        "hypernoise.coarsen": str(info.coarsen),
        **own,
        **{f"hypernoise.{key}": str(value) for key, value in info.training.items()},
    }
    with replacing(path) as temporary:
        save_file({name: weight.detach().cpu().contiguous() for name, weight in weights.items()}, temporary, header)


def read_head(path: str | Path) -> tuple[HeadNetwork, HeadInfo, CriticNetwork | None]:
    """A head's network, on the CPU, frozen, what is known of it, and its critic where there is one.

    Raises:
        ValueError: nothing there, damaged, or no head.
    """
    if not Path(path).is_file():
        raise ValueError(f"no HyperNoise head at {path}: give a .safetensors file")
    tensors, metadata = read_tensors(Path(path))
    try:
        info = _info(metadata)
        critics = {name.removeprefix(CRITIC): t for name, t in tensors.items() if name.startswith(CRITIC)}
        network = _network({n: t for n, t in tensors.items() if not n.startswith(CRITIC)}, HeadNetwork, info.shape)
        if not info.critic:
            if critics:
                raise ValueError("is damaged: it holds a critic's weights, of which its header says nothing")
            return network, info, None
        critic = _network(critics, CriticNetwork, info.critic, info.critics)
        if not critic.std > 0:
            raise ValueError(f"is damaged: {CRITIC}std is {float(critic.std):g}, and a spread of scores is above 0")
        return network, info, critic
    except ValueError as error:
        raise ValueError(f"{path} {error}") from error


def _info(metadata: dict[str, str]) -> HeadInfo:
    own = {k.removeprefix("hypernoise."): v for k, v in metadata.items() if k.startswith("hypernoise.")}
    if own.get("kind") != KIND:
        raise ValueError(f"is no HyperNoise head: its header says kind {own.get('kind', 'nothing')[:60]!r}")
    if own.pop("format", None) != FORMAT:
        raise ValueError(f"has another HyperNoise format than {FORMAT}, which this version reads: update this package")
    try:
        shape = HeadShape(**{f.name: _whole(own, f"head_{f.name}", LARGEST[f.name]) for f in fields(HeadShape)})
        space = LatentSpace(
            channels=_whole(own, "latent_channels", LARGEST["channels"]),
            scale=_whole(own, "latent_scale", LARGEST["latent_scale"]),
            scaling=float(own.pop("latent_scaling")),
        )
        if space.channels != shape.channels or not (math.isfinite(space.scaling) and space.scaling > 0):
            raise ValueError(f"{shape.channels} channels in latents with {space}")
        return HeadInfo(
            generator=_name(own, "generator"),
            family=_name(own, "family"),
            space=space,
            shape=shape,
            iterations=_whole(own, "iterations", LARGEST["iterations"]),
            coarsen=_whole(own, "coarsen", LARGEST["coarsen"]),
            **_critic(own, shape),
            training={key: value for key, value in own.items() if key != "kind"},
        )
    except (KeyError, ValueError) as error:
        raise ValueError(f"has a damaged HyperNoise header ({reason(error)}): train or save it again") from error


def _whole(own: dict[str, str], key: str, most: int) -> int:
    """Take a number out of a header. It is at least 1, except for the features: a head may read none."""
    least, number = 0 if key == "head_features" else 1, int(own.pop(key))
    if not least <= number <= most:
        raise ValueError(f"{key} is not from {least} to {most}")
    return number


def _name(own: dict[str, str], key: str) -> str:
    """Take a name out of a header and make it fit for a message: one short line."""
    return "".join(character for character in own.pop(key) if character.isprintable())[:200]


def _critic(own: dict[str, str], head: HeadShape) -> dict[str, Any]:
    """Take what a header says of a critic out of it."""
    if "critics" not in own:
        return {}
    different = {key: _whole(own, f"critic_{key}", LARGEST[key]) for key in CRITICS_OWN}
    return {"critics": _whole(own, "critics", LARGEST["critics"]), "critic": replace(head, **different)}


def _network(tensors: dict[str, Tensor], kind: type[Network], *shape: Any) -> Network:
    with torch.device("meta"):
        network = kind(*shape)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    where = CRITIC if kind is CriticNetwork else ""
    if odd := sorted(tensors.keys() ^ expected.keys()):
        what = "not expected" if odd[0] in tensors else "missing"
        raise ValueError(f"is damaged: {(where + odd[0])[:100]!r} is {what}")
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != expected[name]:
            found = str(tuple(tensor.shape))[:100]
            raise ValueError(f"is damaged: {where}{name} has the shape {found}, expected {expected[name]}")
        if tensor.dtype not in DTYPES:
            raise ValueError(f"has weights of {tensor.dtype} at {where}{name}; save it as float32 or bfloat16")
    # Out of the mapped file: one that is replaced while it is mapped would change the weights.
    weights = {name: tensor.float().clone() for name, tensor in tensors.items()}
    for name, weight in weights.items():
        if not weight.isfinite().all():
            raise ValueError(f"holds values that are not finite, first in {where}{name}: train it again")
    network.load_state_dict(weights, assign=True)
    return network.requires_grad_(False)
