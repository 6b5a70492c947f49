"""What a run needs of its device's memory: one step of the trainer's, taken without data."""

from __future__ import annotations

from collections import Counter as Sums
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from ..generators.diffusers_generator import PROMPTS_AT_A_TIME
from ..generators.quantized import BYTES, Quantize
from ..generators.text_encoders import drop_vision
from ..hypernetworks import NoiseHypernetwork
from ..rewards import Reward, RewardEnsemble
from ..rewards.vision_language import MODEL
from ..training import Trainer, TrainingConfig, processes
from ..training.teachers import CriticTeacher, Lesson, critic
from .counter import ACTIVATIONS, Counter
from .models import TOKENS, build, countable, default_dtype, every_token_kept
from .released import Configuration
from .rewards import build_rewards, every_window_used, tensors_of
from .without_data import without_data

DENOISER, DECODER, HYPERNETWORK, CRITIC = "denoiser", "autoencoder", "hypernetwork", "critic"
GRADIENTS, OPTIMIZER, REWARDS, TEXT_ENCODERS = "gradients", "optimizer", "rewards", "text encoders"
KINDS = (DENOISER, DECODER, HYPERNETWORK, CRITIC, GRADIENTS, OPTIMIZER, ACTIVATIONS, REWARDS, TEXT_ENCODERS)
"""What memory is for, in the order of the table."""

MOST_STEPS = 2
"""Sampling steps that are counted where they run without a gradient: more need no more."""

LAST_LAYER = ("t5", "gemma2")
"""Kinds of text encoders whose last layer alone is asked for; of all others pipelines ask for every layer's output."""

WINDOWS = {"clip_text_model": 77, "t5": 256, "gemma2": 300}
"""Tokens that a text encoder is padded to, by its kind; 512 for all others."""


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What of a run decides its memory. Names are those that settings have in the core."""

    configuration: Configuration
    name: str
    """The generator's, for messages."""
    config: TrainingConfig
    dtype: torch.dtype = torch.bfloat16
    rewards: tuple[str, ...] = ("redness",)
    held_out: tuple[str, ...] = ()
    rewards_dtype: torch.dtype = torch.bfloat16
    judge: str = MODEL
    """The model that `vqa` and `vqa-questions` ask."""
    rewards_batch: int | None = None
    offload_rewards: bool = False
    offload: bool = False
    """Text encoders are on the device only while they work; denoiser and decoder are not there then."""
    quantize: Quantize | None = None
    may_quantize: bool = True
    """Whether it could be: weights with a LoRA in them are not packed."""
    vae_slicing: bool = False
    vae_tiling: bool = False
    text_length: int | None = None

    @property
    def at_a_time(self) -> int:
        """Pictures of a micro-batch."""
        return at_a_time(self.config)


