"""What a reward returns, looked at where it is used: a fault of a user's own class is told in words that name it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..batch import TensorBatch
from ..settings import SettingError
from .base import Reward

HERE = Path(__file__)
OURS = HERE.parents[1]
"""Errors that come from this package's own rewards are left as they are."""


class RewardError(ValueError):
    """A reward of the user's own failed or returned what is no score."""


def checked_score(reward: Reward, images: Tensor, text: TensorBatch) -> Tensor:
    """The scores [B], float32, that `reward` gives `images` [B, 3, H, W].

    Raises:
        RewardError: it raised an error, which the message places by file and line, or did not return [B].
        SettingError: a gradient is wanted (`images` requires one), the reward says that it has one, and it has none.
    """
    with placed(reward):
        scores = reward.score(images, text)
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (len(images),):
        found = f"shape {list(scores.shape)}" if isinstance(scores, Tensor) else f"a {type(scores).__name__}"
        raise RewardError(
            f"reward {_called(reward)} returned {found} for {len(images)} images: return a tensor with one score for "
            f"each, [{len(images)}]"
        )
    if torch.is_grad_enabled() and images.requires_grad and reward.differentiable and not scores.requires_grad:
        raise SettingError(
            f"{{rewards}}: {_called(reward)} gives no gradient to the images, which {{teacher}} gradient follows: keep "
            "its scores in torch and in the graph, or set differentiable = False in the class and take {teacher} critic"
        )
    return scores.float()


@contextmanager
def placed(reward: Reward) -> Iterator[None]:
    """An error from the user's own code inside names the reward, and the file and line that it comes from.

    Raises:
        RewardError: in the error's place.
    """
    try:
        yield
    except (torch.OutOfMemoryError, SettingError):
        raise
    except Exception as error:
        if (place := _place(error)) is None:
            raise
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise RewardError(f"reward {_called(reward)} failed at {place}: {what}") from error


def _called(reward: Reward) -> str:
    return f"{reward.name!r} ({type(reward).__name__})"


def _place(error: BaseException) -> str | None:
    """The innermost file and line of the user's own code that an error came through; None where it is all ours or a
    package's that ours called."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) != HERE]
    theirs = [OURS not in Path(f.filename).parents and "site-packages" not in Path(f.filename).parts for f in frames]
    if not frames or not theirs[0]:
        return None
    last = [frame for frame, own in zip(frames, theirs, strict=True) if own][-1]
    return f"{last.filename}:{last.lineno}"
