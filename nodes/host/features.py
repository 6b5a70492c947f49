"""What enters the last layer of ComfyUI's denoisers, and where the picture is in it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, ref

from torch import Tensor, nn

from hypernoise_core.layers import is_target
from hypernoise_core.reading import inputs_of, tokens_as_grid

if TYPE_CHECKING:  # it needs diffusers
    from hypernoise_core.generators.base import Generator

GENERATOR = "hypernoise_generator"
"""The attribute that says whose denoiser it is, if it is one of the core's."""

_last_layers: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()
"""Of each denoiser that was run, by name."""


def told_by(generator: Generator) -> None:
    """Have what is asked here of the denoiser of one of the core's generators answered by it."""
    vars(generator.denoiser)[GENERATOR] = ref(generator)  # it holds the denoiser itself


def _generator(denoiser: nn.Module) -> Generator | None:
    own = vars(denoiser).get(GENERATOR)
    return own and own()


@contextmanager
def entering_last_layer(denoiser: nn.Module) -> Iterator[list[Tensor]]:
    """Collects what enters the last Linear or Conv2d that `denoiser` runs, one tensor for each of its calls. Which
    layer that is shows the first time, without a call for it alone."""
    if name := _last_layers.get(denoiser):
        with inputs_of(denoiser.get_submodule(name)) as received:
            yield received
        return
    received, latest = [], {}

    def called(*_):
        if latest:
            received.append(latest["input"])
            _last_layers[denoiser] = latest["name"]

    with ExitStack() as hooks:
        for name, layer in denoiser.named_modules():
            if is_target(layer):
                note = lambda _, args, name=name: latest.update(name=name, input=args[0])  # noqa: E731
                hooks.callback(layer.register_forward_pre_hook(note).remove)
        hooks.callback(denoiser.register_forward_hook(called).remove)
        yield received


def picture_grid(denoiser: nn.Module, features: Tensor, height: int, width: int) -> Tensor | None:
    """What enters the last layer as a grid over the picture.

    Args:
        features: [B, F, h', w'], [B, h', w', F], either with a time axis of one picture, or tokens [B, N, F].
        height, width: of the latents, in cells.

    Returns:
        [B, F, h', w'], float32, or None where it is not known what is where in the picture.
    """
    if own := _generator(denoiser):
        return own.as_grid(features, height, width)
    patch = patch_size(denoiser)
    if features.dim() == 5:
        features = features[:, 0] if features.shape[1] == 1 else features[:, :, 0]
    if features.dim() == 4 and not _covers(features.shape[2:], height, width):
        features = features.movedim(-1, 1)
    if features.dim() == 4:
        return features.float() if _covers(features.shape[2:], height, width) else None
    if features.dim() == 3 and patch:
        rows, columns = -(-height // patch), -(-width // patch)  # ComfyUI fills sides up to whole patches
        start = _first_picture_token(denoiser, features.shape[1], rows * columns)
        features = features[:, start : start + rows * columns]
        height, width = rows, columns
    grid = tokens_as_grid(features, height, width)
    return None if grid is None else grid.float()


def _covers(grid: Sequence[int], height: int, width: int) -> bool:
    """Whether a grid's cells are squares of latent cells; the last ones of a side may stick out."""
    rows, columns = grid
    cell = max(1, -(-height // rows))
    return (rows, columns) == (-(-height // cell), -(-width // cell))


def patch_size(denoiser: nn.Module) -> int | None:
    """Latent cells along each side of a token, where the denoiser says so."""
    if generator := _generator(denoiser):
        return generator.size_multiple // generator.latent_scale
    own = vars(denoiser)
    patch = own.get("patch_size", own.get("patch"))  # Krea 2 calls it so
    patch = patch[-1] if isinstance(patch, (tuple, list)) else patch
    return patch if isinstance(patch, int) else None


def _first_picture_token(denoiser: nn.Module, count: int, picture: int) -> int:
    """Lumina 2, Z-Image and Krea 2 keep text before the picture; the first two fill each up to a multiple."""
    if type(denoiser).__name__ not in ("NextDiT", "SingleStreamDiT"):
        return 0
    multiple = getattr(denoiser, "pad_tokens_multiple", None) or 1
    return count - -(-picture // multiple) * multiple
