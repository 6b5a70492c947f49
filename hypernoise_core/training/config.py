"""How an adapter is trained: every setting of a `Trainer`."""

from dataclasses import dataclass
from typing import Literal, get_args

from ..noise import BetweenSteps
from ..objective import KLReduction
from ..settings import SettingError, require

OptimizerName = Literal["sgd", "adam", "adamw", "adamw8bit"]
"""`adamw8bit` is bitsandbytes' (extra `[8bit]`): a quarter of AdamW's state."""


@dataclass(kw_only=True)
class TrainingConfig:
    """How an adapter is trained; what it is trained for (model, prompts, rewards) is handed to the `Trainer`."""

    train_type: Literal["noise", "finetune"] = "noise"
    """`noise` trains a noise hypernetwork; `finetune` trains the LoRA into the generator, without a KL."""
    hypernetwork: str = "lora"
    """Kind of noise hypernetwork: `lora`, the paper's, in a clone of the denoiser; `head`, a small network that reads
    what the frozen denoiser makes of the noise."""
    iterations: int = 1
    """Readings that it is trained for: each picture of a batch starts after some of them, made without gradients, and
    the KL is that of the whole way from x0."""
    coarsen: int = 1
    """Latent cells along each side that the hypernetwork sees as one: 2 on a model that makes good pictures at half its
    side too costs a quarter."""
    head_width: int = 256
    """Of a head's layers; a multiple of 16."""
    head_depth: int = 2
    """Layers of a head."""
    head_reads: Literal["features", "prediction"] = "features"
    """`features`: what enters the denoiser's last layer, beside noise and prediction. `prediction`: these two alone."""
    distill: str | None = None
    """HyperNoise file whose residuals the first `distill_steps` steps regress, before the reward takes over."""
    distill_steps: int = 0
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
    optimizer: OptimizerName = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.9
    """Of SGD."""
    beta2: float = 0.999
    """Of Adam and AdamW; 0.99 follows a short run's gradients faster."""
    grad_clip: float = 1.0
    """Largest norm of the whole gradient."""
    batch_size: int = 32
    """Pictures of which losses are averaged, over all processes: the number of GPUs does not change it."""
    accumulation_steps: int = 1
    """Batches per optimizer step."""
    micro_batch_size: int | None = None
    """Pictures that a process has in memory at a time; its share of the batch when not given. Memory falls with it and
    gradients stay."""
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
    between_steps: BetweenSteps = "fresh"
    """What a sampler that adds noise between steps adds: `fresh` noise; `keep`, the starting noise as it was drawn;
    `keep-moved`, as the hypernetwork moved it."""
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
    gradient_checkpointing: bool | Literal["hypernetwork"] = False
    """Recompute activations in the backward pass. True: of every layer, about a third slower, a fraction of the memory.
    `hypernetwork`: of f alone, after those of generator and rewards are freed: a fifth slower, half of the memory."""
    compile: bool = False
    """`torch.compile` the generator's denoiser and the hypernetwork's: minutes at first; not measured yet."""
    diagnostics_every: int = 100
    """Steps between measurements of ½ tr J², Lipschitz constant, noise statistics and held-out rewards; 0 for never."""
    validate_every: int = 0
    """Steps between measurements on held-out prompts; 0 for never."""
    patience: int = 0
    """Validations without a better `validation/score` after which training ends; 0 for never."""
    diversity_floor: float = 0.0
    """Share of the base model's diversity below which training ends: 0.8 guards against pictures that grow alike."""
    max_skipped: int = 5
    """Non-finite steps in a row after which training stops."""
    seed: int = 0

    def __post_init__(self):
        self._check_ranges()
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

    def _check_ranges(self) -> None:
        counts = ("rank", "batch_size", "accumulation_steps", "micro_batch_size", "pictures_per_prompt", "max_steps")
        counts += ("steps", "height", "width", "max_skipped", "iterations", "coarsen", "head_width", "head_depth")
        require(self, counts, lambda v: v >= 1, "at least 1")
        require(self, ("head_width",), lambda v: v % 16 == 0, "a multiple of 16")
        require(self, ("alpha", "temperature", "lr", "grad_clip"), lambda v: v > 0, "a number above 0")
        require(self, ("reward_grad_clip",), lambda v: v > 0, "a number above 0, or null for no clipping")
        maybe = ("warmup_steps", "warm_start_pictures", "distill_steps", "diagnostics_every", "validate_every")
        require(self, (*maybe, "patience", "weight_decay"), lambda v: v >= 0, "at least 0")
        require(self, ("seed",), lambda v: 0 <= v < 2**63, "a number from 0 to 2**63 - 1")
        require(self, ("momentum", "beta2", "ema_decay", "diversity_floor"), lambda v: 0 <= v < 1, "a number in [0, 1)")
        require(self, ("decay_fraction",), lambda v: 0 <= v <= 1, "a number in [0, 1]")
