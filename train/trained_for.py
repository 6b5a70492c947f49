"""What an adapter was trained for, where a command uses it otherwise without having been told to."""

from typing import Protocol, get_args

from hypernoise_core.hypernetworks.drawing import Modulation
from hypernoise_core.noise import BetweenSteps


class Trained(Protocol):
    """An adapter, or what its file says."""

    iterations: int
    training: dict[str, str]


class Arguments(Protocol):
    """A command's, None where the user has not said it."""

    iterations: int | None
    between_steps: BetweenSteps | None
    free_reading: bool

    @property
    def modulation(self) -> Modulation: ...


def tell_training(file: str, trained: Trained, args: Arguments, steps: int) -> None:
    """Print one line if `file` was trained for other readings, or other noise between steps, than the defaults that it
    is used with. `steps`: the most denoiser calls per image; with one there is nothing between steps."""
    how, as_trained, as_used = args.modulation, [], []
    if args.free_reading:  # a way of its own, which the user asks for
        return
    if args.iterations is None and trained.iterations != how.iterations:
        as_trained.append(f"--iterations {trained.iterations}")
        as_used.append(f"--iterations {how.iterations}")
    between = trained.training.get("between_steps", how.between_steps)
    if args.between_steps is None and steps > 1 and between != how.between_steps and between in get_args(BetweenSteps):
        as_trained.append(f"--between_steps {between}")
        as_used.append(f"--between_steps {how.between_steps}")
    if as_trained:
        print(f"{file} was trained for {' '.join(as_trained)}; it is used with the default {' '.join(as_used)}")
