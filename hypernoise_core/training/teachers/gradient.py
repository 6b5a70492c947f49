"""The paper's teacher: the reward's own gradient, through decoder and every sampling step."""

import torch
from torch import Tensor, nn

from ...generators.base import Generator
from ...noise import BetweenSteps, added_noise
from ...rewards import RewardEnsemble
from .base import Judged, Lesson, Teacher


class GradientTeacher(Teacher):
    """
    Args:
        denoiser: in the generator's place, where that is what trains.
    """

    def __init__(
        self,
        generator: Generator,
        reward: RewardEnsemble,
        steps: int,
        denoiser: nn.Module | None = None,
        between_steps: BetweenSteps = "fresh",
    ):
        self.generator, self.reward, self.steps, self.denoiser = generator, reward, steps, denoiser
        self.between_steps = between_steps

    def judge(self, start: Tensor, lesson: Lesson) -> Judged:
        between = added_noise(self.between_steps, lesson.x0, start)
        images = self.generator.generate(start, lesson.conditioning, self.steps, lesson.seeds, self.denoiser, between)
        reward, scores = self.reward.judge(images, lesson.text)
        rows = torch.arange(len(reward), device=reward.device)
        return Judged(reward, rows, reward.detach(), scores, images.detach())
