"""The arguments of `python -m train`, flat, with the reference implementation's names where it has one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hypernoise_core.embedded.prompts import prompts as embedded_prompts
from hypernoise_core.generators import SHORT_NAMES
from hypernoise_core.rewards import RewardEnsemble, parse_rewards
from hypernoise_core.training import TrainingConfig

from .model import ModelArguments

RECIPES = Path(__file__).parent / "recipes"
"""YAML files with arguments of `python -m train`."""

REFERENCE_TASKS = ("example-prompts", "geneval", "pickapic", "all")


@dataclass(kw_only=True)
class TrainArguments(ModelArguments):
    """Train a HyperNoise LoRA, or fine-tune the generator itself for comparison."""

    model: str = "embedded"
    """Folder saved by diffusers, hub id, single file (with --pipeline), or a short name: embedded, sana, sana-1.6b,
    sd-turbo, sdxl-turbo, flux."""
    task: str | None = None
    """Named prompt set: embedded (the default for that model). For any other give --prompts."""
    prompts: str | None = None
    """Text file with one prompt a line, instead of a task."""
    rewards: str | None = None
    """Rewards with weights, such as `embedded` or `redness=100,my_rewards:Brightness=0.5`; your own is module:Class.
    The --enable_* switches below add to them."""
    train_type: Literal["noise", "finetune"] = "noise"
    """noise: a noise hypernetwork. finetune: a LoRA in the generator itself, which over-optimises."""

    save_dir: str | None = None
    """Folder for all that the run writes; must be new or empty. Default: outputs/train-<date and time>."""
    seed: int = 0
    """Of weights, prompts' order and noise; a run repeats with it."""
    device: str = "cpu"
    """Where to train, such as cuda."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the frozen model. LoRA weights, KL and rewards' sums are float32 all the same. Take bfloat16 on a GPU."""
    threads: int = 1
    """CPU threads. Two processes with many threads each slow one another down badly."""

    lr: float = 1e-3
    """Learning rate. Where reward/… stays flat try 3x, where kl explodes a third."""
    optim: Literal["sgd", "adam", "adamw"] = "sgd"
    """sgd (momentum 0.9) is the reference's choice for SANA, adamw converges in fewer steps."""
    weight_decay: float = 0.0
    beta2: float = 0.999
    """Of adam and adamw; 0.99 suits runs of a few hundred steps."""
    grad_clip: float = 1.0
    """Largest norm of the whole gradient."""
    warmup_steps: int = 10
    """Steps over which the learning rate rises."""
    decay_fraction: float = 0.0
    """Last part of the run over which the learning rate falls to zero: 0.4 is a good value for short runs."""
    ema_decay: float | None = None
    """Save and show a moving average of the weights: 0.99 for hundreds of steps, 0.999 for thousands."""
    epochs: int = 50
    """Passes over the prompts, unless --max_steps is given."""
    max_steps: int | None = None
    """Optimizer steps; wins over --epochs."""
    batch_size: int = 32
    """Pictures per forward pass; reduce to 16, 8, 4 when memory runs out and raise --accumulation_steps by the same."""
    accumulation_steps: int = 1
    """Forward passes per optimizer step."""

    lora_rank: int = 128
    """Rank of every LoRA factor; the paper finds 64 nearly as good and less than 16 too little."""
    alpha_multiplier: float = 2.0
    """LoRA alpha as a multiple of the rank."""
    last_layer_name: str | None = None
    """The denoiser's output layer (proj_out for SANA, conv_out for SD-Turbo); found by running it when not given."""

    temperature: float = 1.0
    """α of L = KL - r/α. Smaller follows the reward further: halve it until kl reaches a few nats."""
    kl_reduction: Literal["sum", "mean"] = "sum"
    """sum: the paper's KL in nats. mean: the reference implementation's, weaker by the number of latent values."""
    reward_grad_clip: float | None = None
    """Largest gradient of r/α per picture, at the modulated noise. Set it so that `clipped` stays near 0.5."""
    latent_type: Literal["inf", "batch", "multi", "one"] = "inf"
    """Noises per optimizer step: inf, a fresh one for every picture; batch, one fresh one for all; multi, the same
    batch always; one, the same single noise always."""
    steps: int = 1
    """Denoiser calls per picture while training; one-step training carries over to 2 and 4 steps."""
    height: int | None = None
    """Of training pictures, in pixels; the model's own when not given."""
    width: int | None = None
    """Of training pictures, in pixels; the model's own when not given."""

    warm_start_pictures: int = 0
    """Before the first step, fit the hypernetwork's last layer in closed form to the reward gradients of that many
    pictures: a few thousand save hundreds of steps. 0 starts from zero, as the paper does."""

    use_checkpoint: bool = False
    """Recompute activations in the backward pass: a third slower, a fraction of the memory."""
    memsave: bool = False
    """The reference's switch for its memory savings; here the same as --use_checkpoint."""
    enable_modulate_noise: bool = True
    """x0 + f(x0), the only way supported; the reference could also replace x0 by f(x0)."""
    max_skipped: int = 5
    """Non-finite steps in a row after which the run stops and names the reward at fault."""

    enable_hps: bool = False
    hps_weighting: float = 5.0
    enable_imagereward: bool = False
    imagereward_weighting: float = 1.0
    enable_clip: bool = False
    clip_weighting: float = 0.01
    enable_pickscore: bool = False
    pickscore_weighting: float = 0.05
    enable_red: bool = False
    """The redness reward."""
    red_weighting: float = 1.0

    log_every: int = 20
    """Steps between sample grids and console lines."""
    diagnostics_every: int = 50
    """Steps between measurements of Lipschitz constant, second-order KL and noise statistics; 0 for never."""
    save_every: int = 200
    """Steps between saves of the adapter into save_dir/checkpoints; the last is save_dir/hypernoise.safetensors."""

    def __post_init__(self):
        for name in ("log_every", "save_every", "threads", "epochs"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if not self.enable_modulate_noise:
            raise ValueError("enable_modulate_noise is false; only x0 + f(x0) is supported: leave it out")
        if self.save_dir and Path(self.save_dir).exists() and any(Path(self.save_dir).iterdir()):
            raise ValueError(f"save_dir {self.save_dir} is not empty: give a new folder")

    def load_prompts(self) -> list[str]:
        """The prompts to train on.

        Raises:
            ValueError: no such file or task, or nothing in it.
        """
        if self.prompts:
            return read_prompts(self.prompts)
        task = self.task or self.model
        if task == "embedded":
            return [prompt.text for prompt in embedded_prompts(held_out=False)]
        if task in REFERENCE_TASKS:
            raise ValueError(f"task {task!r} has prompts that are not shipped: pass their file by --prompts FILE")
        if self.task is None:
            raise ValueError(f"no prompts for model {self.model!r}: pass a file by --prompts FILE")
        raise ValueError(
            f"unknown task {task!r}: choose from embedded, {', '.join(REFERENCE_TASKS)}, or pass --prompts"
        )

    def load_rewards(self) -> RewardEnsemble:
        """The weighted rewards."""
        names = [self.rewards] if self.rewards else []
        switches = {
            "hps": "hpsv2",
            "imagereward": "imagereward",
            "clip": "clip",
            "pickscore": "pickscore",
            "red": "redness",
        }
        for switch, reward in switches.items():
            if getattr(self, f"enable_{switch}"):
                names.append(f"{reward}={getattr(self, f'{switch}_weighting')}")
        if not names:
            if self.model != "embedded":
                raise ValueError("no reward: pass --rewards NAME[=WEIGHT],…")
            names = ["embedded"]
        return parse_rewards(",".join(names))

    def training_config(self, prompt_count: int) -> TrainingConfig:
        per_step = self.batch_size * self.accumulation_steps
        return TrainingConfig(
            train_type=self.train_type,
            rank=self.lora_rank,
            alpha=self.lora_rank * self.alpha_multiplier,
            last_layer=self.last_layer_name,
            temperature=self.temperature,
            kl_reduction=self.kl_reduction,
            reward_grad_clip=self.reward_grad_clip,
            optimizer=self.optim,
            lr=self.lr,
            weight_decay=self.weight_decay,
            beta2=self.beta2,
            grad_clip=self.grad_clip,
            batch_size=self.batch_size,
            accumulation_steps=self.accumulation_steps,
            max_steps=self.max_steps if self.max_steps is not None else max(1, self.epochs * prompt_count // per_step),
            warmup_steps=self.warmup_steps,
            decay_fraction=self.decay_fraction,
            ema_decay=self.ema_decay,
            steps=self.steps,
            height=self.height,
            width=self.width,
            latent_type=self.latent_type,
            warm_start_pictures=self.warm_start_pictures,
            gradient_checkpointing=self.use_checkpoint or self.memsave,
            diagnostics_every=self.diagnostics_every,
            max_skipped=self.max_skipped,
            seed=self.seed,
        )


def read_prompts(path: str) -> list[str]:
    """The non-empty lines of a UTF-8 text file.

    Raises:
        ValueError: no such file, not text, or empty.
    """
    try:
        lines = [line.strip() for line in Path(path).read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(
            f"prompts file {path} cannot be read ({error}): give a UTF-8 text file, one prompt a line"
        ) from error
    if not any(lines):
        raise ValueError(f"prompts file {path} is empty: write one prompt a line")
    return [line for line in lines if line]


def default_recipe(model: str) -> str | None:
    """The recipe that stands behind a model's arguments: `recipes/<short name>.yaml`, where there is one."""
    path = RECIPES / f"{model}.yaml"
    return str(path) if model in SHORT_NAMES and path.is_file() else None