def at_a_time(config: TrainingConfig) -> int:
    """Pictures of a micro-batch."""
    share = max(1, config.batch_size // processes.count())
    return min(config.micro_batch_size or share, share)


def passes(config: TrainingConfig) -> int:
    """Micro-batches of an optimizer step."""
    return config.accumulation_steps * -(-config.batch_size // (at_a_time(config) * processes.count()))


@dataclass(frozen=True)
class Count:
    """Bytes of a run: on its device, but for the replay."""

    parts: dict[str, Sums[str]]
    """For each part of a run, what is held at its peak, by what it is."""
    rewards: tuple[int, ...]
    """Weights of each reward."""
    replay: int
    flops: int
    """Floating-point operations of a micro-batch and its optimizer step."""
    linear: int = 0
    """Of the denoiser's weights, those that `quantize` packs."""
    largest: int = 0
    """The largest of them."""
    itemsize: int = 1
    """Bytes of a value of theirs as they are."""

    @property
    def part(self) -> str:
        """Where the peak is."""
        return max(self.parts, key=lambda part: self.parts[part].total())

    @property
    def peak(self) -> int:
        return self.parts[self.part].total()

    def offloaded(self, rewards: bool = False, text_encoders: bool = False) -> Count:
        """The same run where these are on the device only while they work, denoiser and decoder away from the text
        encoders."""
        parts = {part: Sums(sums) for part, sums in self.parts.items()}
        for part, sums in parts.items():
            if rewards:
                sums[REWARDS] = max(self.rewards, default=0) if part == REWARDS else 0
            if text_encoders:
                for kind in (DENOISER, DECODER) if part == TEXT_ENCODERS else (TEXT_ENCODERS,):
                    sums[kind] = 0
        return replace(self, parts=parts)

    def quantized(self, kind: Quantize) -> Count:
        """The same run with the denoiser's linear weights packed. Each is unpacked while it is used."""
        saved = round(self.linear * (1 - BYTES[kind] / self.itemsize))
        parts = {part: Sums(sums) for part, sums in self.parts.items()}
        for part, sums in parts.items():
            sums[DENOISER] -= saved if sums[DENOISER] else 0
            sums[ACTIVATIONS] += self.largest if part in (DENOISER, HYPERNETWORK) else 0
        return replace(self, parts=parts, linear=0, largest=0)


def count(setup: Setup) -> Count:
    """What a run holds at most. Nothing is allocated.

    Raises:
        SettingError: the settings do not go together, as the trainer says.
    """
    with without_data(), every_window_used(), every_token_kept():
        generator = countable(build(setup.configuration, setup.name, setup.dtype, text_length=setup.text_length))
        generator.autoencoder.use_slicing = setup.vae_slicing
        generator.autoencoder.use_tiling = setup.vae_tiling
        which = (setup.rewards, setup.held_out, setup.rewards_dtype, False, setup.rewards_batch, setup.judge)
        reward = build_rewards(*which)
        trainer = Trainer(generator, reward, [""], counted_config(setup.config))
        encoding = _encoding(setup)
        counted = count_step(trainer, setup.at_a_time, passes(setup.config), encoding[TEXT_ENCODERS])
        counted = replace(counted, parts={**counted.parts, TEXT_ENCODERS: _weights(trainer) + encoding})
    counted = counted.offloaded(setup.offload_rewards, setup.offload)
    return counted.quantized(setup.quantize) if setup.quantize else counted


def counted_config(config: TrainingConfig) -> TrainingConfig:
    """The settings without what needs values or files, and does not raise the peak."""
    critic = config.teacher == "critic"
    return replace(
        config,
        steps=min(config.steps, MOST_STEPS) if critic else config.steps,
        between_steps="fresh",
        start_from=None,
        distill=None,
        distill_steps=0,
        max_steps=max(1, config.max_steps),
        score_share=config.score_share or 1.0,
        warm_start_pictures=0,
        compile=False,
        validate_every=0,
        patience=0,
        diversity_floor=0.0,
        optimizer="sgd" if config.optimizer == "adamw8bit" else config.optimizer,
    )


def count_step(
    trainer: Trainer, pictures: int, passes: int = 1, text_encoders: int = 0, every_picture: bool = False
) -> Count:
    """The last micro-batch of a step that is not the first, and that step, but for what looks at values: drawing,
    logging, the finite check. With tensors that have data, it is really taken.

    Args:
        pictures: of a micro-batch.
        passes: micro-batches in the step.
        text_encoders: bytes that lie on the device throughout.
        every_picture: draw them all, for their arithmetic. A critic has them drawn part by part, and more than two
            parts need no more memory than their pictures.
    """
    counter = Counter()
    show_weights(counter, trainer)
    counter.add(text_encoders, TEXT_ENCODERS)
    with ExitStack() as stack:
        stack.callback(_make_state(counter, trainer, grown=passes > 1).remove)
        stack.enter_context(_without_values(trainer))
        marked = _marked(trainer)
        counter.see(marked, CRITIC)
        lesson, left_out = _lesson(trainer, pictures, every_picture)
        with counter:
            kept = counter.by_kind[ACTIVATIONS]
            own = trainer._forward_backward(lesson)
        counter.shift(left_out * 3 * _pixels(trainer, lesson.x0) * torch.float32.itemsize, ACTIVATIONS)
        counter.shift((passes - 1) * (counter.by_kind[ACTIVATIONS] - kept), ACTIVATIONS)
        replay = _learn(counter, trainer)
        with counter:
            nn.utils.clip_grad_norm_(trainer.parameters, 1.0)
            trainer.optimizer.step()
        del own, marked
    sizes = [size_of(tensors_of(reward)) for reward in _all(trainer.reward)]
    parts = {part: sums for part, (_, sums) in counter.peaks.items() if part}
    linear = [m.weight for m in trainer.generator.denoiser.modules() if isinstance(m, nn.Linear)]
    packed, largest = sum(map(_size, linear)), max(map(_size, linear), default=0)
    return Count(parts, tuple(sizes), replay, counter.flops, packed, largest, linear[0].itemsize if linear else 1)


def show_weights(counter: Counter, trainer: Trainer) -> None:
    generator, network = trainer.generator, trainer.adapter.network
    counter.see([*network.parameters(), *network.buffers(), *(trainer.average or [])], HYPERNETWORK)
    if isinstance(trainer.teacher, CriticTeacher):
        counter.see([*trainer.teacher.network.parameters(), *trainer.teacher.network.buffers()], CRITIC)
    for module, kind in ((generator.denoiser, DENOISER), (generator.autoencoder, DECODER)):
        counter.see([*module.parameters(), *module.buffers()], kind)
    for reward in _all(trainer.reward):
        counter.see(tensors_of(reward), REWARDS)


def _weights(trainer: Trainer) -> Sums[str]:
    """And the optimizer's state, which a resumed run has before its sample prompts are encoded."""
    counter = Counter()
    show_weights(counter, trainer)
    counter.see(_state_of(trainer.optimizer), OPTIMIZER)
    return counter.by_kind


def _make_state(counter: Counter, trainer: Trainer, grown: bool) -> _Hooks:
    """The optimizers' state, as any step but the first finds it, and gradients where an earlier micro-batch left
    them."""
    mine = [(trainer.optimizer, trainer.parameters)]
    if isinstance(trainer.teacher, CriticTeacher):
        mine.append((trainer.teacher.optimizer, trainer.teacher.parameters))
    handles = []
    for optimizer, parameters in mine:
        for p in parameters:
            p.grad = torch.zeros_like(p)
            handles.append(p.register_post_accumulate_grad_hook(lambda p: counter.see([p.grad], GRADIENTS)))
        with _unmoved(optimizer):
            optimizer.step()
        counter.see(_state_of(optimizer), OPTIMIZER)
        if grown and optimizer is trainer.optimizer:
            counter.see([p.grad for p in parameters if p.grad is not None], GRADIENTS)
        else:
            optimizer.zero_grad(set_to_none=True)
    return _Hooks(handles)


@contextmanager
def _unmoved(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Parameters stay as they are: state is made by a step of length 0."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    try:
        yield
    finally:
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


@dataclass(frozen=True)
class _Hooks:
    handles: Sequence

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()


@contextmanager
def _without_values(trainer: Trainer) -> Iterator[None]:
    """What would look at values does not."""
    every_score, critic.finite = critic.finite, lambda scores: torch.arange(len(scores), device=scores.device)
    if isinstance(trainer.adapter, NoiseHypernetwork):
        trainer._read_before = lambda f, part: part.x0  # type: ignore[method-assign]
    try:
        yield
    finally:
        critic.finite = every_score
        trainer.__dict__.pop("_read_before", None)


def _lesson(trainer: Trainer, pictures: int, every_picture: bool) -> tuple[Lesson, int]:
    """A micro-batch, and how many of its pictures are not drawn though they would be."""
    rows, ones = [0] * pictures, torch.ones(pictures, dtype=torch.long)
    config = trainer.config
    x0 = trainer.generator.noise(pictures, config.height, config.width)
    wanted = drawn = max(1, round(config.score_share * pictures))
    if config.teacher == "critic" and not every_picture:
        drawn = min(wanted, 2 * trainer.generator.parts(x0)[0].stop)
    scored = [row < drawn for row in range(pictures)]
    conditioning, text = trainer._conditioning.rows(rows), trainer._text.rows(rows)
    return Lesson(x0, conditioning, text, list(range(pictures)), ones - 1, ones, scored), wanted - drawn


def _pixels(trainer: Trainer, x0: Tensor) -> int:
    return x0.shape[-2] * x0.shape[-1] * trainer.generator.latent_scale**2


def _learn(counter: Counter, trainer: Trainer) -> int:
    """The critic's share of a step; returns the bytes of its replay, which is CPU memory."""
    teacher = trainer.teacher
    if not isinstance(teacher, CriticTeacher):
        return 0
    for x, reading, scores, _ in teacher._seen:
        teacher.replay.add(x, reading, scores)
    with counter:
        for seed in range(teacher.config.critic_steps):
            teacher._regress(seed)
    teacher._seen.clear()
    return teacher.replay.nbytes


def _encoding(setup: Setup) -> Sums[str]:
    """What text encoders hold while they encode."""
    held = Sums({TEXT_ENCODERS: 0})
    most = 0
    for make in setup.configuration.text_encoders:
        with default_dtype(setup.dtype):
            encoder = make().eval()
        encoder.tie_weights()
        drop_vision(encoder)
        held[TEXT_ENCODERS] += size_of([*encoder.parameters(), *encoder.buffers()])
        most = max(most, _encoding_activations(encoder))
    held[ACTIVATIONS] = most
    return held


@torch.no_grad()
def _encoding_activations(encoder: PreTrainedModel) -> int:
    """Of the prompts that it takes at a time."""
    text = encoder.get_decoder() if hasattr(encoder, "get_decoder") and not _is_t5(encoder) else encoder
    window = WINDOWS.get(text.config.model_type, 4 * TOKENS)
    window = min(window, getattr(text.config, "max_position_embeddings", window))
    ids = torch.ones(PROMPTS_AT_A_TIME, window, dtype=torch.long)
    counter = Counter([*encoder.parameters(), *encoder.buffers()])
    weights = counter.now
    with counter:
        kept = text(input_ids=ids, output_hidden_states=text.config.model_type not in LAST_LAYER)
    del kept
    head = encoder.get_output_embeddings()
    logits = ids.numel() * head.weight.shape[0] * head.weight.itemsize if head is not None else 0
    return counter.peak - weights + logits


def _is_t5(encoder: PreTrainedModel) -> bool:
    return encoder.config.model_type == "t5"


def _all(reward: RewardEnsemble) -> list[Reward]:
    return [*reward.rewards.values(), *reward.held_out.values()]


def _marked(trainer: Trainer) -> list[Tensor]:
    """What a teacher keeps to go back to, `Teacher.mark`, whose deep copies need data."""
    teacher = trainer.teacher
    if not isinstance(teacher, CriticTeacher):
        return []
    return [t.detach().clone() for t in (*teacher.parameters, *_state_of(teacher.optimizer))]


def _state_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value for own in optimizer.state.values() for value in own.values() if isinstance(value, Tensor)]


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.itemsize


def size_of(tensors: Sequence[Tensor]) -> int:
    return sum({t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}.values())
