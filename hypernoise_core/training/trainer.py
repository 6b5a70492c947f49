"""The trainer: one object behind `python -m train` and the Train node, driven step by step through its events."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..batch import TensorBatch
from ..diagnostics import local_lipschitz, noise_statistics, second_order_kl
from ..generators.base import Generator
from ..hypernetworks import Adapter, NoiseHypernetwork, adapter_class, load_hypernetwork
from ..hypernetworks.adapter_file import content_sha256
from ..hypernetworks.critic import Critic
from ..hypernetworks.head import HeadHypernetwork
from ..noise import ACCUMULATED_BATCH, DIAGNOSTICS, PICTURE, SCORED, SHARED_NOISE, derive_seed
from ..objective import PerSampleClip, kl_l2
from ..prompt_sets import PromptMix
from ..rewards import RewardEnsemble
from ..settings import Message, about
from . import processes, warm_start
from .checks import check_run
from .config import TrainingConfig
from .divergence import DivergedError, NonFiniteError, not_finite, overgrown, runaway
from .encoded import EncodedPrompts
from .events import Diagnosed, EarlyStop, Event, Notice, StepDone, StepSkipped, Validated, WarmStart
from .memory import explaining_out_of_memory
from .optimizers import learning_rate, make_optimizer
from .order import PromptOrder
from .scored import ScoredNoise, ScoredNoises
from .start import start_from
from .teachers import CriticTeacher, GradientTeacher, Judged, Lesson, Teacher
from .validation import Validation

if TYPE_CHECKING:  # ComfyUI trains heads without peft
    from ..hypernetworks.warm_start import LastLayerRegression

SCORES, WANTED = "scores", "wanted"
"""Among a pass's sums: pictures that have a score, and those that were to get one."""

OF_SCORED = ("reward", "held_out/")
"""What metrics begin with that are means over the pictures with a score."""

LEAST_SCORED = 0.5
"""Share of the pictures that were to be scored whose reward must be finite, or a step is skipped."""


