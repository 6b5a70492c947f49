"""The trainer: one object behind `python -m train` and the Train node, driven step by step through its events."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from .batch import TensorBatch
from .diagnostics import local_lipschitz, noise_statistics, second_order_kl
from .generators.base import Generator
from .hypernetwork import DenoiserLora, FineTunedDenoiser, NoiseHypernetwork
from .objective import KLReduction, PerSampleClip, kl_l2
from .rewards import RewardEnsemble
from .warm_start import LastLayerRegression, scale_last_layer_


@dataclass(kw_only=True)
class TrainingConfig:
    """How an adapter is trained; what it is trained for (model, prompts, rewards) is handed to the `Trainer`."""

    train_type: Literal["noise", "finetune"] = "noise"
    """`noise` trains a noise hypernetwork; `finetune` trains the LoRA into the generator, without a KL."""
    rank: int = 128
    """Of every LoRA factor."""
    alpha: float = 256.0
    """LoRA scale; the update is alpha / rank times B A."""
    last_layer: str | None = None
    """The denoiser's output layer; found by running it when not given."""
    temperature: float = 1.0
    """α of L = KL - r / α: smaller follows the reward further from the base distribution."""
    kl_reduction: KLReduction = "sum"
    """`sum` is the paper's KL in nats; `mean` the reference implementation's, weaker by the size of the latent."""
    reward_grad_clip: float | None = None
    """Largest norm of a sample's gradient of r / α at the modulated noise, in nats per unit of noise."""
    optimizer: Literal["sgd", "adam", "adamw"] = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    """Of SGD."""
    beta2: float = 0.999
    """Of Adam and AdamW; 0.99 follows a short run's gradients faster."""
    grad_clip: float = 1.0
    """Largest norm of the whole gradient."""
    batch_size: int = 32
    """Pictures per forward pass."""
    accumulation_steps: int = 1
    """Forward passes per optimizer step."""
    max_steps: int = 1000
    """Optimizer steps."""
    warmup_steps: int = 10
    """Steps over which the learning rate rises from zero."""
    decay_fraction: float = 0.0
    """Last part of the run over which the learning rate falls linearly to zero."""
    ema_decay: float | None = None
    """Moving average of the LoRA weights, which is what is then saved and shown."""
    steps: int = 1
    """Denoiser calls per picture while training."""
    height: int | None = None
    width: int | None = None
    """Of training pictures, in pixels; the generator's own size when not given."""
    pictures_per_prompt: int = 1
    """Pictures of the same prompt in a batch, for rewards that compare them."""
    latent_type: Literal["inf", "batch", "multi", "one"] = "inf"
    """Noise per optimizer step: `inf` fresh for every picture, `batch` one fresh noise for all pictures of the step,
    `multi` the same batch of noises every step, `one` the same single noise for ever."""
    warm_start_pictures: int = 0
    """Pictures whose reward gradients the hypernetwork's last layer is fitted to before the first step, in closed form
    (`warm_start.py`): the rank should be at least the latent's channels. 0 starts from exactly zero, as the paper."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: about a third slower, a fraction of the memory."""
    diagnostics_every: int = 100
    """Steps between measurements of ½ tr J², Lipschitz constant and noise statistics; 0 for never."""
    max_skipped: int = 5
    """Non-finite steps in a row after which training stops."""
    seed: int = 0

    def __post_init__(self):
        positive = ("rank", "alpha", "temperature", "lr", "grad_clip", "batch_size", "accumulation_steps", "max_steps")
        for name in (*positive, "steps", "max_skipped", "pictures_per_prompt"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("weight_decay", "warmup_steps", "warm_start_pictures", "diagnostics_every", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be below 0")
        for name in ("momentum", "beta2", "ema_decay", "decay_fraction"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < (1.0 if name != "decay_fraction" else 1.0 + 1e-9):
                raise ValueError(f"{name} is {value}; it must lie in [0, 1)")
        if self.batch_size % self.pictures_per_prompt:
            raise ValueError(
                f"pictures_per_prompt is {self.pictures_per_prompt}; it must divide batch_size, {self.batch_size}"
            )
        if self.reward_grad_clip is not None and self.reward_grad_clip <= 0:
            raise ValueError(
                f"reward_grad_clip is {self.reward_grad_clip}; it must be above 0, or null for no clipping"
            )


@dataclass(frozen=True)
class WarmStart:
    """`done` of `total` pictures of the warm start are made; `step` is 0."""

    step: int
    done: int
    total: int


@dataclass(frozen=True)
class StepDone:
    """An optimizer step was made. Means over its pictures, float32: `loss`, `reward` (weighted), `kl` (nats for
    `sum`), `reward/<name>`, `held_out/<name>`, `grad_norm`, `lr`; for a noise hypernetwork `clipped` (share of samples)
    and `alignment` (cosine between residual and reward gradient: how much of the search is amortised)."""

    step: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class StepSkipped:
    """A step came out non-finite and was dropped; weights and optimizer are as before it."""

    step: int
    reason: str


@dataclass(frozen=True)
class Diagnosed:
    """Measured on one batch: `kl_second_order` (½ tr J², nats), `lipschitz` (mean), `lipschitz_max`, `noise_mean`,
    `noise_std`, `noise_norm`."""

    step: int
    metrics: dict[str, float]


Event = WarmStart | StepDone | StepSkipped | Diagnosed


STEP_LENGTHS = (0.0, 0.06, 0.12, 0.25, 0.5, 1.0)
"""What the warm start's line search tries; 0 leaves the hypernetwork at zero."""


class NonFiniteError(RuntimeError):
    """Several steps in a row were not finite; the message names what is at fault."""


class Trainer:
    """Trains a LoRA adapter for `generator` on `reward`.

    `events()` may be left and entered again at any event: between two of them every state is whole.

    Args:
        generator: frozen; its weights are never written.
        reward: the ensemble to be maximised.
        prompts: encoded once, here; pictures are made for a shuffled pass over them, again and again.
        config: the settings.
    """

    def __init__(self, generator: Generator, reward: RewardEnsemble, prompts: Sequence[str], config: TrainingConfig):
        if not prompts:
            raise ValueError("there are no prompts to train on")
        generator.noise(1, config.height, config.width)  # refuses a size that does not fit
        self.generator, self.reward, self.config = generator, reward, config
        if config.gradient_checkpointing:
            generator.checkpoint_gradients()
            reward.checkpoint_gradients()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.adapter: DenoiserLora = (
                NoiseHypernetwork(generator, config.rank, config.alpha, config.last_layer)
                if config.train_type == "noise"
                else FineTunedDenoiser(generator, config.rank, config.alpha)
            )
        self.parameters = list(self.adapter.parameters())
        self.optimizer = _optimizer(self.parameters, config)
        self.step = 0
        self._random = torch.Generator().manual_seed(config.seed)
        self._clip = PerSampleClip(config.reward_grad_clip, 1 / (config.batch_size * config.accumulation_steps))
        self._order: list[int] = []
        self._skipped_in_a_row = 0
        self._average = [p.detach().clone() for p in self.parameters] if config.ema_decay is not None else None
        self._conditioning = _encode(generator.encode, prompts)
        self._text = _encode(reward.encode_text, prompts)

    def events(self) -> Iterator[Event]:
        """Train to `max_steps`, one event at a time.

        Raises:
            NonFiniteError: `max_skipped` steps in a row were not finite.
        """
        every = self.config.diagnostics_every
        if self.step == 0 and self.config.warm_start_pictures and self.config.train_type == "noise":
            yield from self._warm_start()
        while self.step < self.config.max_steps:
            event = self._train_step()
            yield event
            if isinstance(event, StepSkipped) and self._skipped_in_a_row >= self.config.max_skipped:
                raise NonFiniteError(
                    f"{self._skipped_in_a_row} steps in a row were skipped, the last since {event.reason}"
                )
            if every and isinstance(event, StepDone) and self.step % every == 0 and self.config.train_type == "noise":
                yield Diagnosed(self.step, self.diagnose())

    def save(self, path: str | Path, **training) -> None:
        """Write the adapter (its moving average, where one is kept) as it now is."""
        size = [self.config.height or self.generator.default_size, self.config.width or self.generator.default_size]
        rewards = ",".join(f"{name}={weight:g}" for name, weight in self.reward.weights.items())
        kl = f"l2_{self.config.kl_reduction}, temperature {self.config.temperature:g}"
        with self.averaged():
            self.adapter.save(
                path, resolution=f"{size[1]}x{size[0]}", rewards=rewards, kl=kl, steps_trained=self.step, **training
            )

    @contextmanager
    def averaged(self) -> Iterator[DenoiserLora]:
        """The adapter with its averaged weights inside the block."""
        if self._average is None or self.step == 0:
            yield self.adapter
            return
        current = [p.detach().clone() for p in self.parameters]
        _copy_(self.parameters, self._average)
        try:
            yield self.adapter
        finally:
            _copy_(self.parameters, current)

    def diagnose(self) -> dict[str, float]:
        """Measure the terms that the L2 penalty leaves out, on one batch (at most 8 pictures) of its own noise."""
        count = min(8, self.config.batch_size)
        random = torch.Generator().manual_seed(self.step)
        rows = torch.randint(len(self._conditioning), (count,), generator=random)
        conditioning = self._conditioning.rows(rows)
        x0 = self.generator.noise(count, self.config.height, self.config.width, seed=self.step)

        def f(x: Tensor) -> Tensor:
            return self.adapter(x, conditioning)

        with torch.no_grad():
            moved = x0 + f(x0)
        lipschitz = local_lipschitz(f, x0)
        return {
            "kl_second_order": second_order_kl(f, x0).mean().item(),
            "lipschitz": lipschitz.mean().item(),
            "lipschitz_max": lipschitz.max().item(),
            **noise_statistics(moved),
        }

    def _warm_start(self) -> Iterator[WarmStart]:
        config, total = self.config, self.config.warm_start_pictures
        regression = LastLayerRegression(self.adapter)
        for done in range(0, total, config.batch_size):
            rows = self._next_rows()
            conditioning, text = self._conditioning.rows(rows), self._text.rows(rows)
            x0 = self._noise(self._next_seed())
            start = x0.detach().requires_grad_()
            clip = PerSampleClip(config.reward_grad_clip)
            images = self.generator.generate(clip.attach(start), conditioning, config.steps)
            reward = self.reward.score(images, text).sum() / config.temperature
            (ascent,) = torch.autograd.grad(reward, start)
            if ascent.isfinite().all():  # the first training step will name the reward at fault
                regression.add(x0, conditioning, ascent)
            yield WarmStart(0, min(total, done + config.batch_size), total)
        regression.solve_()
        self._line_search()
        if self._average is not None:
            _copy_(self._average, self.parameters)

    @torch.no_grad()
    def _line_search(self, batches: int = 12) -> None:
        """Shorten the warm start to what lowers the objective most: it is exact only where residuals are small."""
        config, losses = self.config, torch.zeros(len(STEP_LENGTHS))
        for _ in range(batches):
            rows = self._next_rows()
            conditioning, text = self._conditioning.rows(rows), self._text.rows(rows)
            x0 = self._noise(self._next_seed())
            delta = self.adapter(x0, conditioning)
            for i, length in enumerate(STEP_LENGTHS):
                images = self.generator.generate(x0 + length * delta, conditioning, config.steps)
                kl = kl_l2(length * delta, config.kl_reduction)
                losses[i] += (kl - self.reward.score(images, text) / config.temperature).mean().item()
        scale_last_layer_(self.adapter, STEP_LENGTHS[int(losses.argmin())])

    def _next_seed(self) -> int:
        return int(torch.randint(2**62, (), generator=self._random))

    def _train_step(self) -> StepDone | StepSkipped:
        config = self.config
        lr = _learning_rate(self.step, config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        step_seed = self._next_seed()
        passes = [self._forward_backward(step_seed + i) for i in range(config.accumulation_steps)]
        grad_norm = torch.nn.utils.clip_grad_norm_(self.parameters, config.grad_clip)
        means = {key: torch.stack([p.metrics[key] for p in passes]).mean() for key in passes[0].metrics}
        metrics = dict(zip((*means, "grad_norm"), torch.stack([*means.values(), grad_norm]).tolist(), strict=True))
        if not all(map(math.isfinite, (metrics["loss"], metrics["grad_norm"]))):
            self.optimizer.zero_grad(set_to_none=True)
            self._skipped_in_a_row += 1
            return StepSkipped(self.step, self._fault(passes))
        self._skipped_in_a_row = 0
        self.optimizer.step()
        self.step += 1
        if self._average is not None:
            weight = 1 - min(config.ema_decay, self.step / (self.step + 10))
            for average, parameter in zip(self._average, self.parameters, strict=True):
                average.lerp_(parameter.detach(), weight)
        return StepDone(self.step, {**metrics, "lr": lr})

    def _forward_backward(self, seed: int) -> "_Pass":
        config = self.config
        rows = self._next_rows()
        conditioning, text = self._conditioning.rows(rows), self._text.rows(rows)
        x0 = self._noise(seed)
        if config.train_type == "noise":
            delta = self.adapter(x0, conditioning)
            kl = kl_l2(delta, config.kl_reduction)
            start, denoiser = self._clip.attach(x0 + delta), None
        else:
            kl, start, denoiser = torch.zeros(len(x0), device=x0.device), x0, self.adapter.network
        images = self.generator.generate(start, conditioning, config.steps, seed=seed, denoiser=denoiser)
        reward, scores = self.reward.judge(images, text)
        loss = (kl - reward / config.temperature).mean()
        (loss / config.accumulation_steps).backward()
        metrics = {"loss": loss, "reward": reward.mean(), "kl": kl.mean()}
        metrics |= {f"reward/{name}": score.mean() for name, score in scores.items()}
        if self.reward.held_out:
            held_out = self.reward.scores(images, text, self.reward.held_out)
            metrics |= {f"held_out/{name}": score.mean() for name, score in held_out.items()}
        if config.train_type == "noise":
            metrics["clipped"] = torch.tensor(self._clip.clipped_fraction, device=x0.device)
            ascent = -self._clip.gradient.float().flatten(1)
            metrics["alignment"] = torch.cosine_similarity(delta.flatten(1), ascent).mean()
        return _Pass({key: value.detach() for key, value in metrics.items()}, images.detach(), text)

    def _noise(self, seed: int) -> Tensor:
        kind, config = self.config.latent_type, self.config
        if kind in ("one", "multi"):
            seed = config.seed
        elif kind == "batch":
            seed = self.step
        count = 1 if kind in ("one", "batch") else config.batch_size
        x0 = self.generator.noise(count, config.height, config.width, seed)
        return x0.expand(config.batch_size, *x0.shape[1:])

    def _next_rows(self) -> list[int]:
        each = self.config.pictures_per_prompt
        count = self.config.batch_size // each
        while len(self._order) < count:
            self._order += torch.randperm(len(self._conditioning), generator=self._random).tolist()
        rows, self._order = self._order[:count], self._order[count:]
        return [row for row in rows for _ in range(each)]

    def _fault(self, passes: list["_Pass"]) -> str:
        """Which reward made a step non-finite, by its score or by its gradient in the pictures."""
        for p in passes:
            if fault := self.reward.fault(p.images, p.text):
                return fault
        return "the gradient of the generator is not finite: lower lr, or use dtype float32"


@dataclass(frozen=True)
class _Pass:
    metrics: dict[str, Tensor]
    images: Tensor
    text: TensorBatch


def _encode(encode, prompts: Sequence[str], chunk: int = 64) -> TensorBatch:
    return TensorBatch.cat([encode(prompts[i : i + chunk]) for i in range(0, len(prompts), chunk)])


def _optimizer(parameters: list[Tensor], config: TrainingConfig) -> torch.optim.Optimizer:
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.optimizer]
    return kind(parameters, config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay)


def _learning_rate(step: int, config: TrainingConfig) -> float:
    warmup = min(1.0, (step + 1) / (config.warmup_steps + 1))
    left = (config.max_steps - step) / config.max_steps
    decay = min(1.0, left / config.decay_fraction) if config.decay_fraction else 1.0
    return config.lr * warmup * decay


def _copy_(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for target, source in zip(targets, sources, strict=True):
            target.copy_(source)
