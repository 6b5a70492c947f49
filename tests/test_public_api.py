"""What `hypernoise_core` offers, by name and signature: a change here is a change for whoever uses it.

python tests/test_public_api.py    # prints the table as it would be now
"""

import ast
import inspect
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import hypernoise_core

API = """
FineTunedDenoiser(generator: Generator, rank: int = 128, alpha: float = 256.0, ranks: dict[str, int] | None = None)
FineTunedDenoiser.exported(self, **training) -> tuple[dict[str, Tensor], AdapterInfo]
FineTunedDenoiser.from_config(generator: Generator, config: TrainingConfig) -> Self
FineTunedDenoiser.generate(self, x0: Tensor, conditioning: TensorBatch, steps: int = 1, seed: int | Sequence[int] =
    0, *, between_steps: BetweenSteps = 'fresh') -> Tensor
FineTunedDenoiser.load(generator: Generator, path: str | Path) -> Self
FineTunedDenoiser.named_parameters(self) -> dict[str, Parameter]
FineTunedDenoiser.parameters(self) -> Iterator[Parameter]
FineTunedDenoiser.save(self, path: str | Path, **training) -> None
FineTunedDenoiser.state_dict(self) -> dict[str, Tensor]
Generator()
Generator.adds_noise -> bool
Generator.as_grid(self, tokens: Tensor, height: int, width: int) -> Tensor | None
Generator.check_between_steps(self, between_steps: Literal['fresh', 'keep', 'keep-moved']) -> None
Generator.check_steps(self, steps: int) -> None
Generator.checkpoint_gradients(self, enabled: bool = True) -> None
Generator.clean(self, x0: Tensor, prediction: Tensor) -> Tensor
Generator.decode(self, latents: Tensor) -> Tensor
Generator.denoise(self, x0: Tensor, conditioning: TensorBatch, steps: int, seed: int | Sequence[int], denoiser:
    Module | None = None, between: Tensor | None = None, first: Callable[[Reading], Tensor] | None = None) -> Tensor
Generator.encode(self, prompts: Sequence[str]) -> TensorBatch
Generator.encoding(self) -> AbstractContextManager[None]
Generator.first_call(self, denoiser: Module, x0: Tensor, conditioning: TensorBatch) -> Tensor
Generator.generate(self, x0: Tensor, conditioning: TensorBatch, steps: int = 1, seed: int | Sequence[int] = 0,
    denoiser: Module | None = None, between: Tensor | None = None, first: Callable[[Reading], Tensor] | None = None)
    -> Tensor
Generator.noise(self, batch: int, height: int | None = None, width: int | None = None, seed: int = 0) -> Tensor
Generator.parts(self, latents: Tensor) -> list[slice]
Generator.read(self, x0: Tensor, conditioning: TensorBatch) -> Reading
Generator.size_multiple -> int
Generator.trial_size -> int
HeadHypernetwork(generator: Generator, network: HeadNetwork, info: HeadInfo, critic: CriticNetwork | None = None)
HeadHypernetwork.following(self, x0: Tensor, strength: float = 1.0) -> First
HeadHypernetwork.from_config(generator: Generator, config: TrainingConfig) -> HeadHypernetwork
HeadHypernetwork.load(generator: Generator, path: str | Path) -> HeadHypernetwork
HeadHypernetwork.named_parameters(self) -> dict[str, Parameter]
HeadHypernetwork.new(generator: Generator, width: int = 256, depth: int = 2, reads: str = 'features', iterations:
    int = 1, coarsen: int = 1) -> HeadHypernetwork
HeadHypernetwork.residual(self, x: Tensor, conditioning: TensorBatch, remaining: int | Tensor = 1) -> Tensor
HeadHypernetwork.save(self, path: str | Path, **training) -> None
LoraHypernetwork(generator: Generator, rank: int = 128, alpha: float = 256.0, last_layer: str | None = None, ranks:
    dict[str, int] | None = None, coarsen: int = 1)
LoraHypernetwork.exported(self, **training) -> tuple[dict[str, Tensor], AdapterInfo]
LoraHypernetwork.from_config(generator: Generator, config: TrainingConfig) -> Self
LoraHypernetwork.load(generator: Generator, path: str | Path) -> Self
LoraHypernetwork.named_parameters(self) -> dict[str, Parameter]
LoraHypernetwork.residual(self, x: Tensor, conditioning: TensorBatch, remaining: int | Tensor = 1) -> Tensor
LoraHypernetwork.save(self, path: str | Path, **training) -> None
NoiseHypernetwork()
NoiseHypernetwork.__call__(self, x: Tensor, conditioning: Any, remaining: int | Tensor = 1) -> Tensor
NoiseHypernetwork.following(self, x0: Tensor, strength: float = 1.0) -> First
NoiseHypernetwork.from_config(generator: Generator, config: TrainingConfig) -> Self
NoiseHypernetwork.generate(self, x0: Tensor, conditioning: TensorBatch, steps: int = 1, seed: int | Sequence[int] =
    0, strength: float = 1.0, iterations: int = 1, between_steps: BetweenSteps = 'fresh', free_reading: bool =
    False) -> Tensor
NoiseHypernetwork.load(generator: Generator, path: str | Path) -> Self
NoiseHypernetwork.modulate(self, x0: Tensor, conditioning: Any, strength: float = 1.0, iterations: int = 1, more:
    int = 0) -> Tensor
NoiseHypernetwork.moved(self, x: Tensor, delta: Tensor, x0: Tensor) -> Tensor
NoiseHypernetwork.named_parameters(self) -> dict[str, Parameter]
NoiseHypernetwork.parameters(self) -> Iterator[Parameter]
NoiseHypernetwork.residual(self, x: Tensor, conditioning: Any, remaining: int | Tensor = 1) -> Tensor
NoiseHypernetwork.save(self, path: str | Path, **training) -> None
NoiseHypernetwork.state_dict(self) -> dict[str, Tensor]
Reward()
Reward.checkpoint_gradients(self, enabled: bool = True) -> None
Reward.encode_text(self, prompts: Sequence[str]) -> TensorBatch
Reward.explain(self, images: Tensor, text: TensorBatch) -> list[dict[str, float]]
Reward.score(self, images: Tensor, text: TensorBatch) -> Tensor
Reward.to(self, device: device | str) -> Reward
RewardEnsemble(rewards: Sequence[tuple[Reward, float]], held_out: Sequence[Reward] = (), normalization:
    Normalization | None = None, offload: bool = False, chunk: int | None = None)
RewardEnsemble.checkpoint_gradients(self, enabled: bool = True) -> None
RewardEnsemble.combine(self, scores: Mapping[str, Tensor]) -> Tensor
RewardEnsemble.encode_text(self, prompts: Sequence[str]) -> TensorBatch
RewardEnsemble.explain(self, images: Tensor, text: TensorBatch) -> list[dict[str, float]]
RewardEnsemble.fault(self, images: Tensor, text: TensorBatch) -> str | None
RewardEnsemble.judge(self, images: Tensor, text: TensorBatch) -> tuple[Tensor, dict[str, Tensor]]
RewardEnsemble.score(self, images: Tensor, text: TensorBatch) -> Tensor
RewardEnsemble.scores(self, images: Tensor, text: TensorBatch, names: Iterable[str] | None = None) -> dict[str,
    Tensor]
RewardEnsemble.to(self, device: device | str) -> RewardEnsemble
TensorBatch(tensors: dict[str, Tensor])
TensorBatch.cat(batches: Sequence[TensorBatch]) -> TensorBatch
TensorBatch.repeat(self, times: int) -> TensorBatch
TensorBatch.rows(self, index: slice | Sequence[int] | Tensor) -> TensorBatch
TensorBatch.to(self, device: device | str) -> TensorBatch
Trainer(generator: Generator, reward: RewardEnsemble, prompts: Sequence[str] | PromptMix, config: TrainingConfig,
    validation_prompts: Sequence[str] = (), cache: str | Path | None = None, scored: Sequence[ScoredNoise] = ())
Trainer.averaged(self) -> Iterator[Adapter]
Trainer.diagnose(self) -> dict[str, float]
Trainer.events(self) -> Iterator[WarmStart | StepDone | StepSkipped | Diagnosed | Validated | Notice | EarlyStop]
Trainer.fault(self) -> Message | None
Trainer.finished -> bool
Trainer.has_trained -> bool
Trainer.save(self, path: str | Path, **training) -> None
TrainingConfig(*, train_type: Literal['noise', 'finetune'] = 'noise', hypernetwork: str = 'lora', iterations: int =
    1, coarsen: int = 1, head_width: int = 256, head_depth: int = 2, head_reads: Literal['features', 'prediction'] =
    'features', teacher: Literal['gradient', 'critic'] = 'gradient', critics: int = 2, critic_width: int = 96,
    critic_depth: int = 2, critic_lr: float = 0.001, critic_steps: int = 2, critic_warm_up: int = 4096, replay: int
    = 8192, replay_gib: float = 4.0, score_share: float = 1.0, start_from: str | None = None, distill: str | None =
    None, distill_steps: int = 0, rank: int = 128, alpha: float = 256.0, last_layer: str | None = None, temperature:
    float = 1.0, kl_reduction: Literal['sum', 'mean'] = 'sum', reward_grad_clip: float | None = None,
    white_gradient: bool = False, optimizer: Literal['sgd', 'adam', 'adamw', 'adamw8bit'] = 'adamw', lr: float =
    0.001, weight_decay: float = 0.0, momentum: float = 0.9, beta2: float = 0.999, grad_clip: float = 1.0,
    batch_size: int = 32, accumulation_steps: int = 1, micro_batch_size: int | None = None, max_steps: int = 1000,
    warmup_steps: int = 10, decay_fraction: float = 0.0, ema_decay: float | None = None, steps: int = 1,
    between_steps: Literal['fresh', 'keep', 'keep-moved'] = 'fresh', height: int | None = None, width: int | None =
    None, pictures_per_prompt: int = 1, latent_type: Literal['inf', 'batch', 'multi', 'one'] = 'inf',
    warm_start_pictures: int = 0, gradient_checkpointing: bool | Literal['hypernetwork'] = False, compile: bool =
    False, diagnostics_every: int = 100, validate_every: int = 0, patience: int = 0, diversity_floor: float = 0.0,
    max_skipped: int = 5, seed: int = 0)
best_of_n(generator: Generator, reward: Reward, x0: Tensor, conditioning: TensorBatch, text: TensorBatch, steps: int
    = 1, start: Start | None = None, seed: int | Sequence[int] = 0, between_steps: BetweenSteps = 'fresh') -> Found
load_generator(model: str, device: str = 'cpu', dtype: dtype = torch.float32, *, variant: str | None = None, config:
    str | None = None, quantize: Optional[Literal['int8', 'fp8', 'nf4']] = None, offload: bool = False, vae_slicing:
    bool = False, vae_tiling: bool = False, generator_lora: str | None = None, scheduler: Optional[Literal['lcm',
    'euler', 'ddim-trailing', 'tcd']] = None, shift: float | None = None, text_length: int | None = None) ->
    DiffusersGenerator
load_hypernetwork(generator: Generator, path: str | Path) -> NoiseHypernetwork
load_reward(name: str, weights: str | Path | None = None, **options) -> Reward
reno(generator: Generator, reward: Reward, x0: Tensor, conditioning: TensorBatch, text: TensorBatch, iterations: int
    = 50, **settings) -> Found
"""


