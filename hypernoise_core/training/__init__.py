"""Training an adapter: the `Trainer`, its settings, its events, and its checkpoints."""

from . import processes
from .checkpoint import Checkpoint, Checkpoints, find_checkpoint
from .config import TrainingConfig
from .divergence import DivergedError, NonFiniteError
from .events import Diagnosed, EarlyStop, Event, Notice, StepDone, StepSkipped, Validated, WarmStart
from .memory import OutOfMemoryError
from .processes import LostProcessError
from .scored import ScoredNoise
from .state import TrainerState, load_trainer_state, trainer_state
from .trainer import Trainer

__all__ = [
    "Checkpoint",
    "Checkpoints",
    "Diagnosed",
    "DivergedError",
    "EarlyStop",
    "Event",
    "LostProcessError",
    "NonFiniteError",
    "Notice",
    "OutOfMemoryError",
    "ScoredNoise",
    "StepDone",
    "StepSkipped",
    "Trainer",
    "TrainerState",
    "TrainingConfig",
    "Validated",
    "WarmStart",
    "find_checkpoint",
    "load_trainer_state",
    "processes",
    "trainer_state",
]
