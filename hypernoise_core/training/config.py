"""How an adapter is trained: every setting of a `Trainer`."""

from dataclasses import dataclass
from typing import Literal, get_args

from ..noise import BetweenSteps
from ..objective import KLReduction

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
        positive = ("rank", "alpha", "temperature", "lr", "grad_clip", "batch_size", "accumulation_steps", "max_steps")
        positive += ("iterations", "coarsen", "head_width", "head_depth")
        for name in (*positive, "steps", "max_skipped", "pictures_per_prompt"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        counts = ("warmup_steps", "warm_start_pictures", "diagnostics_every", "validate_every", "patience", "seed")
        for name in ("weight_decay", *counts):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must not be below 0")
        for name in ("momentum", "beta2", "ema_decay", "diversity_floor"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise ValueError(f"{name} is {value}; it must lie in [0, 1)")
        if not 0 <= self.decay_fraction <= 1:
            raise ValueError(f"decay_fraction is {self.decay_fraction}; it must lie in [0, 1]")
        if self.between_steps not in get_args(BetweenSteps):
            known = ", ".join(get_args(BetweenSteps))
            raise ValueError(f"between_steps is {self.between_steps!r}; it must be one of {known}")
        if self.gradient_checkpointing not in (False, True, "hypernetwork"):
            raise ValueError(
                f"gradient_checkpointing is {self.gradient_checkpointing!r}; it must be true, false or hypernetwork"
            )
        if self.gradient_checkpointing == "hypernetwork" and self.train_type == "finetune":
            raise ValueError("gradient_checkpointing is hypernetwork, and finetune trains none: give true instead")
        if self.micro_batch_size is not None and self.micro_batch_size < 1:
            raise ValueError(f"micro_batch_size is {self.micro_batch_size}; give at least 1, or null for no parts")
        for name in ("batch_size", "micro_batch_size"):
            if (getattr(self, name) or 0) % self.pictures_per_prompt:
                raise ValueError(
                    f"pictures_per_prompt is {self.pictures_per_prompt}; it must divide {name}, {getattr(self, name)}"
                )
        if (self.patience or self.diversity_floor) and not self.validate_every:
            raise ValueError("validate_every is 0, so patience and diversity_floor cannot stop the run: set it as well")
        if self.reward_grad_clip is not None and self.reward_grad_clip <= 0:
            raise ValueError(
                f"reward_grad_clip is {self.reward_grad_clip}; it must be above 0, or null for no clipping"
            )
