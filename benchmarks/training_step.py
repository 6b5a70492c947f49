"""Compare one training step with the reference implementation's order of work, on the same pipeline, noise and prompts.

python -m benchmarks.training_step                       # the embedded SANA-Sprint pipeline, batch 16
python -m benchmarks.training_step --rewards embedded,redness=0.1 --batch_size 8 --repeats 10

The baseline does the reference's work in the reference's order. It encodes prompts and reward text at every step and
keeps their padding to 300 tokens. One denoiser has its LoRA layers switched on for f and off for the generator. The
last layer's base output is computed and dropped. Gradients are checked parameter by parameter and clipped twice, and
every reward is read back separately. Its gradients are compared with the trainer's, to show that both do the same work.
The trainer's rows take the same batch in one optimizer step with different memory settings; none of them changes a
gradient.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor

from hypernoise_core import Reward, TensorBatch, Trainer, TrainingConfig, load_generator
from hypernoise_core.embedded.prompts import prompts as embedded_prompts
from hypernoise_core.hypernetworks.lora_clone import ADAPTER, add_lora, lora_parameters, shared_clone
from hypernoise_core.layers import target_names
from hypernoise_core.rewards import parse_rewards
from hypernoise_core.rewards.clip import ClipReward
from hypernoise_core.training.order import PromptOrder

VARIANTS = {
    "trainer": {},
    "  f recomputed": {"gradient_checkpointing": "hypernetwork"},
    "  two micro-batches": {"micro_batches": 2},
    "  two, f recomputed": {"micro_batches": 2, "gradient_checkpointing": "hypernetwork"},
    "  all recomputed": {"gradient_checkpointing": True},
}
"""The trainer's rows and their settings, as `configured` takes them."""


class ReferenceStep:
    """The reference's arithmetic on one denoiser."""

    def __init__(self, generator, reward, prompts: list[str], trainer: Trainer):
        self.generator, self.reward, self.prompts, self.config = generator, reward, prompts, trainer.config
        self.denoiser = shared_clone(generator.denoiser)
        rank, names = self.config.rank, target_names(generator.denoiser)
        add_lora(self.denoiser, dict.fromkeys(names, rank), self.config.alpha / rank, rank)
        self.lora = lora_parameters(self.denoiser)
        self.last = self.denoiser.get_submodule(trainer.adapter.last_layer)
        with torch.no_grad():
            for mine, theirs in zip(self.lora.values(), trainer.parameters, strict=True):
                mine.copy_(theirs)
        self.optimizer = torch.optim.SGD(self.lora.values(), lr=trainer.config.lr, momentum=trainer.config.momentum)

    def __call__(self, rows: list[int], x0: Tensor, part: Callable) -> None:
        config, texts = self.config, [self.prompts[i] for i in rows]
        with part("text, each step"):
            encoded = self.generator.pipeline.encode_prompt(texts, complex_human_instruction=None)
            conditioning = TensorBatch(dict(zip(("embeds", "mask"), encoded, strict=True)))
            text = {name: self._encode(one, texts) for name, one in self.reward.rewards.items()}
        with part("forward of f"):
            self._switch(True)
            forward = self.last.forward
            self.last.forward = self._lora_branch
            delta = self.generator.first_call(self.denoiser, x0, conditioning)
            self.last.forward = forward
        with part("forward of generator"):
            self._switch(False)
            images = self.generator.generate(x0 + delta, conditioning, config.steps, denoiser=self.denoiser)
        with part("rewards"):
            scores = {name: one.score(images, text[name]) for name, one in self.reward.rewards.items()}
            for score in scores.values():
                score.mean().item()
            kl = 0.5 * delta.square().flatten(1).sum(1)
            loss = (kl - self.reward.combine(scores) / config.temperature).mean()
        with part("backward"):
            self.optimizer.zero_grad()
            loss.backward()
        with part("clip and optimizer"):
            assert not any(bool(p.grad.isnan().any()) for p in self.lora.values() if p.grad is not None)
            torch.nn.utils.clip_grad_norm_(self.lora.values(), config.grad_clip)
            torch.nn.utils.clip_grad_norm_(self.lora.values(), config.grad_clip)
            self.optimizer.step()

    def _encode(self, reward: Reward, texts: list[str]) -> TensorBatch:
        if isinstance(reward, ClipReward):
            reward.backbone._caches.clear()  # ours remembers
        return reward.encode_text(texts)

    def _switch(self, on: bool) -> None:
        for module in self.denoiser.modules():
            if isinstance(module, LoraLayer):
                module._disable_adapters = not on

    def _lora_branch(self, x: Tensor) -> Tensor:
        layer = self.last
        layer.get_base_layer()(x)  # computed and dropped
        return layer.lora_B[ADAPTER](layer.lora_A[ADAPTER](x)) * layer.scaling[ADAPTER]


class Clock:
    """Seconds of this process's CPU time by part of a step: other work on the machine does not count."""

    def __init__(self):
        self.seconds: dict[str, list[float]] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        begun = time.process_time()
        yield
        self.seconds.setdefault(name, []).append(time.process_time() - begun)


