"""Micro-batches, checkpointed activations, bf16 and what is said when memory runs out."""

import pytest
import torch

from benchmarks.training_step import SavedMemory
from hypernoise_core import Trainer, TrainingConfig, load_generator
from hypernoise_core.generators import base
from hypernoise_core.training import OutOfMemoryError, StepDone
from hypernoise_core.training.memory import out_of_memory_advice

SMALL = dict(rank=4, alpha=8, batch_size=4, max_steps=2, warmup_steps=0, lr=1e-3, diagnostics_every=0)


def trainer(generator, reward, prompts, **changes):
    return Trainer(generator, reward, prompts, TrainingConfig(**{**SMALL, **changes}))


@pytest.mark.parametrize("size", [1, 3])
def test_micro_batches_change_no_gradient(generator, redness, prompts, size):
    whole, parts = (
        trainer(generator, redness, prompts, micro_batch_size=m, optimizer="sgd", momentum=0.0) for m in (None, size)
    )
    for a, b in zip(whole.events(), parts.events(), strict=True):
        assert a.metrics == pytest.approx(b.metrics, rel=1e-4, abs=1e-7)
    for p, q in zip(whole.parameters, parts.parameters, strict=True):
        assert torch.allclose(p.grad, q.grad, atol=1e-6)


def test_decoding_and_judging_by_parts_changes_no_gradient_and_keeps_less(generator, redness, prompts, monkeypatch):
    metrics, gradients, peaks = [], [], []
    for most in (base.MOST_PIXELS, generator.default_size**2):  # the whole micro-batch, and picture by picture
        monkeypatch.setattr(base, "MOST_PIXELS", most)
        t = trainer(generator, redness, prompts, hypernetwork="head", head_width=32, head_depth=1)
        saved = SavedMemory()
        with saved():
            metrics.append(next(t.events()).metrics)
        gradients.append([p.grad for p in t.parameters])
        peaks.append(saved.peak)
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-4, abs=1e-7)
    for whole, parts in zip(*gradients, strict=True):
        assert (whole - parts).norm() <= 1e-5 * whole.norm()
    assert max(g.norm() for g in gradients[0]) > 0
    assert peaks[1] < 0.9 * peaks[0]


def test_the_hypernetwork_recomputed_changes_no_gradient_and_is_not_kept(generator, redness, prompts):
    runs, peaks = [], []
    for setting in (False, "hypernetwork"):
        t = trainer(generator, redness, prompts, gradient_checkpointing=setting, reward_grad_clip=0.01)
        for name, parameter in t.adapter.network.named_parameters():
            if "lora_B" in name:  # so that gradients reach every layer
                torch.nn.init.normal_(parameter, std=0.01, generator=torch.Generator().manual_seed(0))
        saved = SavedMemory()
        with saved():
            next(t.events())
        runs.append([p.grad for p in t.parameters])
        peaks.append(saved.peak)
    for plain, recomputed in zip(*runs, strict=True):
        assert plain.norm() > 0
        assert (plain - recomputed).norm() <= 1e-5 * plain.norm()
    assert peaks[1] < 0.6 * peaks[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gradient_checkpointing": "decoder"}, "'decoder': give true, false or hypernetwork"),
        ({"gradient_checkpointing": "hypernetwork", "train_type": "finetune"}, "finetune trains none: give true"),
    ],
)
def test_what_cannot_be_recomputed_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(**settings)


def test_memory_that_runs_out_gives_advice_and_leaves_the_trainer_whole(generator, redness, prompts, monkeypatch):
    t, other = (trainer(generator, redness, prompts) for _ in range(2))

    def full(*args):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with monkeypatch.context() as patch:
        patch.setattr(t.reward, "judge", full)
        with pytest.raises(
            OutOfMemoryError, match=r"2\.00 GiB.*\(1\) gradient_checkpointing on.*\(2\) micro_batch_size 4 -> 2"
        ):
            next(t.events())
    assert [repr(e) for e in t.events()] == [repr(e) for e in other.events()]


def test_advice_is_three_settings_with_their_values():
    config = TrainingConfig(gradient_checkpointing=True, micro_batch_size=1, height=1024, width=768, batch_size=8)
    lines = out_of_memory_advice(config)
    assert len(lines) == 3
    assert "adamw -> sgd" in lines[0]
    assert "rank 128 -> 64" in lines[1]
    assert "height 1024 -> 768 and width 768 -> 576" in lines[2]
    assert "micro_batch_size 4 -> 2" in out_of_memory_advice(TrainingConfig(batch_size=8), processes=2)[1]


def test_a_bf16_model_trains_float32_weights(redness, prompts):
    t = trainer(
        load_generator("embedded", dtype=torch.bfloat16), redness, prompts, batch_size=2, max_steps=1, ema_decay=0.9
    )
    events = list(t.events())
    assert all(isinstance(event, StepDone) for event in events)
    assert t.generator.denoiser.dtype == torch.bfloat16
    state = [v for own in t.optimizer.state.values() for v in own.values()]
    for tensor in (*t.parameters, *t.average, *state):
        assert tensor.dtype == torch.float32
    assert any(parameter.grad.abs().max() > 0 for parameter in t.parameters)


def test_8_bit_adam_names_its_extra(generator, redness, prompts):
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        with pytest.raises(ValueError, match=r"\[8bit\]"):
            trainer(generator, redness, prompts, optimizer="adamw8bit")
    else:
        pytest.skip("bitsandbytes is here; it needs a GPU to be tested")
