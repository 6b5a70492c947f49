"""One of two gloo processes (tests/test_processes.py): trains its share and leaves what it saw in a folder."""

from pathlib import Path

import torch
import torch.distributed as dist
from tiny_pipelines import tiny_generator

from hypernoise_core import RewardEnsemble, Trainer, TrainingConfig
from hypernoise_core.rewards.redness import Redness
from hypernoise_core.training import Checkpoints, StepDone, load_trainer_state, trainer_state

SETTINGS = dict(
    batch_size=4, accumulation_steps=2, max_steps=3, warmup_steps=0, lr=1e-2, optimizer="sgd", momentum=0.9,
    diagnostics_every=0, reward_grad_clip=0.05, temperature=0.1,
)  # fmt: skip
KINDS = {
    "lora": dict(rank=4, alpha=8, warm_start_pictures=4),
    "head": dict(hypernetwork="head", head_width=32, head_depth=1, iterations=3, ema_decay=0.9),
}
CRITIC = dict(
    hypernetwork="head", head_width=32, head_depth=1, teacher="critic", critic_width=32, critic_depth=1,
    critic_warm_up=8, replay=32, score_share=0.5, optimizer="adamw", lr=1e-3, iterations=2,
)  # fmt: skip
PROMPTS = ["a photo of a square", "two crosses", "a red triangle", "a blue cross", "three squares"]


def make(generator, kind, **changes) -> Trainer:
    config = TrainingConfig(**{**SETTINGS, **(KINDS | {"critic": CRITIC})[kind], **changes})
    return Trainer(generator, RewardEnsemble([(Redness(), 1.0)]), PROMPTS, config)


def first_step(generator, kind) -> tuple[list[dict], list[torch.Tensor]]:
    """(metrics, gradients) of one step from weights that are not zero, so that gradients reach every layer. Without
    the warm start: what it solves for is ill-conditioned, which makes much of the order of a sum."""
    trainer = make(generator, kind, warm_start_pictures=0)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in trainer.parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.02)
    return train(trainer, steps=1)


def train(trainer: Trainer, steps: int | None = None) -> tuple[list[dict], list[torch.Tensor]]:
    """(metrics of each step, gradients of the last)."""
    metrics = []
    for event in trainer.events():
        if isinstance(event, StepDone):
            metrics.append(event.metrics)
            if trainer.step == steps:
                break
    return metrics, [p.grad.clone() for p in trainer.parameters]


def leave(folder: Path, rank: int, generator, kind: str) -> None:
    """Train one kind and leave what was seen."""
    folder.mkdir(exist_ok=True)
    metrics, gradients = first_step(generator, kind)
    torch.save({"metrics": metrics, "gradients": gradients}, folder / f"first-{rank}.pt")
    first = make(generator, kind)
    train(first, steps=1)
    state = trainer_state(first)
    if rank == 0:
        Checkpoints(folder / "checkpoints").save(state, first.save)
    dist.barrier()
    train(first)
    second = make(generator, kind)
    load_trainer_state(second, Checkpoints(folder / "checkpoints").newest().load())
    metrics, _ = train(second)
    weights = [[p.detach() for p in (*t.parameters, *(t.average or []))] for t in (first, second)]
    torch.save({"metrics": metrics, "weights": weights}, folder / f"resumed-{rank}.pt")


def leave_critic(folder: Path, rank: int, generator) -> None:
    """Train by a critic, each process on its share of the scores, and leave both networks."""
    folder.mkdir(exist_ok=True)
    trainer = make(generator, "critic")
    list(trainer.events())
    told = load_trainer_state(make(generator, "critic"), trainer_state(trainer))
    own = [p.detach() for p in (*trainer.parameters, *trainer.teacher.network.state_dict().values())]
    torch.save(
        {"weights": own, "added": trainer.teacher.replay.added, "told": list(map(str, told))}, folder / f"{rank}.pt"
    )


def main(folder: Path, rank: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    generator = tiny_generator("sana-sprint")
    for kind in KINDS:
        leave(folder / kind, rank, generator, kind)
    leave_critic(folder / "critic", rank, generator)
    dist.destroy_process_group()