class _Saved:
    """A tensor that autograd keeps, counted while it does."""

    def __init__(self, tensor: Tensor, memory: "SavedMemory"):
        self.tensor, self.memory = tensor, memory
        memory.take(tensor)

    def __del__(self):
        self.memory.give(self.tensor)


class SavedMemory:
    """The most bytes that autograd has kept for backward passes at a time: each storage once, parameters left out."""

    def __init__(self):
        self.peak = self.now = 0
        self._uses: dict[int, int] = {}

    @contextmanager
    def __call__(self) -> Iterator[None]:
        def pack(tensor: Tensor):
            return tensor if isinstance(tensor, torch.nn.Parameter) else _Saved(tensor, self)

        def unpack(saved) -> Tensor:
            return saved.tensor if isinstance(saved, _Saved) else saved

        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            yield

    def take(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        uses = self._uses[storage.data_ptr()] = self._uses.get(storage.data_ptr(), 0) + 1
        self.now += storage.nbytes() if uses == 1 else 0
        self.peak = max(self.peak, self.now)

    def give(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._uses[storage.data_ptr()] -= 1
        self.now -= storage.nbytes() if self._uses[storage.data_ptr()] == 0 else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rewards", default="embedded")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    generator, reward = load_generator("embedded"), parse_rewards(args.rewards)
    prompts = [prompt.text for prompt in embedded_prompts(held_out=False)]
    config = TrainingConfig(
        rank=args.rank,
        alpha=2 * args.rank,
        optimizer="sgd",
        lr=1e-3,
        warmup_steps=0,
        batch_size=args.batch_size,
        max_steps=10**6,
        diagnostics_every=0,
    )
    trainer = Trainer(generator, reward, prompts, config)
    for name, parameter in lora_parameters(trainer.adapter.network).items():
        if ".lora_B." in name:  # as if trained a little, so that gradients reach every layer
            torch.nn.init.normal_(parameter, std=0.01)
    reference = ReferenceStep(generator, reward, prompts, trainer)
    compare_gradients(trainer, reference)
    memory = {name: SavedMemory() for name in ("reference", *VARIANTS)}
    clock = Clock()
    for repeat in range(args.repeats + 1):
        if repeat == 1:
            clock.seconds.clear()
        rows, x0 = trainer.order.next(args.batch_size), generator.noise(args.batch_size, seed=repeat)
        for name, settings in [("reference", {}), *VARIANTS.items()]:
            # The first round warms up and counts memory, which takes time of its own.
            with memory[name]() if repeat == 0 else nullcontext(), configured(trainer, **settings), clock(name):
                if name == "reference":
                    reference(rows, x0, clock)
                else:
                    trainer._next_event()
    report(clock, memory)


@contextmanager
def configured(trainer: Trainer, micro_batches: int = 1, gradient_checkpointing: bool | str = False) -> Iterator[None]:
    """The same trainer with other settings."""
    trainer.config.micro_batch_size = -(-trainer.config.batch_size // micro_batches)
    trainer.config.gradient_checkpointing = gradient_checkpointing
    layers = gradient_checkpointing is True
    trainer.generator.checkpoint_gradients(layers)
    if layers:
        trainer.adapter.network.enable_gradient_checkpointing()
    yield
    trainer.generator.checkpoint_gradients(False)
    trainer.adapter.network.disable_gradient_checkpointing()


def compare_gradients(trainer: Trainer, reference: ReferenceStep) -> None:
    """The first step of both from the same rows and noise."""
    random = torch.Generator().set_state(trainer.random.get_state())
    seed = int(torch.randint(2**62, (), generator=random))
    rows = PromptOrder(trainer.prompts.sizes, trainer.prompts.weights, random).next(trainer.config.batch_size)
    x0 = trainer.generator.noise(len(rows), seed=seed)
    trainer._next_event()
    reference(rows, x0, Clock())
    pairs = list(zip(trainer.parameters, reference.lora.values(), strict=True))
    worst = max(float((a.grad - b.grad).norm() / b.grad.norm().clamp_min(1e-12)) for a, b in pairs)
    print(f"gradients of the two differ by at most {worst:.1e} of a parameter's norm")


def report(clock: Clock, memory: dict[str, SavedMemory]) -> None:
    medians = {name: statistics.median(values) for name, values in clock.seconds.items()}
    print("\nthe reference's step by part:")
    for name, seconds in medians.items():
        if name not in memory:
            print(f"  {name:24} {1000 * seconds:8.1f} ms  {seconds / medians['reference']:6.1%}")
    print(f"\n{'':26}{'ms a step':>10}{'faster':>10}{'kept MB':>10}{'ratio':>8}")
    for name in memory:
        faster, ratio = medians["reference"] / medians[name], memory[name].peak / memory["reference"].peak
        print(f"{name:26}{1000 * medians[name]:10.1f}{faster:9.2f}x{memory[name].peak / 2**20:10.1f}{ratio:8.2f}")


if __name__ == "__main__":
    main()
