"""A teacher that needs scores alone: a critic learns the reward from readings, and the hypernetwork climbs it.

The gradient goes through the critic and one denoiser call. Decoder, reward and later sampling steps are run without
one, so a reward need not have any. This project's own; docs/LOG.md has what was tried.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...batch import TensorBatch
from ...generators.base import Generator
from ...hypernetworks.critic_network import CriticNetwork
from ...hypernetworks.head import features_of, head_shape
from ...hypernetworks.head_network import HeadShape
from ...known_gradient import with_gradient
from ...noise import REPLAY, added_noise, derive_seed
from ...reading import Reading
from ...rewards import RewardEnsemble
from ...settings import Message
from .. import processes
from ..optimizers import load_optimizer_tensors, optimizer_tensors
from ..replay import Replay
from .base import Judged, Lesson, Teacher

if TYPE_CHECKING:
    from ..config import TrainingConfig

MAX_TOKENS = 256
"""Tokens that a critic looks at, at its generator's default size. What it keeps of a reading is as large as these."""

LEARNT = 2
"""Readings of the replay in a step of the critic, for each picture of a batch."""

BETA2, WEIGHT_DECAY, GRAD_CLIP = 0.99, 0.01, 1.0
"""Of the critic's AdamW."""

SAVED_AT_MOST = 2**30
"""Bytes of a replay that checkpoints hold; a larger one is filled again on resume."""

LEAST_STD = 1e-3
"""Of scores, where a reward is nearly the same for every picture."""


