"""The arguments of `python -m train`, flat, with the reference implementation's names where it has one."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

from hypernoise_core.generators import SHORT_NAMES
from hypernoise_core.noise import BetweenSteps
from hypernoise_core.prompt_sets import PromptMix
from hypernoise_core.rewards import RewardEnsemble
from hypernoise_core.settings import about, require
from hypernoise_core.training import TrainingConfig

from .cli import check_folders
from .launch import Tracker, check_installed
from .model import ModelArguments
from .prompts import NAMES, load_mix
from .rewards import RewardArguments

RECIPES = Path(__file__).parent / "recipes"
"""YAML files with arguments of `python -m train`."""

SWITCHES = {"hps": "hpsv2", "imagereward": "imagereward", "clip": "clip", "pickscore": "pickscore", "red": "redness"}
"""The reference's `--enable_…` and `…_weighting` to the rewards that they are about."""


@dataclass(kw_only=True)
class TrainArguments(ModelArguments, RewardArguments):
    """Train a HyperNoise LoRA, or fine-tune the generator itself for comparison."""

    CALLED: ClassVar = {
        **ModelArguments.CALLED,
        **RewardArguments.CALLED,
        "rank": "--lora_rank",
        "alpha": "--lora_rank x --alpha_multiplier",
        "last_layer": "--last_layer_name",
        "optimizer": "--optim",
        "gradient_checkpointing": "--use_checkpoint",
        "normalization": "--reward_normalization",
        "denoiser_sha256": "the denoiser of --model",
    }

    model: str = "embedded"
    """Folder saved by diffusers, hub id, single file (with --pipeline), or a short name: embedded, sana, sana-1.6b,
    sd-turbo, sdxl-turbo, flux."""
    task: str | None = None
    """Named prompt set: embedded (the default for that model), example-prompts, geneval, pickapic, all,
    t2i-compbench, abc-6k; give the folder with their published files by --prompts_dir."""
    prompts: str | None = None
    """Instead of a task: files (.txt with one prompt a line, .json, .jsonl, .csv, .tsv, .parquet), tasks and hub
    datasets, mixed with weights: `a.txt`, `mine.csv#caption=2,geneval,hub:owner/name@train#prompt=0.5`."""
    prompts_dir: str | None = None
    """Folder with the published files of tasks, at any depth."""
    validation_prompts: str | None = None
    """What --validate_every measures, given as --prompts is; the embedded model has its own."""
    drop_duplicates: bool = False
    """Remove prompts that are there twice, and those that are among the validation prompts; they are counted anyway."""
    cache_dir: str | None = None
    """Folder to keep encoded prompts in, for other runs and where memory cannot hold them (FLUX: 4 MB a prompt)."""
    rewards: str | None = None
    """Rewards, such as `hpsv2,imagereward,clip,pickscore` (the paper's, at its weights) or
    `redness=100,my_rewards:Brightness=0.5`; your own is module:Class. The --enable_* switches below add to them."""
    held_out: str | None = None
    """Rewards that are measured (held_out/… among the metrics) and never trained on, such as `pickscore,aesthetic`:
    where one falls while the others rise, they are being exploited. Validation goes by them."""
    reward_normalization: Literal["none", "reference", "running"] = "none"
    """none: rewards are added as they are. reference: minus the reference implementation's offsets. running: each is
    standardised by what training has seen of it, so that weights compare."""
    train_type: Literal["noise", "finetune"] = "noise"
    """noise: a noise hypernetwork. finetune: a LoRA in the generator itself, which over-optimises."""

    save_dir: str | None = None
    """Folder for all that the run writes; must be new or empty. Default: outputs/train-<date and time>."""
    resume: str | None = None
    """Go on from a checkpoint, bit for bit: a run's folder, one of its checkpoints, or `auto` for the newest in
    --save_dir, from nothing where there is none yet (for jobs that are started again). The run's own settings stand
    behind the line; what differs is reported, and refused where it cannot be changed."""
    seed: int = 0
    """Of weights, prompts' order and noise; a run repeats with it."""
    device: str = "cpu"
    """Where to train, such as cuda; with `accelerate launch -m train …` each process takes its own."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the frozen model. LoRA weights, KL and rewards' sums are float32 all the same. Take bfloat16 on a GPU."""
    threads: int = 1
    """CPU threads. Two processes with many threads each slow one another down badly."""

    lr: float = 1e-3
    """Learning rate. Where reward/… stays flat try 3x, where kl explodes a third."""
    optim: Literal["sgd", "adam", "adamw", "adamw8bit"] = "sgd"
    """sgd (momentum 0.9) is the reference's choice for SANA, adamw converges in fewer steps, adamw8bit needs a quarter
    of its memory (extra [8bit])."""
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
    """Pictures of which losses are averaged, over all processes: it means the same on one GPU and on eight."""
    accumulation_steps: int = 1
    """Batches per optimizer step."""
    micro_batch_size: int | None = None
    """Pictures that a process has in memory at a time: reduce to 16, 8, 4 when memory runs out; results stay."""
    pictures_per_prompt: int = 1
    """Pictures of the same prompt in a batch; above 1 for rewards that compare them, such as diversity."""

    hypernetwork: Literal["lora", "head"] = "lora"
    """lora: the paper's, a LoRA in a clone of the denoiser. head: a small network that reads what the frozen denoiser
    makes of the noise; half the cost, any model, and made to be applied again and again (--iterations)."""
    iterations: int = 1
    """Readings that the hypernetwork is trained for: each picture starts after some of them. 5 suits a head."""
    coarsen: int = 1
    """Latent cells along each side that it sees as one. 2 costs a quarter, where the model makes good pictures at half
    its side too."""
    head_width: int = 256
    """Of a head's layers, a multiple of 16."""
    head_depth: int = 2
    """Layers of a head."""
    head_reads: Literal["features", "prediction"] = "features"
    """features: what enters the denoiser's last layer, beside noise and prediction. prediction: these two alone, for
    models that give no features, or to serve another model with the same latents."""
    distill: str | None = None
    """HyperNoise file of any kind, for the same model, that the first --distill_steps steps imitate."""
    distill_steps: int = 0
    """Steps that follow --distill instead of the reward."""

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
    between_steps: BetweenSteps = "fresh"
    """What is added between steps, for samplers that add noise there: fresh noise as the pipelines do; keep, the
    starting noise as it was drawn; keep-moved, as the hypernetwork moved it."""
    height: int | None = None
    """Of training pictures, in pixels; the model's own when not given."""
    width: int | None = None
    """Of training pictures, in pixels; the model's own when not given."""

    warm_start_pictures: int = 0
    """Before the first step, fit the hypernetwork's last layer in closed form to the reward gradients of that many
    pictures: a few thousand save hundreds of steps. 0 starts from zero, as the paper does."""

    use_checkpoint: bool | Literal["hypernetwork"] = False
    """Recompute activations in the backward pass. true: of every layer, a third slower, a fraction of the memory.
    hypernetwork: of the hypernetwork alone, a fifth slower, half of the memory."""
    memsave: bool = False
    """The reference's switch for its memory savings; here the same as --use_checkpoint."""
    enable_modulate_noise: bool = True
    """x0 + f(x0), the only way supported; the reference could also replace x0 by f(x0)."""
    compile: bool = False
    """torch.compile both denoisers: minutes at first; for a GPU, not measured yet. Nothing is gained on a CPU."""
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
    """Steps between measurements of Lipschitz constant, second-order KL, noise statistics and held-out rewards; 0 for
    never."""
    save_every: int = 200
    """Steps between checkpoints in save_dir/checkpoints, each with a usable adapter; the last adapter is
    save_dir/hypernoise.safetensors."""
    keep_checkpoints: int = 2
    """How many of the latest are kept; the one with the best validation is kept besides."""
    validate_every: int = 0
    """Steps between measurements of rewards and diversity on the validation prompts; 0 for never."""
    patience: int = 0
    """Validations without a better score after which the run stops; 0 for never."""
    diversity_floor: float = 0.0
    """Share of the base model's diversity below which the run stops, such as 0.8; 0 for never."""
    trackers: str = "tensorboard"
    """Where numbers go besides metrics.jsonl: tensorboard, wandb, trackio, with commas between; empty for nowhere."""

    def __post_init__(self):
        super().__post_init__()
        counts = ("log_every", "save_every", "keep_checkpoints", "threads", "epochs")
        require(self, counts, lambda v: v >= 1, "at least 1")
        require(self, ("alpha_multiplier",), lambda v: v > 0, "a number above 0")
        require(self, [f"{switch}_weighting" for switch in SWITCHES], lambda v: True, "a finite number")
        check_folders(self, "save_dir", "cache_dir")
        self.training_config(prompt_count=1)  # refuses what the core does not take, before anything is loaded
        if not self.enable_modulate_noise:
            raise ValueError("--enable_modulate_noise is false: leave it out, only x0 + f(x0) is supported")
        if unknown := [name for name in self.tracker_names if name not in get_args(Tracker)]:
            raise ValueError(f"--trackers names {unknown[0]!r}: choose from {', '.join(get_args(Tracker))}")
        for name in self.tracker_names:
            check_installed(name)

    @property
    def tracker_names(self) -> list[str]:
        return [name for part in self.trackers.split(",") if (name := part.strip())]

    def load_prompts(self) -> PromptMix:
        """The prompts to train on.

        Raises:
            ValueError: no such file or task, or nothing in it.
        """
        if self.prompts:
            with about("prompts"):
                return load_mix(self.prompts, self.prompts_dir)
        if self.task and self.task not in NAMES:
            raise ValueError(f"--task is {self.task!r}: choose from {', '.join(NAMES)}, or give --prompts")
        if not self.task and self.model != "embedded":
            raise ValueError(f"--model is {self.model!r}, which has no prompts of its own: give a file by --prompts")
        with about("task"):
            return load_mix(self.task or "embedded", self.prompts_dir)

    def load_validation_prompts(self) -> list[str]:
        """The prompts to validate on, none where it is never done.

        Raises:
            ValueError: as for `load_prompts`.
        """
        if not self.validate_every:
            return []
        source = self.validation_prompts or ("embedded-held-out" if self.model == "embedded" else None)
        if source is None:
            raise ValueError(
                "--validate_every is set: give a file by --validation_prompts, with others than are trained on"
            )
        with about("validation_prompts"):
            return load_mix(source, self.prompts_dir).texts

    def load_rewards(self) -> RewardEnsemble:
        """The weighted rewards."""
        given = {"rewards": self.rewards} if self.rewards else {}
        for switch, reward in SWITCHES.items():
            if getattr(self, f"enable_{switch}"):
                given[f"enable_{switch}"] = f"{reward}={getattr(self, f'{switch}_weighting')}"
        if not given:
            if self.model != "embedded":
                raise ValueError("there is no reward: give --rewards NAME[=WEIGHT],…")
            given = {"rewards": "embedded"}
        with about(*given):
            return self.make_rewards(",".join(given.values()), self.held_out or "", self.reward_normalization)

    def training_config(self, prompt_count: int) -> TrainingConfig:
        """The core's settings, where an epoch is `prompt_count` prompts.

        Raises:
            SettingError: one is out of its range, or does not go with another one.
        """
        per_step = max(1, self.batch_size * self.accumulation_steps)
        return TrainingConfig(
            train_type=self.train_type,
            hypernetwork=self.hypernetwork,
            iterations=self.iterations,
            coarsen=self.coarsen,
            head_width=self.head_width,
            head_depth=self.head_depth,
            head_reads=self.head_reads,
            distill=self.distill,
            distill_steps=self.distill_steps,
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
            pictures_per_prompt=self.pictures_per_prompt,
            max_steps=self.max_steps if self.max_steps is not None else max(1, self.epochs * prompt_count // per_step),
            warmup_steps=self.warmup_steps,
            decay_fraction=self.decay_fraction,
            ema_decay=self.ema_decay,
            steps=self.steps,
            between_steps=self.between_steps,
            height=self.height,
            width=self.width,
            latent_type=self.latent_type,
            warm_start_pictures=self.warm_start_pictures,
            gradient_checkpointing=self.memsave or self.use_checkpoint,
            micro_batch_size=self.micro_batch_size,
            compile=self.compile,
            diagnostics_every=self.diagnostics_every,
            validate_every=self.validate_every,
            patience=self.patience,
            diversity_floor=self.diversity_floor,
            max_skipped=self.max_skipped,
            seed=self.seed,
        )


def default_recipe(model: str) -> str | None:
    """The recipe that stands behind a model's arguments: `recipes/<short name>.yaml`, where there is one."""
    path = RECIPES / f"{model}.yaml"
    return str(path) if model in SHORT_NAMES and path.is_file() else None
