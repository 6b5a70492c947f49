"""What the paper's four rewards cost: seconds forward and backward and peak memory, each alone, then the ensemble
against the reference implementation's way, then a whole training step. Random weights at full size; nothing is fetched.

python -m benchmarks.rewards                                   # full size: 16 GB of memory, ten minutes on one core
python -m benchmarks.rewards --size small                      # an eighth of the layers, to see that it runs
python -m benchmarks.rewards --device cuda --dtype bfloat16 --batch 8 --image_size 1024

The reference's way, from its code: text is tokenised and encoded at every step, HPSv2 recomputes its activations in
the backward pass, the other three keep theirs (its switch does nothing on a model in evaluation mode), and one backward
pass at the end goes through all four. Weights are frozen in both. Each row is a process of its own, one after another;
on a CPU the seconds are the process's own, so that other work on the machine does not count.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from transformers import (
    BlipTextConfig,
    BlipTextModel,
    BlipVisionConfig,
    BlipVisionModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
)

from hypernoise_core import RewardEnsemble, Trainer, TrainingConfig, load_generator
from hypernoise_core.files import replacing
from hypernoise_core.rewards import PAPER_WEIGHTS, Reward
from hypernoise_core.rewards.clip import ClipBackbone, ClipReward
from hypernoise_core.rewards.heads import load_head
from hypernoise_core.rewards.imagereward import ImageReward
from train.cli import parse, run_command

PROG = "python -m benchmarks.rewards"

PROMPT = (
    "a photo of a red fox in a snowy forest at dawn, soft golden light between tall pine trees, a wooden cabin with a "
    "smoking chimney far in the background, shallow depth of field, highly detailed fur, calm and quiet mood"
)
"""Of a length that people write for these models."""


@dataclass(kw_only=True)
class BenchmarkArguments:
    """What the paper's rewards cost."""

    size: Literal["full", "small"] = "full"
    """small has an eighth of the layers."""
    batch: int = 1
    """Pictures, each with a prompt of its own."""
    image_size: int = 512
    """Side of the pictures, in pixels."""
    device: str = "cpu"
    """Such as cuda."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Of the weights."""
    repeats: int = 3
    """Measurements, of which the median is shown; the first does not count if there are several."""
    threads: int = 1
    """CPU threads."""
    case: Literal["all", "hpsv2", "imagereward", "clip", "pickscore", "ensemble", "reference", "step"] = "all"
    """One row alone, as JSON."""
    save: str | None = None
    """JSON file for all rows."""

    def __post_init__(self):
        for name in ("batch", "repeats", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table, or one row of it."""
    args: BenchmarkArguments = parse(BenchmarkArguments, PROG, __doc__, argv)
    torch.set_num_threads(args.threads)
    if args.case != "all":
        print(json.dumps(measure(args)))
        return
    rows = {}
    print(f"{'':12}{'text s':>9}{'forward s':>11}{'backward s':>12}{'step s':>9}{'weights GB':>12}{'peak GB':>9}")
    for case in (*PAPER_WEIGHTS, "ensemble", "reference", "step"):
        line = [sys.executable, "-m", "benchmarks.rewards", *(argv or sys.argv[1:]), "--case", case]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{case} did not run: {done.stderr.strip().splitlines()[-1]}")
        rows[case] = row = json.loads(done.stdout.splitlines()[-1])
        cells = [f"{row[key]:{width}.2f}" if key in row else " " * width for key, width in COLUMNS]
        print(f"{case:12}{''.join(cells)}", flush=True)
    ours, theirs = rows["ensemble"], rows["reference"]
    activations = {name: row["peak"] - row["weights"] for name, row in (("here", ours), ("there", theirs))}
    print(
        f"ensemble against the reference's way: {theirs['step'] / ours['step']:.2f}x faster, beyond the weights "
        f"{activations['here']:.2f} GB instead of {activations['there']:.2f} GB; largest difference of the picture "
        f"gradients {relative(ours['gradient'], theirs['gradient']):.1e}"
    )
    if args.save:
        with replacing(args.save) as temporary:
            Path(temporary).write_text(json.dumps({"arguments": vars(args), "rows": rows}, indent=1))


COLUMNS = (("text", 9), ("forward", 11), ("backward", 12), ("step", 9), ("weights", 12), ("peak", 9))


def relative(a: list[float], b: list[float]) -> float:
    """‖a - b‖ / ‖b‖ of a sample of values."""
    x, y = torch.tensor(a), torch.tensor(b)
    return ((x - y).norm() / y.norm()).item()


def measure(args: BenchmarkArguments) -> dict:
    """One row."""
    names = [args.case] if args.case in PAPER_WEIGHTS else list(PAPER_WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rewards = [(make_reward(name, args), PAPER_WEIGHTS[name]) for name in names]
    prompts = [f"{PROMPT} {i}" for i in range(args.batch)]
    images = torch.rand(args.batch, 3, args.image_size, args.image_size, generator=torch.Generator().manual_seed(0))
    images = images.to(args.device).requires_grad_()
    weights = _memory(args.device)
    case = {"ensemble": ensemble_step, "reference": reference_step, "step": training_step}.get(args.case, alone)
    return {"weights": weights} | case(args, rewards, prompts, images) | {"peak": _memory(args.device, peak=True)}


def alone(args, rewards, prompts: list[str], images: Tensor) -> dict:
    """One reward: its text, its forward and its backward pass."""
    reward = rewards[0][0]
    text_seconds, text = _timed(args, lambda: reward.encode_text(prompts), repeats=1)
    forward, backward = [], []
    for _ in range(args.repeats):
        seconds, score = _timed(args, lambda: reward.score(images, text), repeats=1)
        forward.append(seconds)
        backward.append(_timed(args, lambda score=score: torch.autograd.grad(score.sum(), images), repeats=1)[0])
    return {
        "text": text_seconds,
        "forward": _median(forward),
        "backward": _median(backward),
    }


def ensemble_step(args, rewards, prompts: list[str], images: Tensor) -> dict:
    """All four as they are trained on here; text is encoded once, before the first step."""
    ensemble = RewardEnsemble(rewards).to(args.device)
    text_seconds, text = _timed(args, lambda: ensemble.encode_text(prompts), repeats=1)

    def step():
        return torch.autograd.grad(ensemble.score(images, text).sum(), images)[0]

    seconds, gradient = _timed(args, step, args.repeats)
    return {"text": text_seconds, "step": seconds, "gradient": gradient.flatten()[::1009].tolist()}


def reference_step(args, rewards, prompts: list[str], images: Tensor) -> dict:
    """All four as in the reference implementation."""
    for reward, _ in rewards:
        reward.checkpoint_gradients(reward.name == "hpsv2")

    def text_of(reward: Reward):
        if isinstance(reward, ClipReward):
            return reward.backbone._encode(prompts, "report")  # not the kept features
        return reward._tokens(prompts).to(args.device)

    def step():
        total = sum(weight * reward.score(images, text_of(reward)) for reward, weight in rewards)
        return torch.autograd.grad(total.sum(), images)[0]

    seconds, gradient = _timed(args, step, args.repeats)
    return {"step": seconds, "gradient": gradient.flatten()[::1009].tolist()}


def training_step(args, rewards, prompts: list[str], images: Tensor) -> dict:
    """A step of the trainer on the embedded generator with all four."""
    config = TrainingConfig(rank=16, alpha=32, batch_size=args.batch, max_steps=args.repeats, diagnostics_every=0)
    generator = load_generator("embedded", args.device)
    trainer = Trainer(generator, RewardEnsemble(rewards).to(args.device), prompts, config)
    seconds = []
    events = trainer.events()
    for _ in range(config.max_steps):
        seconds.append(_timed(args, lambda: next(events), repeats=1)[0])
    return {"step": _median(seconds)}


def _timed(args: BenchmarkArguments, run: Callable, repeats: int) -> tuple[float, object]:
    """Median seconds of some runs, and the last one's result."""
    seconds = []
    clock = time.perf_counter if args.device.startswith("cuda") else time.process_time
    for _ in range(repeats):
        start = clock()
        result = run()
        if args.device.startswith("cuda"):
            torch.cuda.synchronize()
        seconds.append(clock() - start)
    return _median(seconds), result


def _median(seconds: list[float]) -> float:
    return statistics.median(seconds[1:] or seconds)


def _memory(device: str, peak: bool = False) -> float:
    """Memory of this process (on a GPU: of its tensors there) in GB, now or at most since the last call for now."""
    if device.startswith("cuda"):
        if not peak:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 1e9
    if not peak:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the high-water mark starts again from now
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def make_reward(name: str, args: BenchmarkArguments) -> Reward:
    """A reward of the released size with random weights."""
    less = 1 if args.size == "full" else 8
    dtype = getattr(torch, args.dtype)
    if name == "imagereward":
        vision = BlipVisionConfig(
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24 // less,
            num_attention_heads=16,
            image_size=224,
            layer_norm_eps=1e-6,
        )
        text = BlipTextConfig(
            num_hidden_layers=max(1, 12 // less), num_attention_heads=12, encoder_hidden_size=1024, vocab_size=30524
        )
        widths = (768, 1024, 128, 64, 16, 1)
        numbered = zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False)
        shapes = {key: s for n, a, b in numbered for key, s in ((f"{n}.weight", (b, a)), (f"{n}.bias", (b,)))}
        head = load_head({key: 0.05 * torch.randn(shape) for key, shape in shapes.items()}, "", 768, Path("random"))
        tokenizer = _tokenizer("[CLS]", "[SEP]", 0)
        encoders = random_model(BlipVisionModel, vision, dtype), random_model(BlipTextModel, text, dtype, False)
        return ImageReward(*encoders, head, tokenizer).to(args.device)
    ids = {"bos_token_id": 49406, "eos_token_id": 49407}
    config = CLIPConfig(
        projection_dim=1024,
        logit_scale_init_value=4.6,
        text_config=ids
        | {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24 // less, "hidden_act": "gelu"}
        | {"num_attention_heads": 16, "vocab_size": 49408},
        vision_config={"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32 // less}
        | {"num_attention_heads": 16, "patch_size": 14, "image_size": 224, "hidden_act": "gelu"},
    )
    backbone = ClipBackbone(random_model(CLIPModel, config, dtype), _tokenizer("<start>", "<end>", 49406))
    return ClipReward(backbone, name, scaled=name != "hpsv2").to(args.device)


def random_model(model_class, config, dtype: torch.dtype, *arguments):
    """A frozen model filled with one block of normal numbers over and over, which is faster than drawing a billion."""
    with torch.device("meta"):
        model = model_class(config, *arguments)
    model = model.to_empty(device="cpu").to(dtype).eval().requires_grad_(False)
    block = torch.randn(1_000_003) * 0.02
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight") or "LayerNorm.weight" in name or ("layer_norm" in name and "weight" in name):
            parameter.fill_(1.0)
        elif name == "logit_scale":
            parameter.fill_(4.6)
        else:
            for part in parameter.view(-1).split(len(block)):
                part.copy_(block[: len(part)])
    for name, buffer in model.named_buffers():
        if name.endswith("position_ids"):
            buffer.copy_(torch.arange(buffer.shape[1])[None])
    return model


def _tokenizer(first: str, last: str, start: int) -> PreTrainedTokenizerFast:
    """A stand-in that knows the prompt's words, with its two special tokens from number `start` on."""
    words = ["<pad>", "<unk>", *sorted(set(PROMPT.replace(",", " , ").split())), *map(str, range(100))]
    vocabulary = {word: 200 + i for i, word in enumerate(words)} | {first: start, last: start + 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [(first, start), (last, start + 1)]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=special)
    names = {"bos_token": first, "eos_token": last, "pad_token": "<pad>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