def table() -> list[str]:
    """A line for each exported name, and under a class one for each public method and property."""
    lines = []
    for name in hypernoise_core.__all__:
        thing = getattr(hypernoise_core, name)
        lines.append(name + signature(thing))
        if isinstance(thing, type):
            lines += [f"{name}.{method}" for method in methods(thing)]
    return lines


def methods(kind: type) -> list[str]:
    """Those of the class and of what it is derived from in this package; what an exported base has is told there."""
    ours = [base for base in kind.__mro__ if base.__module__.startswith("hypernoise_core")]
    told = [base for base in ours[1:] if base.__name__ in hypernoise_core.__all__]
    names = {name for base in ours for name in vars(base) if name == "__call__" or not name.startswith("_")}
    found = []
    for name in sorted(names):
        member = inspect.getattr_static(kind, name)
        if any(member is inspect.getattr_static(base, name, None) for base in told):
            continue
        if isinstance(member, property):
            found.append(f"{name}{returned(inspect.signature(member.fget))}")
        elif callable(getattr(kind, name)):
            found.append(name + signature(getattr(kind, name)))
    return found


def signature(thing) -> str:
    found = inspect.signature(thing)
    shown = []
    for parameter in found.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in "".join(shown):
            shown.append("*")
        stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        text = stars + parameter.name
        if parameter.annotation is not parameter.empty:
            text += f": {annotation(parameter.annotation)}"
        if parameter.default is not parameter.empty:
            text += f" = {parameter.default!r}"
        shown.append(text)
    return f"({', '.join(shown)}){'' if isinstance(thing, type) else returned(found)}"