class Trainer:
    """Trains an adapter for `generator` on `reward`.

    `events()` may be left and entered again at any event, also by an exception from within: between two of them every
    state is whole, and `state.py` saves and loads it. Where `torch.distributed` is initialised, each process makes its
    share of every batch, and all come to the same weights.

    Args:
        generator: frozen; its weights are never written.
        reward: the ensemble to be maximised.
        prompts: encoded once, here; pictures are made for shuffled passes over them, again and again.
        config: the settings.
        validation_prompts: what `validate_every` measures.
        cache: folder that encoded prompts are kept in, instead of memory.
        scored: noises that have scores already, for a critic to learn from before the first step. With `score_share`
            0 nothing else is drawn or scored.
    """

    def __init__(
        self,
        generator: Generator,
        reward: RewardEnsemble,
        prompts: Sequence[str] | PromptMix,
        config: TrainingConfig,
        validation_prompts: Sequence[str] = (),
        cache: str | Path | None = None,
        scored: Sequence[ScoredNoise] = (),
    ):
        self.prompts = prompts if isinstance(prompts, PromptMix) else PromptMix.of(prompts)
        check_run(config, generator, reward, validation_prompts, scored)
        self._values = generator.noise(1, config.height, config.width).numel()
        self.generator, self.reward, self.config = generator, reward, config
        if config.gradient_checkpointing is True:
            generator.checkpoint_gradients()
            reward.checkpoint_gradients()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            kind = config.hypernetwork if config.train_type == "noise" else "finetune"
            with explaining_out_of_memory(config, processes.count()):
                self.adapter: Adapter = adapter_class(kind).from_config(generator, config)
            self.start_sha256 = ""
            if config.start_from:
                with about("start_from"):
                    start_from(self.adapter, generator, config.start_from)
                    self.start_sha256 = content_sha256(config.start_from)
            with about("distill"):
                self._model = load_hypernetwork(generator, config.distill) if config.distill else None
                self.distill_sha256 = content_sha256(config.distill) if config.distill else ""
            self._critic: Critic | None = None
            self.teacher = self._make_teacher()
        if config.compile:
            for denoiser in (generator.denoiser, self.adapter.network):
                denoiser.compile()
        self.parameters = list(self.adapter.parameters())
        self.optimizer = make_optimizer(self.parameters, config)
        self.step = 0
        self.random = torch.Generator().manual_seed(config.seed)
        self.order = PromptOrder(self.prompts.sizes, self.prompts.weights, self.random)
        self.average = [p.detach().clone() for p in self.parameters] if config.ema_decay is not None else None
        self.skipped_in_a_row = 0
        self.diagnosed = self.validated = -1
        """The last step whose measurement was told."""
        self.stop_reason: str | None = None
        """Why training ended before `max_steps`."""
        self.regression = self._make_regression()
        """The warm start's, until it is solved."""
        self.warm_start_done = 0
        self.scored = ScoredNoises(scored, generator, config) if scored else None
        if self.scored is not None:
            assert isinstance(self.teacher, CriticTeacher)
            self.teacher.warm_up = max(config.critic_warm_up, len(self.scored))
        self._share = 1 / (config.batch_size * config.accumulation_steps)
        self._clip = PerSampleClip(config.reward_grad_clip, self._share, config.white_gradient)
        texts = self.prompts.texts
        with generator.encoding():
            self._conditioning = EncodedPrompts(generator.encode, texts, generator.device, cache)
            self.validation = Validation(generator, reward, validation_prompts, config) if validation_prompts else None
        self._text = EncodedPrompts(reward.encode_text, texts, generator.device, cache)

    @property
    def finished(self) -> bool:
        critic_alone = self.config.max_steps == 0 and self.teacher.warm_up_left
        return (self.step >= self.config.max_steps and not critic_alone) or self.stop_reason is not None

    @property
    def has_trained(self) -> bool:
        """Whether there is anything to save that was not there before."""
        return self.step > 0 or (self.config.max_steps == 0 and self.finished)

    def events(self) -> Iterator[Event]:
        """Train to `max_steps` or to an early stop, one event at a time.

        Raises:
            NonFiniteError: `max_skipped` steps in a row were not finite.
            DivergedError: the residual has outgrown the noise; the weights are of no use.
            OutOfMemoryError: with advice in its message.
        """
        while (event := self._next_event()) is not None:
            yield event
            if isinstance(event, StepSkipped) and self.skipped_in_a_row >= self.config.max_skipped:
                raise NonFiniteError(
                    Message("{} steps in a row were skipped, the last since {}", self.skipped_in_a_row, event.reason)
                )
        if self.stop_reason:
            yield EarlyStop(self.step, self.stop_reason)

    def _next_event(self) -> Event | None:
        if self.teacher.warm_up_left and not self.finished:
            return self._warm_up_batch()
        if fault := self.teacher.fault():
            return Notice(self.step, fault)
        if self.regression is not None:
            if self.warm_start_done < self.config.warm_start_pictures:
                return self._warm_start_batch()
            self._solve_warm_start()
        if self._due(self.config.diagnostics_every, self.diagnosed) and self.config.train_type == "noise":
            self.diagnosed = self.step
            return Diagnosed(self.step, self.diagnose())
        if self._due(self.config.validate_every, self.validated):
            return self._validate()
        return None if self.finished else self._train_step()

    def _due(self, every: int, last: int) -> bool:
        return bool(every) and self.step > 0 and self.step % every == 0 and last < self.step

    def _make_teacher(self) -> Teacher:
        if self.config.teacher == "critic":
            teacher = CriticTeacher(self.generator, self.reward, self.config)
            self._critic = Critic(teacher.network, self.generator.read)
            if isinstance(self.adapter, HeadHypernetwork):
                self.adapter.critic = self._critic  # saved in its file
            return teacher
        trains_itself = not isinstance(self.adapter, NoiseHypernetwork)
        denoiser = self.adapter.network if trains_itself else None
        return GradientTeacher(self.generator, self.reward, self.config.steps, denoiser, self.config.between_steps)

    def _make_regression(self) -> "LastLayerRegression | None":
        if not self.config.warm_start_pictures or self.config.train_type != "noise":
            return None
        from ..hypernetworks.lora import LoraHypernetwork  # needs peft
        from ..hypernetworks.warm_start import LastLayerRegression

        assert isinstance(self.adapter, LoraHypernetwork)
        return LastLayerRegression(self.adapter)

    def save(self, path: str | Path, **training) -> None:
        """Write the adapter (its moving average, where one is kept) as it now is. One that only got a critic keeps what
        its file said of its training."""
        if self.config.start_from and not self.step:
            self.adapter.save(path, critic_rewards=self._rewards, **training)
            return
        size = [self.config.height or self.generator.default_size, self.config.width or self.generator.default_size]
        before = int(self.adapter.training.get("steps_trained", 0)) if self.config.start_from else 0
        kl = f"l2_{self.config.kl_reduction}, temperature {self.config.temperature:g}"
        if self.config.between_steps != "fresh":
            training["between_steps"] = self.config.between_steps
        if self.generator.lora or (self.generator.lora == "" and "generator_lora" in self.adapter.training):
            training["generator_lora"] = self.generator.lora
        if self.generator.text_length:
            training["text_length"] = self.generator.text_length
        if self.generator.quantized or "generator_quantized" in self.adapter.training:
            training["generator_quantized"] = self.generator.quantized
        with self.averaged():
            self.adapter.save(
                path,
                resolution=f"{size[1]}x{size[0]}",
                rewards=self._rewards,
                kl=kl,
                steps_trained=before + self.step,
                **training,
            )

    @property
    def _rewards(self) -> str:
        return ",".join(f"{name}={weight:g}" for name, weight in self.reward.weights.items())

    @contextmanager
    def averaged(self) -> Iterator[Adapter]:
        """The adapter with its averaged weights inside the block."""
        if self.average is None or self.step == 0:
            yield self.adapter
            return
        current = [p.detach().clone() for p in self.parameters]
        copy_(self.parameters, self.average)
        try:
            yield self.adapter
        finally:
            copy_(self.parameters, current)

    @torch.no_grad()
    def fault(self) -> Message | None:
        """Why the weights, as they now are, should not be saved, or None. It takes one reading and changes nothing. All
        processes must call it."""
        largest = torch.stack([p.abs().max() for p in self.parameters]).max().item()
        found = overgrown(largest, self.config)
        if found is None and isinstance(self.adapter, NoiseHypernetwork):
            x0, conditioning = self._measured(min(8, self.config.micro_batch_size or self.config.batch_size))
            delta = self.adapter(x0, conditioning)
            found = runaway(kl_l2(delta, self.config.kl_reduction).mean().item(), self._values, self.config)
        return processes.gather(found)[0]  # one process's, so that all take the same decision

    def _measured(self, count: int) -> tuple[Tensor, TensorBatch]:
        """A measurement's own noise and prompts at this step: the same whenever they are asked for."""
        seed = derive_seed(self.config.seed, DIAGNOSTICS, self.step)
        random = torch.Generator().manual_seed(seed)
        rows = torch.randint(len(self._conditioning), (count,), generator=random)
        x0 = self.generator.noise(count, self.config.height, self.config.width, seed)
        return x0, self._conditioning.rows(rows.tolist())

    def diagnose(self) -> dict[str, float]:
        """Measure the terms that the L2 penalty leaves out, on one batch (at most 8 pictures) of its own noise."""
        x0, conditioning = self._measured(min(8, self.config.batch_size))
        measured = [self._diagnose(x0[part], conditioning.rows(part), part.start) for part in self.generator.parts(x0)]
        second_order, lipschitz, moved = (torch.cat(parts) for parts in zip(*measured, strict=True))
        return {
            "kl_second_order": second_order.mean().item(),
            "lipschitz": lipschitz.mean().item(),
            "lipschitz_max": lipschitz.max().item(),
            **noise_statistics(moved),
        }

    def _diagnose(self, x0: Tensor, conditioning: TensorBatch, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """(second-order KL [B], Lipschitz constants [B], moved noise [B, C, h, w])."""
        adapter = self.adapter
        assert isinstance(adapter, NoiseHypernetwork)

        def f(x: Tensor) -> Tensor:
            return adapter(x, conditioning)

        with torch.no_grad():
            moved = adapter.modulate(x0, conditioning, iterations=self.config.iterations)
        return second_order_kl(f, x0, seed), local_lipschitz(f, x0, seed=seed), moved

    def _validate(self) -> Validated:
        assert self.validation is not None
        with self.averaged() as adapter:
            # One process's numbers for all, so that all take the same decisions.
            metrics, best = processes.gather(self.validation.measure(adapter, self._critic))[0]
        self.stop_reason = self.validation.note(self.step, metrics)
        self.validated = self.step
        return Validated(self.step, metrics, best)

    def _warm_up_batch(self) -> WarmStart:
        """The teacher sees pictures of the base, and learns."""
        config = self.config
        with self._whole_or_undone():
            seed = self._next_seed()
            if self.scored is None:
                for part in self._draw(seed):
                    self.teacher.watch(self._moved_from_start(part))
            else:
                self._watch_scored()
            self.teacher.learn(seed)
            self.teacher.watched += config.batch_size
        total = self.teacher.watched + self.teacher.warm_up_left
        return WarmStart(self.step, min(self.teacher.watched, total), total, "critic")

    def _watch_scored(self) -> None:
        """This process's share of the next rows; once all were read, what they left in the replay is learnt again."""
        assert isinstance(self.teacher, CriticTeacher) and self.scored is not None
        first, size = self.teacher.watched, self.config.batch_size
        rows = self.scored.rows[first : first + size][processes.rank() :: processes.count()]
        micro = self.config.micro_batch_size or size
        for i in range(0, len(rows), micro):
            self.teacher.watch_scored(*self.scored.part(rows[i : i + micro]))

    def _warm_start_batch(self) -> WarmStart:
        config = self.config
        assert self.regression is not None
        with self._whole_or_undone():
            seed = self._next_seed()
            warm_start.add_batch(self.regression, self.teacher, self._draw(seed), config)
            self.teacher.learn(seed)
        total = config.warm_start_pictures
        self.warm_start_done = min(total, self.warm_start_done + config.batch_size)
        return WarmStart(0, self.warm_start_done, total)

    def _solve_warm_start(self) -> None:
        assert self.regression is not None
        with self._whole_or_undone():
            how = (self.generator, self.reward, self.config, lambda: self._draw(self._next_seed()))
            warm_start.solve(self.regression, *how)
        self.regression = None
        if self.average is not None:
            copy_(self.average, self.parameters)

    def _next_seed(self) -> int:
        return int(torch.randint(2**62, (), generator=self.random))

    @contextmanager
    def _whole_or_undone(self) -> Iterator[None]:
        """An exception inside (an interrupt, memory running out) leaves draws and statistics as before."""
        random, order = self.random.get_state(), self.order.state()
        normalization, teacher = self.reward.normalization.state_dict(), self.teacher.mark()
        try:
            with explaining_out_of_memory(self.config, processes.count()):
                yield
        except BaseException:
            self.random.set_state(random)
            self.order.load_state(order)
            self.reward.normalization.load_state_dict(normalization)
            self.teacher.go_back(teacher)
            self.optimizer.zero_grad(set_to_none=True)
            raise

    def _train_step(self) -> StepDone | StepSkipped:
        config = self.config
        lr = learning_rate(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        with self._whole_or_undone():
            step_seed = self._next_seed()
            passes = [
                self._forward_backward(part)
                for i in range(config.accumulation_steps)
                for part in self._draw(derive_seed(step_seed, ACCUMULATED_BATCH, i))
            ]
            processes.sum_(p.grad for p in self.parameters if p.grad is not None)
            learnt = self.teacher.learn(step_seed)
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.grad_clip)
        metrics = self._means(passes, grad_norm)
        scored, wanted = metrics.pop(SCORES, 1.0), metrics.pop(WANTED, 1.0)
        if math.isfinite(metrics["kl"]) and (reason := runaway(metrics["kl"], self._values, config)):
            self.optimizer.zero_grad(set_to_none=True)
            raise DivergedError(reason)
        fault = None
        if not all(map(math.isfinite, (metrics["loss"], metrics["grad_norm"]))):
            fault = self._fault(passes, metrics["kl"])
        elif scored < LEAST_SCORED * wanted:
            fault = Message("the reward is not finite for {:.0%} of the images", 1 - scored / wanted)
        if fault:
            self.optimizer.zero_grad(set_to_none=True)
            self.skipped_in_a_row += 1
            return StepSkipped(self.step, fault)
        self.skipped_in_a_row = 0
        self.optimizer.step()
        self.step += 1
        if self.average is not None and config.ema_decay is not None:
            weight = 1 - min(config.ema_decay, self.step / (self.step + 10))
            for average, parameter in zip(self.average, self.parameters, strict=True):
                average.lerp_(parameter.detach(), weight)
        return StepDone(self.step, {**metrics, **learnt, "lr": lr})

    def _forward_backward(self, part: Lesson) -> "_Pass":
        if not isinstance(self.adapter, NoiseHypernetwork):
            judged = self.teacher.judge(part.x0, part)
            loss = -judged.value / self.config.temperature
            (loss.sum() * self._share).backward()
            return self._told(part, judged, loss, torch.zeros_like(loss))
        if self._model is not None and self.step < self.config.distill_steps:
            return self._regress(self.adapter, self._model, part)
        return self._climb(self.adapter, part)

    def _climb(self, f: NoiseHypernetwork, part: Lesson) -> "_Pass":
        """One reading with gradients, from wherever the readings before have led."""
        config = self.config
        x, remaining = self._read_before(f, part), part.remaining.to(part.x0.device)
        # f's activations are used last: computed again then, they are not kept beside those of generator and rewards.
        f_again = config.gradient_checkpointing == "hypernetwork"
        with torch.set_grad_enabled(not f_again):
            delta = f(x, part.conditioning, remaining)
        delta.requires_grad_()
        moved = f.moved(x, delta, part.x0)
        kl = kl_l2(moved - part.x0, config.kl_reduction)
        judged = self.teacher.judge(self._clip.attach(moved), part)
        loss = kl - judged.value / config.temperature
        (loss.sum() * self._share).backward()
        if f_again:
            f(x, part.conditioning, remaining).backward(delta.grad)
        clipped = self._clip.clipped_fraction.to(loss) * len(loss)
        ascent = -self._clip.gradient.float().flatten(1)
        alignment = torch.cosine_similarity(delta.detach().flatten(1), ascent).sum()
        return self._told(part, judged, loss, kl, clipped=clipped, alignment=alignment)

    def _moved_from_start(self, part: Lesson) -> Lesson:
        """As training will judge it: some noise as it is drawn, some as a hypernetwork that is no longer zero moves
        it."""
        if not self.config.start_from:
            return part
        assert isinstance(self.adapter, NoiseHypernetwork)
        return replace(part, x0=self._read_before(self.adapter, part))

    @torch.no_grad()
    def _read_before(self, f: NoiseHypernetwork, part: Lesson) -> Tensor:
        """Each noise after the readings that it has behind it."""
        x = part.x0
        for done in range(int(part.before.max())):
            rows = (part.before > done).nonzero().flatten().to(x.device)
            still = (part.before + part.remaining - done).to(x.device)[rows]
            delta = f(x[rows], part.conditioning.rows(rows), still)
            x = x.index_copy(0, rows, f.moved(x[rows], delta, part.x0[rows]))
        return x

    def _regress(self, f: NoiseHypernetwork, model: NoiseHypernetwork, part: Lesson) -> "_Pass":
        """½ of the squared distance to another hypernetwork's residuals; it has no reward, and draws no picture."""
        with torch.no_grad():
            wanted = model(part.x0, part.conditioning)
        delta = f(part.x0, part.conditioning)
        loss = kl_l2(delta - wanted)
        (loss.sum() * self._share).backward()
        relative = loss.detach().sum() / kl_l2(wanted).mean().clamp_min(1e-12)
        sums = {"loss": loss.sum(), "kl": kl_l2(delta).sum(), "distill_error": relative}
        return _Pass({key: value.detach().float() for key, value in sums.items()}, None, part.text)

    def _told(self, part: Lesson, judged: Judged, loss: Tensor, kl: Tensor, **more: Tensor) -> "_Pass":
        sums = {"loss": loss.sum(), "kl": kl.sum(), **more}
        if not self.config.score_share:
            return _Pass({key: value.detach().to(loss) for key, value in sums.items()}, None, part.text)
        sums["reward"] = judged.reward.sum()
        sums |= {f"reward/{name}": score.sum() for name, score in judged.scores.items()}
        sums |= {SCORES: loss.new_tensor(len(judged.rows)), WANTED: loss.new_tensor(sum(part.scored))}
        text = part.text.rows(judged.rows)
        if self.reward.held_out and self._tells_held_out():
            held_out = self.reward.scores(judged.images, text, self.reward.held_out)
            sums |= {f"held_out/{name}": score.sum() for name, score in held_out.items()}
        return _Pass({key: value.detach().to(loss) for key, value in sums.items()}, judged.images, text)

    def _tells_held_out(self) -> bool:
        """Whether the step being made measures what it does not follow: that costs a pass of its encoder."""
        every, step = self.config.diagnostics_every, self.step + 1
        return bool(every) and (step == 1 or step % every == 0)

    def _means(self, passes: list["_Pass"], grad_norm: Tensor) -> dict[str, float]:
        """Over the pictures of all passes and processes, rewards over those that were scored, float32; one
        synchronisation with the device."""
        names = list(passes[0].sums)
        sums = torch.stack([torch.stack([p.sums[name] for name in names]) for p in passes]).sum(0)
        processes.sum_([sums])
        metrics = dict(zip((*names, "grad_norm"), torch.cat([sums, grad_norm.view(1)]).tolist(), strict=True))
        scores = metrics.get(SCORES)
        for name in names:
            if name not in (SCORES, WANTED):
                of_scored = scores and name.startswith(OF_SCORED)
                metrics[name] = metrics[name] / scores if of_scored else metrics[name] * self._share
        return metrics

    def _draw(self, seed: int) -> Iterator[Lesson]:
        """This process's share of the next batch, in micro-batches. Rows, noise and readings are drawn for the whole
        batch, so that they do not depend on how it is shared out."""
        config = self.config
        each, x0 = config.pictures_per_prompt, self._noise(seed)
        rows = [row for row in self.order.next(config.batch_size // each) for _ in range(each)]
        before, remaining = self._readings()
        scored = self._scored(seed)
        share = config.batch_size // processes.count()
        size = min(config.micro_batch_size or share, share)
        first = processes.rank() * share
        seeds = [derive_seed(seed, PICTURE, i) for i in range(config.batch_size)]
        for i in range(first, first + share, size):
            mine = slice(i, min(i + size, first + share))
            conditioning, text = self._conditioning.rows(rows[mine]), self._text.rows(rows[mine])
            yield Lesson(x0[mine], conditioning, text, seeds[mine], before[mine], remaining[mine], scored[mine])

    def _scored(self, seed: int) -> list[bool]:
        """Which pictures of a batch are drawn and scored: `score_share` of them, one at least."""
        config = self.config
        if config.score_share == 0:
            return [False] * config.batch_size
        if config.score_share == 1:
            return [True] * config.batch_size
        random = torch.Generator().manual_seed(derive_seed(seed, SCORED))
        order = torch.randperm(config.batch_size, generator=random).tolist()
        chosen = set(order[: max(1, round(config.score_share * config.batch_size))])
        return [row in chosen for row in range(config.batch_size)]

    def _readings(self) -> tuple[Tensor, Tensor]:
        """For each picture of a batch, how many readings it has behind it and how many are to come, [B] each. One that
        is told has every number of readings in all equally often; one that is not sees every iterate equally often."""
        config, most = self.config, self.config.iterations
        if most == 1:
            return torch.zeros(config.batch_size, dtype=torch.long), torch.ones(config.batch_size, dtype=torch.long)
        first, second = torch.rand(2, config.batch_size, generator=self.random)
        total = 1 + (first * most).long() if self._is_told else torch.full((config.batch_size,), most)
        before = (second * total).long()
        return before, total - before

    @property
    def _is_told(self) -> bool:
        return isinstance(self.adapter, NoiseHypernetwork) and self.adapter.is_told

    def _noise(self, seed: int) -> Tensor:
        kind, config = self.config.latent_type, self.config
        if kind in ("one", "multi"):
            seed = config.seed
        elif kind == "batch":
            seed = derive_seed(config.seed, SHARED_NOISE, self.step)
        count = 1 if kind in ("one", "batch") else config.batch_size
        x0 = self.generator.noise(count, config.height, config.width, seed)
        return x0.expand(config.batch_size, *x0.shape[1:])

    def _fault(self, passes: list["_Pass"], kl: float) -> str:
        """What made a step non-finite, in whichever process: the adapter, the generator, or which reward."""
        if not math.isfinite(kl):
            return not_finite("the residuals", self.config)
        drawn = [(p.images, p.text) for p in passes if p.images is not None]
        if not all(processes.gather(all(bool(images.isfinite().all()) for images, _ in drawn))):
            return not_finite("the images", self.config)
        found = next(filter(None, (self.reward.fault(images, text) for images, text in drawn)), None)
        faults = processes.gather(found)
        return next(filter(None, faults), not_finite("the generator's gradients", self.config))


@dataclass(frozen=True)
class _Pass:
    sums: dict[str, Tensor]
    """Of metrics over the pictures."""
    images: Tensor | None
    """None where none was drawn."""
    text: TensorBatch


def copy_(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Overwrite each target."""
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)
