"""Compare the published packages `image-reward` and `hpsv2` with the rewards here: the same random weights at full
size, the same images and prompts. `make reward-packages` runs it in an environment of its own (12 GB of memory, four
minutes on one core, no downloads).

python -m benchmarks.reward_packages                 # both
python -m benchmarks.reward_packages imagereward     # one
"""

import gc
import gzip
import json
import os
import sys
import tempfile
from pathlib import Path

import clip
import torch
from PIL import Image
from torch import Tensor

from hypernoise_core.rewards import load_reward
from hypernoise_core.rewards.clip import CLIP_H
from hypernoise_core.rewards.package import MED_CONFIG

PROMPTS = ["a red cat on a blue chair", "two small dogs, and a very large bird; it's raining!"]
TOLERANCE = 1e-3


def main(names: list[str]) -> int:
    """Print how far scores and picture gradients are apart; 1 if further than `TOLERANCE`."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    home, worst = Path.cwd(), 0.0
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # the package takes the bert-base-uncased that lies there for the hub's
        try:
            for name in names or MAKE_WEIGHTS:
                MAKE_WEIGHTS[name](Path(folder))
                worst = max(worst, compare(name, Path(folder)))
        finally:
            os.chdir(home)
    print(f"largest difference {worst:.1e}, allowed {TOLERANCE:.0e}")
    return int(worst > TOLERANCE)


def compare(name: str, folder: Path) -> float:
    """Score the same pictures both ways; the largest difference of scores and of relative gradients."""
    random = torch.Generator().manual_seed(0)
    pictures = (torch.rand(2, 3, 224, 224, generator=random) * 255).round() / 255
    native = judged(name, folder, pictures, "native")
    package = judged(name, folder, pictures, "package")
    scores = (native[0] - package[0]).abs().max().item()
    gradients = ((native[1] - package[1]).norm() / package[1].norm()).item()
    files = max((abs(a - b) for a, b in zip(native[0].tolist(), package[2], strict=False)), default=0.0)
    print(f"{name}: here {native[0].tolist()}, the package {package[0].tolist()}")
    print(f"{name}: scores differ by {scores:.1e}, picture gradients by {gradients:.1e} of their norm", flush=True)
    if package[2]:
        print(f"{name}: the package's score(prompt, image) on PIL images: {package[2]}, apart by {files:.1e}")
    return max(scores, gradients, files)


def judged(name: str, folder: Path, pictures: Tensor, backend: str) -> tuple[Tensor, Tensor, list[float]]:
    """Scores, gradients in the pictures, and what the package's own call on image files says, where it has one."""
    reward = load_reward(name, folder, backend=backend)
    leaf = pictures.clone().requires_grad_()
    scores = reward.score(leaf, reward.encode_text(PROMPTS))
    (gradient,) = torch.autograd.grad(scores.sum(), leaf)
    own = []
    if name == "imagereward" and backend == "package":
        images = [Image.fromarray((p * 255).byte().movedim(0, -1).numpy()) for p in pictures]
        own = [reward.model.score(prompt, image) for prompt, image in zip(PROMPTS, images, strict=True)]
    del reward
    gc.collect()
    return scores.detach(), gradient, own


def make_imagereward(folder: Path) -> None:
    """The package's own model, every tensor moved, as ImageReward.pt; and a vocabulary in place of BERT's."""
    import ImageReward

    (folder / "bert-base-uncased").mkdir()
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    letters = [f"{mark}{letter}" for mark in ("", "##") for letter in "abcdefghijklmnopqrstuvwxyz,;'!"]
    words = iter(
        [*letters, "red", "cat", "on", "blue", "chair", "two", "small", "dogs", "and", "very", "large", "bird"]
    )
    vocabulary = [special.get(i) or next(words, f"[unused{i}]") for i in range(30522)]
    (folder / "bert-base-uncased" / "vocab.txt").write_text("\n".join(vocabulary))
    config = {"model_type": "bert", "do_lower_case": True}
    (folder / "bert-base-uncased" / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "bert-base-uncased" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    (folder / "med_config.json").write_text(json.dumps(MED_CONFIG))
    torch.manual_seed(0)
    model = ImageReward.ImageReward(med_config=str(folder / "med_config.json"))
    torch.save(_moved(model.state_dict()), folder / "ImageReward.pt")


def make_hpsv2(folder: Path) -> None:
    """The package's own model, every tensor moved, as HPS_v2.1_compressed.pt; and CLIP's vocabulary as transformers
    reads it."""
    from hpsv2.src import open_clip

    tokenizer = folder / Path(CLIP_H).name
    tokenizer.mkdir()
    with gzip.open(Path(clip.__file__).parent / "bpe_simple_vocab_16e6.txt.gz") as file:
        merges = file.read().decode().split("\n")[1 : 49152 - 256 - 2 + 1]
    letters = list(clip.simple_tokenizer.bytes_to_unicode().values())
    words = [*letters, *(f"{letter}</w>" for letter in letters), *(merge.replace(" ", "") for merge in merges)]
    vocabulary = {word: i for i, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    (tokenizer / "vocab.json").write_text(json.dumps(vocabulary))
    (tokenizer / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "CLIPTokenizer"}))
    torch.manual_seed(0)
    model = open_clip.create_model("ViT-H-14", output_dict=True)
    torch.save({"state_dict": _moved(model.state_dict())}, folder / "HPS_v2.1_compressed.pt")


MAKE_WEIGHTS = {"imagereward": make_imagereward, "hpsv2": make_hpsv2}


def _moved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """So that no tensor is left at a plain 0 or 1."""
    for value in state.values():
        if value.is_floating_point() and value.dim():
            fan_in = value[0].numel() if value.dim() > 1 else 400
            value.add_(torch.randn_like(value), alpha=0.5 * fan_in**-0.5)
    return state


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
