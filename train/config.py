"""The arguments of `python -m train`, flat, with the reference implementation's names where it has one."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, get_args

from hypernoise_core.generators import SHORT_NAMES, Generator
from hypernoise_core.noise import BetweenSteps
from hypernoise_core.prompt_sets import PromptMix
from hypernoise_core.rewards import RewardEnsemble
from hypernoise_core.rewards.given import GivenScores
from hypernoise_core.settings import about, require
from hypernoise_core.training import ScoredNoise, TrainingConfig
from hypernoise_core.training.scores_file import read_scores

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
        "start_sha256": "the file of --start_from",
        "distill_sha256": "the file of --distill",
        "denoiser_sha256": "the denoiser of --model",
    }
    MAY_BE_EMPTY: ClassVar = ("trackers",)

    model: str = "embedded"
    """Folder saved by diffusers, Hugging Face id, denoiser alone (with --pipeline), or a short name: embedded, sana,
    sana-1.6b, sd-turbo, sdxl-turbo, flux, z-image-turbo, flux2-klein-4b, krea2-turbo, qwen-image, sd3.5-turbo."""
    task: str | None = None
    """Named prompt set: embedded (the default for that model), example-prompts, geneval, pickapic, all, t2i-compbench,
    abc-6k. Pass the folder with its published files as --prompts_dir."""
    prompts: str | None = None
    """Use this instead of --task: files (.txt with one prompt per line, .json, .jsonl, .csv, .tsv, .parquet), tasks and
    Hugging Face datasets, mixed with weights: `a.txt`, `mine.csv#caption=2,geneval,hub:owner/name@train#prompt=0.5`."""
    prompts_dir: str | None = None
    """Folder with the published files of tasks, at any depth."""
    validation_prompts: str | None = None
    """The prompts for --validate_every, in the format of --prompts. The embedded model has its own."""
    drop_duplicates: bool = False
    """Remove prompts that occur more than once or are also validation prompts. Without it they are only counted."""
    cache_dir: str | None = None
    """Folder that keeps encoded prompts, for other runs and for prompts that do not fit into memory (FLUX: 4 MB per
    prompt)."""
    rewards: str | None = None
    """Rewards to train on, such as `hpsv2,imagereward,clip,pickscore` (the paper's, with its weights) or
    `redness=100,my_rewards:Brightness=0.5`. Your own is module:Class. The --enable_* switches below add to them."""
    held_out: str | None = None
    """Rewards that are measured (metrics held_out/…) but never trained on, such as `pickscore,aesthetic`. If one falls
    while the others rise, training is exploiting the others. Validation uses these rewards for its score."""
    reward_normalization: Literal["none", "reference", "running"] = "none"
    """none: add rewards unchanged. reference: subtract the reference implementation's offsets. running: standardise
    each reward by the scores seen in training, so that weights are comparable."""
    train_type: Literal["noise", "finetune"] = "noise"
    """noise: train a noise hypernetwork. finetune: train a LoRA in the generator itself, which over-optimises."""

    save_dir: str | None = None
    """Folder for everything that the run writes; must be new or empty. Default: outputs/train-<date and time>."""
    resume: str | None = None
    """Resume from a checkpoint, bit for bit. Pass a run's folder, one of its checkpoints, or `auto`, which takes the
    newest checkpoint in --save_dir and starts from zero if there is none (for jobs that restart). The run's own
    settings apply unless you override them; changes are reported, or refused if they are not possible."""
    seed: int = 0
    """Seed of the weights, the prompt order and the noise. A run with the same seed gives the same result."""
    device: str = "cpu"
    """Device to train on, such as cuda. With `accelerate launch -m train …` each process takes its own."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """dtype of the frozen model. LoRA weights, the KL and reward sums stay float32. Use bfloat16 on a GPU; float16 is
    refused, because small gradients vanish there."""
    estimate: bool = False
    """Print how much memory the run would need, and what other settings would save. Nothing is loaded, downloaded or
    written: a step is taken on tensors without data."""
    fit: bool = False
    """Choose settings that make the run fit into the GPU's free memory, those that cost least time first, and say
    which. Without it, a run that does not fit is refused before it starts."""
    threads: int = 1
    """CPU threads. Two processes with many threads each slow each other down badly."""

    lr: float = 1e-3
    """Learning rate. If reward/… stays flat, try 3 times as much. If kl explodes, try a third."""
    optim: Literal["sgd", "adam", "adamw", "adamw8bit"] = "sgd"
    """sgd (momentum 0.9) is the reference's choice for SANA. adamw converges in fewer steps. adamw8bit needs a quarter
    of adamw's memory (extra [8bit])."""
    weight_decay: float = 0.0
    beta2: float = 0.999
    """beta2 of adam and adamw. 0.99 suits runs of a few hundred steps."""
    grad_clip: float = 1.0
    """Largest norm of the whole gradient; a larger one is scaled down."""
    warmup_steps: int = 10
    """Number of steps at the start over which the learning rate rises."""
    decay_fraction: float = 0.0
    """Fraction of the run at its end over which the learning rate falls to zero. 0.4 suits short runs."""
    ema_decay: float | None = None
    """Save and show a moving average of the weights with this decay: 0.99 for hundreds of steps, 0.999 for
    thousands."""
    epochs: int = 50
    """Passes over the prompts, if --max_steps is not given."""
    max_steps: int | None = None
    """Optimizer steps. Overrides --epochs."""
    batch_size: int = 32
    """Images per batch, counted over all processes: it means the same on one GPU and on eight."""
    accumulation_steps: int = 1
    """Batches per optimizer step."""
    micro_batch_size: int | None = None
    """Images that a process has in memory at a time. Reduce to 16, 8, 4 if memory runs out; the result stays the
    same."""
    pictures_per_prompt: int = 1
    """Images of the same prompt in a batch. Use more than 1 for rewards that compare them, such as diversity."""

    hypernetwork: Literal["lora", "head"] = "lora"
    """lora: the paper's LoRA in a clone of the denoiser. head: a small network that reads the frozen denoiser's output
    for the noise. A head costs half as much, works with any model, and is made to be applied repeatedly
    (--iterations)."""
    iterations: int = 1
    """How many times the hypernetwork will be applied. Training starts each image after some of these iterations. 5
    suits a head."""
    coarsen: int = 1
    """Latent cells along each side that the hypernetwork sees as one. 2 costs a quarter; use it if the model also makes
    good images at half its side."""
    head_width: int = 256
    """Width of a head's layers; a multiple of 16."""
    head_depth: int = 2
    """Number of layers of a head."""
    head_reads: Literal["features", "prediction"] = "features"
    """features: a head reads what enters the denoiser's last layer, besides noise and prediction. prediction: only
    noise and prediction, for models without features, or to use the head with another model that has the same
    latents."""
    teacher: Literal["gradient", "critic"] = "gradient"
    """Where the gradient comes from that the hypernetwork follows. gradient: the paper's, through reward, decoder and
    every step. critic: from a small network that learns the reward from its scores. A reward needs no gradient then,
    and a step takes a fraction of the memory."""
    critics: int = 2
    """Networks of a critic, which learn the same from different weights."""
    critic_width: int = 96
    """Width of a critic's layers; a multiple of 16."""
    critic_depth: int = 2
    """Number of layers of a critic."""
    critic_lr: float = 1e-3
    """Learning rate of a critic."""
    critic_steps: int = 2
    """Steps of a critic for every step of the hypernetwork."""
    critic_warm_up: int = 4096
    """Images that a critic learns from before the hypernetwork begins to move."""
    replay: int = 8192
    """Scored images that a critic goes on learning from; the newest ones."""
    replay_gib: float = 4.0
    """Most CPU memory that these may take, in GiB. Checkpoints hold them up to 1 GiB; otherwise a resumed run scores
    --critic_warm_up images again first."""
    score_share: float | None = None
    """Share of each batch's images that are drawn and scored, for a critic. 0.25 saves three quarters of decoding and
    rewards. 0 leaves it to --scores alone. Default: 1; with --scores and without --rewards 0."""
    scores: str | None = None
    """Scores that exist already, for a critic to learn from before the first step: a .jsonl file with prompt, seed and
    score in each line, such as a person's thumbs. The noises are read again. Without --rewards nothing else is
    scored."""
    start_from: str | None = None
    """HyperNoise file of the same kind and shape whose weights training goes on from. With --max_steps 0 it gets a
    critic and stays as it is."""
    distill: str | None = None
    """HyperNoise file of any kind, for the same model, that the first --distill_steps steps imitate."""
    distill_steps: int = 0
    """Number of steps that imitate --distill instead of following the reward."""

    lora_rank: int = 128
    """Rank of every LoRA factor. In the paper 64 is nearly as good, and less than 16 is too little."""
    alpha_multiplier: float = 2.0
    """LoRA alpha as a multiple of the rank."""
    last_layer_name: str | None = None
    """The denoiser's output layer (proj_out for SANA, conv_out for SD-Turbo). By default it is found by running the
    denoiser."""

    temperature: float = 1.0
    """α of L = KL - r/α. Smaller values follow the reward further. Halve it until kl reaches a few nats."""
    kl_reduction: Literal["sum", "mean"] = "sum"
    """sum: the paper's KL in nats. mean: the reference implementation's, weaker by the number of latent values."""
    reward_grad_clip: float | None = None
    """Largest gradient of r/α per image, at the modulated noise. Set it so that `clipped` stays near 0.5."""
    white_gradient: bool = False
    """Bring the reward's gradient at the modulated noise onto what white noise looks like, so that smooth changes and a
    few large ones, which rewards overrate, count less."""
    latent_type: Literal["inf", "batch", "multi", "one"] = "inf"
    """Noise for each optimizer step. inf: a new one for every image. batch: one new one for all images. multi: always
    the same batch of noises. one: always the same single noise."""
    steps: int = 1
    """Denoiser calls per image during training. One-step training carries over to 2 and 4 steps. Take 4 or 8 for models
    that were distilled for so many."""
    between_steps: BetweenSteps = "fresh"
    """What samplers that add noise between steps add. fresh: new noise, as the pipelines do. keep: the starting noise
    as drawn. keep-moved: the starting noise as the hypernetwork moved it."""
    height: int | None = None
    """Height of the training images, in pixels. Default: the model's own size."""
    width: int | None = None
    """Width of the training images, in pixels. Default: the model's own size."""

    warm_start_pictures: int = 0
    """Fit the hypernetwork's last layer in closed form to the reward gradients of this many images, before the first
    step. A few thousand images save hundreds of steps. 0 starts from zero, as in the paper."""

    use_checkpoint: bool | Literal["hypernetwork"] = False
    """Recompute activations in the backward pass to save memory. true: in every layer, a third slower, a fraction of
    the memory. hypernetwork: only in the hypernetwork, a fifth slower, half of the memory."""
    memsave: bool = False
    """The reference's switch for its memory savings. Here it does the same as --use_checkpoint."""
    enable_modulate_noise: bool = True
    """Use x0 + f(x0). It must be true; the reference could also replace x0 by f(x0)."""
    compile: bool = False
    """torch.compile both denoisers. It takes minutes at the start. Not measured on a GPU yet; on a CPU it gains
    nothing."""
    max_skipped: int = 5
    """Number of non-finite steps in a row after which the run stops and names the reward that caused them."""

    enable_hps: bool = False
    hps_weighting: float = 5.0
    enable_imagereward: bool = False
    imagereward_weighting: float = 1.0
    enable_clip: bool = False
    clip_weighting: float = 0.01
    enable_pickscore: bool = False
    pickscore_weighting: float = 0.05
    enable_red: bool = False
    """Add the redness reward."""
    red_weighting: float = 1.0

    log_every: int = 20
    """Steps between sample grids and console lines."""
    diagnostics_every: int = 50
    """Steps between measurements of the Lipschitz constant, second-order KL, noise statistics and held-out rewards; 0
    for never."""
    save_every: int = 200
    """Steps between checkpoints in save_dir/checkpoints. Each holds a usable adapter; the last adapter is
    save_dir/hypernoise.safetensors."""
    keep_checkpoints: int = 2
    """How many of the latest checkpoints to keep. The one with the best validation is kept in addition."""
    validate_every: int = 0
    """Steps between measurements of rewards and diversity on the validation prompts; 0 for never."""
    patience: int = 0
    """Stop the run after this many validations without a better score; 0 for never."""
    diversity_floor: float = 0.0
    """Stop the run when diversity falls below this share of the base model's, such as 0.8; 0 for never."""
    trackers: str = "tensorboard"
    """Where metrics go besides metrics.jsonl: tensorboard, wandb, trackio, separated by commas; empty for nowhere."""

    def __post_init__(self):
        super().__post_init__()
        counts = ("log_every", "save_every", "keep_checkpoints", "threads", "epochs")
        require(self, counts, lambda v: v >= 1, "at least 1")
        require(self, ("alpha_multiplier",), lambda v: v > 0, "a number above 0")
        require(self, [f"{switch}_weighting" for switch in SWITCHES], lambda v: True, "a finite number")
        check_folders(self, "save_dir", "cache_dir")
        self.training_config(prompt_count=1)  # refuses what the core does not take, before anything is loaded
        if self.dtype == "float16":
            raise ValueError("--dtype is float16, where small gradients vanish: train with bfloat16")
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
            ValueError: no such file or task, or no prompts in it.
        """
        if self.prompts:
            with about("prompts"):
                return load_mix(self.prompts, self.prompts_dir)
        if self.task and self.task not in NAMES:
            raise ValueError(f"--task is {self.task!r}: choose from {', '.join(NAMES)}, or give --prompts")
        if not self.task and self.model != "embedded":
            raise ValueError(f"--model is {self.model!r}, which has no prompts of its own: pass a file with --prompts")
        with about("task"):
            return load_mix(self.task or "embedded", self.prompts_dir)

    def load_validation_prompts(self) -> list[str]:
        """The prompts to validate on; empty if the run never validates.

        Raises:
            ValueError: as for `load_prompts`.
        """
        if not self.validate_every:
            return []
        source = self.validation_prompts or ("embedded-held-out" if self.model == "embedded" else None)
        if source is None:
            raise ValueError(
                "--validate_every is set: pass a file with --validation_prompts, which must not hold the prompts that "
                "you train on"
            )
        with about("validation_prompts"):
            return load_mix(source, self.prompts_dir).texts

    def load_rewards(self) -> RewardEnsemble:
        """The weighted rewards."""
        given = self._given_rewards()
        if not given and self.scores:
            return RewardEnsemble([(GivenScores(), 1.0)])
        if not given:
            if self.model != "embedded":
                raise ValueError("there is no reward: give --rewards NAME[=WEIGHT],…")
            given = {"rewards": "embedded"}
        with about(*given):
            return self.make_rewards(",".join(given.values()), self.held_out or "", self.reward_normalization)

    def reward_names(self) -> list[str]:
        """The rewards to train on, without their weights."""
        given = ",".join(self._given_rewards().values()) or ("embedded" if self.model == "embedded" else "")
        return [part.partition("=")[0].strip() for part in given.split(",") if part.strip()]

    def _given_rewards(self) -> dict[str, str]:
        """Argument to what it says of rewards."""
        given = {"rewards": self.rewards} if self.rewards else {}
        for switch, reward in SWITCHES.items():
            if getattr(self, f"enable_{switch}"):
                given[f"enable_{switch}"] = f"{reward}={getattr(self, f'{switch}_weighting')}"
        return given

    @property
    def _score_share(self) -> float:
        if self.score_share is not None:
            return self.score_share
        return 0.0 if self.scores and not self._given_rewards() else 1.0

    def load_scores(self, generator: Generator) -> list[ScoredNoise]:
        """What --scores holds, for images of this run's size.

        Raises:
            ValueError: a line of it cannot be used.
        """
        if not self.scores:
            return []
        with about("scores"):
            return read_scores(self.scores, self.width or generator.default_size, self.height or generator.default_size)

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
            teacher=self.teacher,
            critics=self.critics,
            critic_width=self.critic_width,
            critic_depth=self.critic_depth,
            critic_lr=self.critic_lr,
            critic_steps=self.critic_steps,
            critic_warm_up=self.critic_warm_up,
            replay=self.replay,
            replay_gib=self.replay_gib,
            score_share=self._score_share,
            start_from=self.start_from,
            distill=self.distill,
            distill_steps=self.distill_steps,
            rank=self.lora_rank,
            alpha=self.lora_rank * self.alpha_multiplier,
            last_layer=self.last_layer_name,
            temperature=self.temperature,
            kl_reduction=self.kl_reduction,
            reward_grad_clip=self.reward_grad_clip,
            white_gradient=self.white_gradient,
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


def default_recipe(model: str, hypernetwork: str | None = None) -> str | None:
    """The recipe with a model's default arguments, or None: `recipes/<short name>.yaml` for a LoRA, for another kind of
    hypernetwork `recipes/<short name>-<kind>.yaml`. Without a kind, the LoRA's, or else the head's."""
    names = {"lora": [model], None: [model, f"{model}-head"]}.get(hypernetwork, [f"{model}-{hypernetwork}"])
    found = [path for name in names if (path := RECIPES / f"{name}.yaml").is_file()]
    return str(found[0]) if model in SHORT_NAMES and found else None