class CriticTeacher(Teacher):
    def __init__(self, generator: Generator, reward: RewardEnsemble, config: TrainingConfig):
        self.generator, self.reward, self.config = generator, reward, config
        self.network = CriticNetwork(critic_shape(generator, config), config.critics).to(generator.device)
        self.parameters = list(self.network.parameters())
        self.optimizer = torch.optim.AdamW(
            self.parameters, config.critic_lr, betas=(0.9, BETA2), weight_decay=WEIGHT_DECAY
        )
        self.replay = Replay(config.replay // processes.count(), config.replay_gib * 2**30 / processes.count())
        self.watched = 0
        """Pictures of the warm-up that were learnt from, over all processes."""
        self.warm_up = config.critic_warm_up
        self._untold = config.critic_warm_up > 0
        """Whether nobody has looked at the warm-up's scores yet."""
        self._seen: list[tuple[Tensor, Reading, Tensor, Tensor]] = []
        """What was judged since the last `learn`: noises, readings, scores, and what was expected of them."""

    @property
    def warm_up_left(self) -> int:
        return max(0, self.warm_up - self.watched)

    def fault(self) -> Message | None:
        if not self._untold:
            return None
        self._untold = False
        if self.network.std > LEAST_STD:
            return None
        return Message(
            "{rewards} gave every image of the warm-up nearly the same score, {:.4g}: as long as it does, a critic "
            "learns nothing from it. Take a reward that tells images apart (a spread of {:g} at least), other prompts, "
            "or more {critic_warm_up}",
            float(self.network.mean),
            LEAST_STD,
        )

    def judge(self, start: Tensor, lesson: Lesson) -> Judged:
        # The gradient is taken at once: what the call has kept is gone before the decoder needs memory.
        leaf = start.detach().requires_grad_()
        reading = self.generator.read(leaf, lesson.conditioning)
        value = self.network(leaf, reading)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
        judged = self._scored(value.detach(), leaf.detach(), reading.detach(), lesson)
        return replace(judged, value=with_gradient(start, judged.value, gradient))

    @torch.no_grad()
    def watch(self, lesson: Lesson) -> None:
        reading = self.generator.read(lesson.x0, lesson.conditioning)
        self._scored(lesson.x0.new_zeros(len(lesson.x0)), lesson.x0, reading, lesson)

    @torch.no_grad()
    def watch_scored(self, x0: Tensor, conditioning: TensorBatch, scores: Tensor) -> None:
        """Read noises [B, C, h, w] whose scores [B] are known."""
        reading = self.network.pooled(self.generator.read(x0, conditioning))
        self._seen.append((x0, reading, scores, scores.new_zeros(len(scores))))

    @torch.no_grad()
    def _scored(self, value: Tensor, start: Tensor, reading: Reading, lesson: Lesson) -> Judged:
        """Draw and score the pictures that are to be scored, and remember them. One whose score is not finite is left
        out."""
        chosen = [row for row, wanted in enumerate(lesson.scored) if wanted]
        parts = self.generator.parts(start[: len(chosen)])
        judged = [self._score(value, start, reading, lesson, chosen[part]) for part in parts]
        if not judged:
            nothing = start.new_zeros(0)
            return Judged(value, nothing.long(), nothing, dict.fromkeys(self.reward.rewards, nothing), start[:0, :3])
        rows, rewards, own, images = zip(*judged, strict=True)
        scores = {name: torch.cat([part[name] for part in own]) for name in self.reward.rewards}
        return Judged(value, torch.cat(rows), torch.cat(rewards), scores, torch.cat(images))

    def _score(
        self, value: Tensor, start: Tensor, reading: Reading, lesson: Lesson, chosen: list[int]
    ) -> tuple[Tensor, Tensor, dict[str, Tensor], Tensor]:
        """(rows, reward, scores, images) of some pictures."""
        rows = torch.tensor(chosen, device=start.device)
        images = self._pictures(start[rows], rows, chosen, reading, lesson)
        reward, scores = self.reward.judge(images, lesson.text.rows(rows))
        for name, own in scores.items():  # as with a gradient: what trains is what is seen
            self.reward.normalization.observe(name, own)
        good = finite(reward)
        rows, images, reward = rows[good], images[good], reward[good]
        if len(rows):
            features = None if reading.features is None else reading.features[rows]
            kept = self.network.pooled(Reading(reading.prediction[rows], features))
            self._seen.append((start[rows], kept, reward, value[rows]))
        return rows, reward, {name: own[good] for name, own in scores.items()}, images

    def _pictures(self, start: Tensor, rows: Tensor, chosen: list[int], reading: Reading, lesson: Lesson) -> Tensor:
        if self.config.steps == 1:  # the reading is the one call that a picture takes
            return self.generator.decode(reading.prediction[rows])
        seeds = [lesson.seeds[row] for row in chosen]
        between = added_noise(self.config.between_steps, lesson.x0[rows], start)
        return self.generator.generate(start, lesson.conditioning.rows(rows), self.config.steps, seeds, between=between)

    def learn(self, seed: int) -> dict[str, float]:
        losses = []
        if all(processes.gather(len(self.replay) > 0)):
            self._restate()
            losses = [self._regress(derive_seed(seed, REPLAY, i)) for i in range(self.config.critic_steps)]
        metrics = {"critic/loss": float(torch.stack(losses).mean())} if losses else {}
        if losses and self._seen:
            metrics["critic/bias"] = self._bias()
        for x, reading, scores, _ in self._seen:  # last, since it is what cannot be taken back
            self.replay.add(x, reading, scores)
        self._seen.clear()
        return metrics

    def _bias(self) -> float:
        """What this process's pictures were expected to score, less what they did, on average."""
        differences = [(expected - score).sum() for _, _, score, expected in self._seen]
        count = sum(len(score) for _, _, score, _ in self._seen)
        return float(torch.stack(differences).sum()) / count

    def _restate(self) -> None:
        """Mean and standard deviation of the scores in the replay, over all processes."""
        scores = self.replay.scores.double()
        sums = torch.stack([torch.tensor(float(len(scores))), scores.sum(), scores.square().sum()]).double()
        sums = sums.to(self.generator.device, torch.float64 if self.generator.device.type == "cpu" else torch.float32)
        processes.sum_([sums])
        count, total, squares = sums.tolist()
        mean = total / count
        self.network.mean.fill_(mean)
        self.network.std.fill_(max(LEAST_STD, max(0.0, squares / count - mean**2) ** 0.5))

    def _regress(self, seed: int) -> Tensor:
        """A step of the critic towards the standardised scores; returns its mean squared error."""
        random = torch.Generator().manual_seed(derive_seed(seed, REPLAY, processes.rank()))
        count = max(1, LEARNT * self.config.batch_size // processes.count())
        x, reading, scores = self.replay.draw(count, random, self.generator.device)
        wanted = (scores - self.network.mean) / self.network.std
        with torch.enable_grad():
            loss = (self.network.standardised(x, reading) - wanted).square().mean()
            self.optimizer.zero_grad(set_to_none=True)
            (len(self.network.members) * loss / processes.count()).backward()
        processes.sum_(p.grad for p in self.parameters if p.grad is not None)
        torch.nn.utils.clip_grad_norm_(self.parameters, GRAD_CLIP)
        self.optimizer.step()
        return loss.detach()

    def mark(self) -> Any:
        return (
            [p.detach().clone() for p in self.parameters],
            copy.deepcopy(self.optimizer.state_dict()),
            (self.network.mean.clone(), self.network.std.clone()),
            self.watched,
        )

    @torch.no_grad()
    def go_back(self, mark: Any) -> None:
        weights, optimizer, (mean, std), self.watched = mark
        for parameter, before in zip(self.parameters, weights, strict=True):
            parameter.copy_(before)
        self.optimizer.load_state_dict(optimizer)
        self.network.mean.copy_(mean)
        self.network.std.copy_(std)
        self._seen.clear()

    def state(self) -> dict[str, Tensor]:
        saved = processes.count() == 1 and self.replay.nbytes <= SAVED_AT_MOST
        replay = self.replay.state() if saved else {}
        return {
            **{f"network/{name}": tensor.detach() for name, tensor in self.network.state_dict().items()},
            **{f"optimizer/{name}": tensor for name, tensor in optimizer_tensors(self.optimizer).items()},
            **{f"replay/{name}": tensor for name, tensor in replay.items()},
            "watched": torch.tensor(self.watched),
        }

    def load_state(self, state: dict[str, Tensor]) -> list[Message]:
        def part(name: str) -> dict[str, Tensor]:
            return {key.removeprefix(name): t for key, t in state.items() if key.startswith(name)}

        self.network.load_state_dict(part("network/"))
        load_optimizer_tensors(self.optimizer, part("optimizer/"))
        replay = part("replay/")
        if replay and processes.count() == 1:
            self.replay.load_state(replay)
            self.watched = int(state["watched"])
            return []
        self.watched = 0
        again = self.config.critic_warm_up
        return [Message("{replay} is not in the checkpoint: {critic_warm_up}, {} images, is made again first", again)]


def finite(scores: Tensor) -> Tensor:
    """Which of scores [B] are finite, [B]."""
    return scores.isfinite()


def critic_shape(generator: Generator, config: TrainingConfig) -> HeadShape:
    """The shape of a critic's members: they read the whole first call, whatever the hypernetwork sees of it."""
    reads = config.head_reads
    if config.hypernetwork != "head" and not features_of(generator)[0]:
        reads = "prediction"
    shape = head_shape(generator, config.critic_width, config.critic_depth, reads, most_tokens=MAX_TOKENS)
    return replace(shape, feature_cell=shape.patch) if shape.features else shape