def returned(found: inspect.Signature) -> str:
    return "" if found.return_annotation is found.empty else f" -> {annotation(found.return_annotation)}"


def annotation(kind) -> str:
    """As it is written, whether or not it is evaluated, without the modules that names come from."""
    text = kind if isinstance(kind, str) else inspect.formatannotation(kind)
    text = re.sub(r"Union\[(\w+), (Literal\[[^]]*])]", r"\1 | \2", text)  # before Python 3.14
    return re.sub(r"\b(?:[A-Za-z_]\w*\.)+", "", text)


def wrapped(line: str) -> str:
    return textwrap.fill(line, 116, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def test_names_and_signatures_are_these():
    expected = re.sub(r"\n +", " ", API.strip()).splitlines()
    assert table() == expected


def test_type_checkers_and_readers_see_the_names_that_are_loaded():
    tree = ast.parse(Path(hypernoise_core.__file__).read_text("utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    shown = {alias.name: node.module for node in block.body for alias in node.names}
    assert shown == hypernoise_core._HOMES
    assert sorted(shown) == hypernoise_core.__all__ == sorted(set(hypernoise_core.__all__))
    assert set(hypernoise_core.__all__) <= set(dir(hypernoise_core))


def test_importing_it_imports_nothing_heavy():
    code = "import sys, hypernoise_core; assert not {'torch', 'diffusers', 'peft', 'transformers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


if __name__ == "__main__":
    print("\n".join(map(wrapped, table())))
