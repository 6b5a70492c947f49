"""Measure the cost of the paper's four rewards: seconds forward and backward and peak memory, for each alone, for a
whole training step, and for the ensemble against the reference implementation's way. Random weights at full size; no
downloads.

python -m benchmarks.rewards                                   # full size: 16 GB of memory, ten minutes on one core
python -m benchmarks.rewards --size small                      # an eighth of the layers, to see that it runs
python -m benchmarks.rewards --case compare --repeats 7        # the comparison alone
python -m benchmarks.rewards --device cuda --dtype bfloat16 --batch 8 --image_size 1024

The reference's way is taken from its code and that of its packages (hpsv2 1.2, image-reward 1.5, transformers 4.55).
Images are preprocessed once for all four rewards. Text is tokenised and encoded at every step: for HPSv2 padded to 77
tokens, for CLIP-H and PickScore to the longest prompt, for ImageReward to 35. HPSv2 recomputes its layers in the
backward pass; the other three keep their activations (transformers' switch does nothing for a model in evaluation mode,
and image-reward's is off). One backward pass at the end goes through all four. Weights are frozen in both. Both use the
layers of today's transformers; BLIP's have the package's own arithmetic.

Each row runs in a process of its own. The two compared variants share one process and its weights and take turns. Both
CPU seconds (which other work on the machine does not affect) and wall-clock seconds are shown.
"""

import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor
from torch.nn import functional as F
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
from hypernoise_core.rewards.imagereward import MEAN, STD, WINDOW, ImageReward
from hypernoise_core.rewards.images import preprocess
from train.cli import parse, run_command

PROG = "python -m benchmarks.rewards"

PROMPT = (
    "a photo of a red fox in a snowy forest at dawn, soft golden light between tall pine trees, a wooden cabin with a "
    "smoking chimney far in the background, shallow depth of field, highly detailed fur, calm and quiet mood"
)
"""A prompt of a length that users write for these models."""


@dataclass(kw_only=True)
class BenchmarkArguments:
    """Measure the cost of the paper's rewards."""

    size: Literal["full", "small"] = "full"
    """small has an eighth of the layers."""
    batch: int = 1
    """Number of images, each with its own prompt."""
    image_size: int = 512
    """Side of the images, in pixels."""
    device: str = "cpu"
    """Device, such as cuda."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """dtype of the weights."""
    repeats: int = 3
    """Number of measurements; the median is shown. One more measurement before them does not count."""
    threads: int = 1
    """CPU threads."""
    case: Literal["all", "hpsv2", "imagereward", "clip", "pickscore", "step", "compare"] = "all"
    """Run only this row. `compare` is the ensemble against the reference's way."""
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
    cases = (*PAPER_WEIGHTS, "step", "compare") if args.case == "all" else (args.case,)
    rows = {}
    if cases[0] != "compare":
        print(f"{'':12}{'text s':>9}{'forward s':>11}{'backward s':>12}{'step s':>9}{'weights GB':>12}{'peak GB':>9}")
    for case in cases:
        rows[case] = row = measure(args, case) if len(cases) == 1 else _in_a_process(argv or sys.argv[1:], case)
        if case == "compare":
            _print_comparison(row)
        else:
            cells = [f"{row[key]:{width}.2f}" if key in row else " " * width for key, width in COLUMNS]
            print(f"{case:12}{''.join(cells)}", flush=True)
    if args.save:
        with replacing(args.save) as temporary:
            Path(temporary).write_text(json.dumps({"arguments": vars(args), "rows": rows}, indent=1))


COLUMNS = (("text", 9), ("forward", 11), ("backward", 12), ("step", 9), ("weights", 12), ("peak", 9))


