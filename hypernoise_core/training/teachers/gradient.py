"""The paper's teacher: the reward's own gradient, through decoder and every sampling step."""

import torch
from torch import Tensor, nn

from ...batch import TensorBatch
from ...generators.base import Generator
from ...known_gradient import with_gradient
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
        how = (lesson.conditioning, self.steps, lesson.seeds, self.denoiser, between)
        latents = self.generator.denoise(start, *how)
        parts = self.generator.parts(latents)
        if len(parts) == 1 or not self.reward.per_picture or not latents.requires_grad:
            images = self.generator.decode(latents)
            reward, scores = self.reward.judge(images, lesson.text)
        else:
            reward, scores, images = self._by_parts(latents, lesson.text, parts)
        rows = torch.arange(len(reward), device=reward.device)
        return Judged(reward, rows, reward.detach(), scores, images.detach())

    def _by_parts(
        self, latents: Tensor, text: TensorBatch, parts: list[slice]
    ) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """(reward, differentiable in `latents`; scores; images): each part's gradient is taken at once, so that the
        decoder keeps what it has computed for one part at a time."""
        judged = [self._judge(latents[part], text.rows(part)) for part in parts]
        rewards, gradients, scores, images = zip(*judged, strict=True)
        reward = with_gradient(latents, torch.cat(rewards), torch.cat(gradients))
        own = {name: torch.cat([part[name] for part in scores]) for name in scores[0]}
        return reward, own, torch.cat(images)

    def _judge(self, latents: Tensor, text: TensorBatch) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor]:
        leaf = latents.detach().requires_grad_()
        images = self.generator.decode(leaf)
        reward, scores = self.reward.judge(images, text)
        (gradient,) = torch.autograd.grad(reward.sum(), leaf)
        return reward.detach(), gradient, scores, images.detach()
