"""How an adapter is trained: every setting of a `Trainer`."""

from dataclasses import dataclass
from typing import Literal, get_args

from ..noise import MOST_STEPS, BetweenSteps
from ..objective import KLReduction
from ..settings import SettingError, require

OptimizerName = Literal["sgd", "adam", "adamw", "adamw8bit"]
"""`adamw8bit` is bitsandbytes' (extra `[8bit]`): a quarter of AdamW's state."""


MOST_LAYERS, WIDEST = 256, 16384
"""Of a head or a critic, which are small networks: more would fill any memory before it is told to be too much."""


@dataclass(kw_only=True)
class TrainingConfig:
    """How to train an adapter. The model, prompts and rewards are given to the `Trainer` itself."""

    train_type: Literal["noise", "finetune"] = "noise"
    """`noise` trains a noise hypernetwork. `finetune` trains a LoRA in the generator itself, without a KL."""
    hypernetwork: str = "lora"
    """Kind of noise hypernetwork. `lora`: the paper's, in a clone of the denoiser. `head`: a small network that reads
    the frozen denoiser's output for the noise."""
    iterations: int = 1
    """How many times the hypernetwork will be applied. Each image of a batch starts after some of these iterations,
    made without gradients, and the KL covers the whole way from x0."""
    coarsen: int = 1
    """Latent cells along each side that the hypernetwork sees as one. 2 costs a quarter; it suits models that also make
    good images at half their side."""
    head_width: int = 256
    """Width of a head's layers; a multiple of 16."""
    head_depth: int = 2
    """Number of layers of a head."""
    head_reads: Literal["features", "prediction"] = "features"
    """`features`: a head reads what enters the denoiser's last layer, besides noise and prediction. `prediction`: only
    noise and prediction."""
    teacher: Literal["gradient", "critic"] = "gradient"
    """Where the gradient comes from that the hypernetwork follows. `gradient`: the paper's, through reward, decoder and
    every step. `critic`: from a small network that learns the reward from its scores and from the frozen denoiser's
    output; a reward needs no gradient then, and a step much less memory."""
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
    """Most CPU memory that these may take, in GiB."""
    score_share: float = 1.0
    """Share of each batch's images that are drawn and scored, for a critic. 0 if it has other scores to learn from."""
    start_from: str | None = None
    """HyperNoise file of the same kind and shape whose weights training goes on from, instead of from zero. A critic
    learns anew, from noise as this hypernetwork moves it."""
    distill: str | None = None
    """HyperNoise file that the first `distill_steps` steps imitate, before the reward takes over."""
    distill_steps: int = 0
    rank: int = 128
    """Rank of every LoRA factor."""
    alpha: float = 256.0
    """LoRA scale; the update is alpha / rank times B A."""
    last_layer: str | None = None
    """The denoiser's output layer. By default it is found by running the denoiser."""
    temperature: float = 1.0
    """α of L = KL - r / α. Smaller values follow the reward further away from the base distribution."""
    kl_reduction: KLReduction = "sum"
    """`sum` is the paper's KL in nats. `mean` is the reference implementation's, weaker by the size of the latent."""
    reward_grad_clip: float | None = None
    """Largest norm of a sample's gradient of r / α at the modulated noise, in nats per unit of noise."""
    white_gradient: bool = False
    """Bring the reward's gradient at the modulated noise onto white noise (`white_noise.whiten`), at its own norm."""
    optimizer: OptimizerName = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    """Momentum of SGD."""
    beta2: float = 0.999
    """beta2 of Adam and AdamW. 0.99 follows the gradients of a short run faster."""
    grad_clip: float = 1.0
    """Largest norm of the whole gradient."""
    batch_size: int = 32
    """Images per batch, counted over all processes: the number of GPUs does not change it."""
    accumulation_steps: int = 1
    """Batches per optimizer step."""
    micro_batch_size: int | None = None
    """Images that a process has in memory at a time. Default: its share of the batch. A smaller value needs less memory
    and gives the same gradients."""
    max_steps: int = 1000
    """Optimizer steps. 0 with `start_from` trains a critic alone, for the hypernetwork in that file."""
    warmup_steps: int = 10
    """Steps over which the learning rate rises from zero."""
    decay_fraction: float = 0.0
    """Fraction of the run at its end over which the learning rate falls linearly to zero."""
    ema_decay: float | None = None
    """Decay of a moving average of the LoRA weights. If set, the average is saved and shown."""
    steps: int = 1
    """Denoiser calls per image during training."""
    between_steps: BetweenSteps = "fresh"
    """What samplers that add noise between steps add. `fresh`: new noise. `keep`: the starting noise as drawn.
    `keep-moved`: the starting noise as the hypernetwork moved it."""
    height: int | None = None
    width: int | None = None
    """Size of the training images, in pixels. Default: the generator's own size."""
    pictures_per_prompt: int = 1
    """Images of the same prompt in a batch, for rewards that compare them."""
    latent_type: Literal["inf", "batch", "multi", "one"] = "inf"
    """Noise for each optimizer step. `inf`: a new one for every image. `batch`: one new one for all images of the step.
    `multi`: the same batch of noises every step. `one`: the same single noise every step."""
    warm_start_pictures: int = 0
    """Number of images whose reward gradients the last layer is fitted to in closed form before the first step
    (`warm_start.py`). The rank should be at least the latent's number of channels. 0 starts from exactly zero, as in
    the paper."""
    gradient_checkpointing: bool | Literal["hypernetwork"] = False
    """Recompute activations in the backward pass. True: of every layer, about a third slower, a fraction of the memory.
    `hypernetwork`: only of f, after those of generator and rewards are freed: a fifth slower, half of the memory."""
    compile: bool = False
    """`torch.compile` the denoisers of the generator and of the hypernetwork. It takes minutes at the start; not
    measured yet."""
    diagnostics_every: int = 100
    """Steps between measurements of ½ tr J², Lipschitz constant, noise statistics and held-out rewards; 0 for never."""
    validate_every: int = 0
    """Steps between measurements on held-out prompts; 0 for never."""
    patience: int = 0
    """End training after this many validations without a better `validation/score`; 0 for never."""
    diversity_floor: float = 0.0
    """End training when diversity falls below this share of the base model's. 0.8 prevents images from growing alike. 0
    for never."""
    max_skipped: int = 5
    """Number of non-finite steps in a row after which training stops."""
    seed: int = 0

    def __post_init__(self):
        self._check_ranges()
        self._check_kind()
        if self.between_steps not in get_args(BetweenSteps):
            raise SettingError("{between_steps} is {!r}: give one of {}", self.between_steps, get_args(BetweenSteps))
        if self.gradient_checkpointing not in (False, True, "hypernetwork"):
            raise SettingError(
                "{gradient_checkpointing} is {!r}: give true, false or hypernetwork", self.gradient_checkpointing
            )
        if self.gradient_checkpointing == "hypernetwork" and self.train_type == "finetune":
            raise SettingError(
                "{gradient_checkpointing} is hypernetwork, and {train_type} finetune trains none: give true instead"
            )
        for name in ("batch_size", "micro_batch_size"):
            if (size := getattr(self, name) or 0) % self.pictures_per_prompt:
                raise SettingError(
                    f"{{pictures_per_prompt}} is {{}}: give a divisor of {{{name}}}, {{}}",
                    self.pictures_per_prompt,
                    size,
                )
        if (self.patience or self.diversity_floor) and not self.validate_every:
            raise SettingError(
                "{validate_every} is 0, so {patience} and {diversity_floor} cannot stop the run: set it as well"
            )

    def _check_kind(self) -> None:
        if self.train_type == "finetune" and (self.iterations > 1 or self.distill or self.coarsen > 1):
            raise SettingError(
                "{iterations}, {coarsen} and {distill} are a noise hypernetwork's: leave them out for {train_type} "
                "finetune"
            )
        if self.teacher not in ("gradient", "critic"):
            raise SettingError("{teacher} is {!r}: give gradient or critic", self.teacher)
        if self.teacher == "critic" and self.train_type == "finetune":
            raise SettingError(
                "{teacher} is critic, which teaches where to move noise: leave it out for {train_type} finetune"
            )
        if self.teacher == "gradient" and self.score_share < 1:
            raise SettingError("{score_share} is {}, and the gradient needs all scores: give 1", self.score_share)
        if self.start_from and (self.train_type == "finetune" or self.distill or self.warm_start_pictures):
            raise SettingError(
                "{start_from} is where a noise hypernetwork begins: leave out {distill}, {warm_start_pictures} and "
                "{train_type} finetune"
            )
        if bool(self.distill) != bool(self.distill_steps):
            raise SettingError(
                "{distill} and {distill_steps} belong together: give a file and the steps that follow it, or none"
            )
        fits_last_layer = self.warm_start_pictures and self.train_type == "noise"
        if fits_last_layer and (self.hypernetwork != "lora" or self.coarsen > 1):
            raise SettingError(
                "{warm_start_pictures} is set, which fits a LoRA's last layer at full size: leave it out, or take "
                "{hypernetwork} lora without {coarsen}"
            )

    def _check_ranges(self) -> None:
        counts = ("rank", "batch_size", "accumulation_steps", "micro_batch_size", "pictures_per_prompt")
        more = ("steps", "height", "width", "max_skipped", "iterations", "coarsen", "head_width", "head_depth")
        require(self, counts + more, lambda v: v >= 1, "at least 1")
        if self.start_from and self.teacher == "critic":
            require(self, ("max_steps",), lambda v: v >= 0, "at least 1, or 0 to train a critic alone")
        else:
            require(self, ("max_steps",), lambda v: v >= 1, "at least 1")
        critic = ("critics", "critic_width", "critic_depth", "critic_steps", "replay")
        require(self, critic, lambda v: v >= 1, "at least 1")
        widths = ("head_width", "critic_width")
        require(self, widths, lambda v: v % 16 == 0 and v <= WIDEST, f"a multiple of 16, at most {WIDEST}")
        require(self, ("head_depth", "critic_depth", "critics"), lambda v: v <= MOST_LAYERS, f"at most {MOST_LAYERS}")
        require(self, ("steps",), lambda v: v <= MOST_STEPS, f"at most {MOST_STEPS}")
        require(self, ("critic_lr", "replay_gib"), lambda v: v > 0, "a number above 0")
        require(self, ("score_share",), lambda v: 0 <= v <= 1, "a number from 0 to 1")
        require(self, ("alpha", "temperature", "lr", "grad_clip"), lambda v: v > 0, "a number above 0")
        require(self, ("reward_grad_clip",), lambda v: v > 0, "a number above 0, or null for no clipping")
        maybe = ("warmup_steps", "warm_start_pictures", "critic_warm_up", "distill_steps", "diagnostics_every")
        require(self, (*maybe, "validate_every", "patience", "weight_decay"), lambda v: v >= 0, "at least 0")
        require(self, ("seed",), lambda v: 0 <= v < 2**63, "a number from 0 to 2**63 - 1")
        require(self, ("momentum", "beta2", "ema_decay", "diversity_floor"), lambda v: 0 <= v < 1, "a number in [0, 1)")
        require(self, ("decay_fraction",), lambda v: 0 <= v <= 1, "a number in [0, 1]")