def _in_a_process(argv: Sequence[str], case: str) -> dict:
    """One row, measured in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "row.json"
        line = [sys.executable, "-m", "benchmarks.rewards", *argv, "--case", case, "--save", str(file)]
        done = subprocess.run(line, capture_output=True, text=True)
        if done.returncode:
            raise ValueError(f"{case} did not run: {done.stderr.strip().splitlines()[-1]}")
        return json.loads(file.read_text())["rows"][case]


def _print_comparison(row: dict) -> None:
    print(f"\n{'a step with all four':24}{'CPU s':>7}{'':20}{'wall s':>8}{'':20}{'beyond the weights GB':>22}")
    for name, words in (("here", "here"), ("reference", "the reference's way")):
        own = row[name]
        seconds = "".join(
            f"{statistics.median(own[k]):7.2f} ({min(own[k]):.2f} to {max(own[k]):.2f})".ljust(28) for k in CLOCKS
        )
        print(f"{words:24}{seconds}{max(own['memory']):20.2f}")
    for clock in CLOCKS:
        ratios = [b / a for a, b in zip(row["here"][clock], row["reference"][clock], strict=True)]
        print(f"{clock} time: {statistics.median(ratios):.2f} times faster ({min(ratios):.2f} to {max(ratios):.2f})")
    print(
        f"scores differ by {row['scores']:.1e} of the largest, picture gradients by {row['gradients']:.1e} of the norm"
    )


CLOCKS = ("CPU", "wall")


def measure(args: BenchmarkArguments, case: str) -> dict:
    """One row."""
    names = [case] if case in PAPER_WEIGHTS else list(PAPER_WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        rewards = [(make_reward(name, args), PAPER_WEIGHTS[name]) for name in names]
    prompts = [f"{PROMPT} {i}" for i in range(args.batch)]
    images = torch.rand(args.batch, 3, args.image_size, args.image_size, generator=torch.Generator().manual_seed(0))
    images = images.to(args.device).requires_grad_()
    weights = _memory(args.device)
    row = {"step": training_step, "compare": compare}.get(case, alone)(args, rewards, prompts, images)
    return {"weights": weights} | row | {"peak": _memory(args.device, peak=True)}


def alone(args, rewards, prompts: list[str], images: Tensor) -> dict:
    """One reward: its text, its forward and its backward pass."""
    reward = rewards[0][0]
    text_seconds, _, text = _timed(args, lambda: reward.encode_text(prompts))
    forward, backward = [], []
    for _ in range(1 + args.repeats):
        seconds, _, score = _timed(args, lambda: reward.score(images, text))
        forward.append(seconds)
        backward.append(_timed(args, lambda score=score: torch.autograd.grad(score.sum(), images))[0])
    return {
        "text": text_seconds,
        "forward": statistics.median(forward[1:]),
        "backward": statistics.median(backward[1:]),
    }


def compare(args, rewards, prompts: list[str], images: Tensor) -> dict:
    """All four as they are trained on here, text encoded once before the first step, and as the reference does it."""
    ensemble = RewardEnsemble(rewards).to(args.device)
    text = ensemble.encode_text(prompts)
    ways = {
        "here": lambda: ensemble.score(images, text),
        "reference": lambda: reference_total(rewards, prompts, images),
    }
    rows = {name: {"CPU": [], "wall": [], "memory": []} for name in ways}
    scores, gradients = {}, {}
    for turn in range(1 + args.repeats):
        for name, score in ways.items():
            rewards[0][0].checkpoint_gradients(name == "reference")  # HPSv2

            def step(name=name, score=score):
                scores[name] = score()
                gradients[name] = torch.autograd.grad(scores[name].sum(), images)[0]

            before = _memory(args.device)
            cpu, wall, _ = _timed(args, step)
            print(f"turn {turn} of {args.repeats}, {name}: {cpu:.2f} s", file=sys.stderr, flush=True)
            if turn:
                for key, value in (("CPU", cpu), ("wall", wall), ("memory", _memory(args.device, peak=True) - before)):
                    rows[name][key].append(value)
    here, there = scores["here"].detach(), scores["reference"].detach()
    return rows | {
        "scores": ((here - there).abs().max() / there.abs().max()).item(),
        "gradients": ((gradients["here"] - gradients["reference"]).norm() / gradients["reference"].norm()).item(),
    }


def reference_total(rewards, prompts: list[str], images: Tensor) -> Tensor:
    """The weighted sum [B] in the reference implementation's order of work."""
    pixels = preprocess(images, 224)
    return sum(
        weight * (_reference_clip if isinstance(reward, ClipReward) else _reference_blip)(reward, prompts, pixels)
        for reward, weight in rewards
    )


def _reference_clip(reward: ClipReward, prompts: list[str], pixels: Tensor) -> Tensor:
    model, tokenizer = reward.backbone.model, reward.backbone.tokenizer
    padding = "max_length" if reward.name == "hpsv2" else True
    tokens = tokenizer(prompts, return_tensors="pt", padding=padding, max_length=77, truncation=True).to(pixels.device)
    picture = model.get_image_features(pixels.to(model.dtype)).pooler_output
    words = model.get_text_features(tokens.input_ids, tokens.attention_mask).pooler_output
    cosine = F.cosine_similarity(picture.float(), words.float())
    return cosine * model.logit_scale.float().exp() if reward.scaled else cosine


def _reference_blip(reward: ImageReward, prompts: list[str], pixels: Tensor) -> Tensor:
    tokens = reward.tokenizer(prompts, return_tensors="pt", padding="max_length", max_length=WINDOW, truncation=True)
    tokens = tokens.to(pixels.device)
    seen = reward.vision(pixel_values=pixels.to(reward.vision.dtype)).last_hidden_state
    read = reward.text(tokens.input_ids, tokens.attention_mask, encoder_hidden_states=seen).last_hidden_state[:, 0]
    return (reward.head(read.float()).squeeze(-1) - MEAN) / STD


def training_step(args, rewards, prompts: list[str], images: Tensor) -> dict:
    """A step of the trainer on the embedded generator with all four."""
    config = TrainingConfig(rank=16, alpha=32, batch_size=args.batch, max_steps=1 + args.repeats, diagnostics_every=0)
    generator = load_generator("embedded", args.device)
    trainer = Trainer(generator, RewardEnsemble(rewards).to(args.device), prompts, config)
    events = trainer.events()
    seconds = [_timed(args, lambda: next(events))[0] for _ in range(config.max_steps)]
    return {"step": statistics.median(seconds[1:])}


def _timed(args: BenchmarkArguments, run: Callable) -> tuple[float, float, object]:
    """Seconds of this process (on a GPU the clock's, for there it waits), seconds by the clock, and the result."""
    on_gpu = args.device.startswith("cuda")
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    if on_gpu:
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return wall if on_gpu else cpu, wall, result


def _memory(device: str, peak: bool = False) -> float:
    """Memory of this process (on a GPU: of its tensors there) in GB, now or at most since the last call for now."""
    if device.startswith("cuda"):
        if not peak:
            torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated() / 1e9
    if not peak:
        ctypes.CDLL(None).malloc_trim(0)  # what is free goes back to the system
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
