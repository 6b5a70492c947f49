"""The published packages' own code behind the same interface, for comparison: `backend="package"`.

`image-reward` and `hpsv2` pin old versions that current libraries no longer support, so they get an environment of
their own (`make reward-packages`). Nothing else here needs them.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..batch import TensorBatch
from ..settings import SettingError
from ..tensor_file import read_tensors, reason
from . import imagereward
from .base import Reward
from .checkpoints import find_file
from .clip import HPSV2, HPSV2_FILE
from .images import preprocess

MED_CONFIG = {
    "architectures": ["BertModel"],
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "model_type": "bert",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 0,
    "add_type_embeddings": False,
    "vocab_size": 30524,
    "encoder_width": 1024,
    "add_cross_attention": True,
}
"""med_config.json of THUDM/ImageReward, which the package would download otherwise."""


class PackageImageReward(Reward):
    """`image-reward`'s own model and tokenizer."""

    name = "imagereward"

    def __init__(self, weights: str | Path | None = None):
        try:
            import ImageReward
        except Exception as error:  # outside its own environment the import fails in many ways
            raise _not_here("image-reward", error) from error
        path = find_file(self.name, weights, imagereward.HUB, imagereward.FILE)
        with tempfile.TemporaryDirectory() as folder:
            config = Path(folder) / "med_config.json"
            config.write_text(json.dumps(MED_CONFIG))
            self.model = ImageReward.ImageReward(med_config=str(config)).eval().requires_grad_(False)
        self.model.load_state_dict(read_tensors(path)[0], strict=False)

    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        tokens = self.model.blip.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=imagereward.WINDOW, return_tensors="pt"
        ).to(self.model.device)
        return TensorBatch({"ids": tokens.input_ids, "mask": tokens.attention_mask})

    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        return self.model.score_gard(text["ids"], text["mask"], preprocess(images, 224)).squeeze(-1)

    def to(self, device: torch.device | str) -> "PackageImageReward":
        self.model.to(device)
        self.model.device = device  # the package keeps its own note of it
        return self


class PackageHpsv2(Reward):
    """`hpsv2`'s own model and tokenizer."""

    name = "hpsv2"

    def __init__(self, weights: str | Path | None = None):
        try:
            from hpsv2.src import open_clip
        except Exception as error:
            raise _not_here("hpsv2", error) from error
        path = find_file(self.name, weights, HPSV2, HPSV2_FILE)
        self.model = open_clip.create_model("ViT-H-14", output_dict=True).eval().requires_grad_(False)
        self.model.load_state_dict(read_tensors(path)[0])
        self.tokenizer, self.device = open_clip.get_tokenizer("ViT-H-14"), torch.device("cpu")

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> TensorBatch:
        tokens = self.tokenizer(list(prompts)).to(self.device)
        return TensorBatch({"features": self.model.encode_text(tokens, normalize=True)})

    def score(self, images: Tensor, text: TensorBatch) -> Tensor:
        features = self.model.encode_image(preprocess(images, 224), normalize=True)
        return (features * text["features"]).sum(-1)

    def to(self, device: torch.device | str) -> "PackageHpsv2":
        self.model.to(device)
        self.device = torch.device(device)
        return self


PACKAGES: dict[str, Callable[[str | Path | None], Reward]] = {
    "imagereward": PackageImageReward,
    "hpsv2": PackageHpsv2,
}
"""Rewards that have a published package."""


def _not_here(package: str, error: Exception) -> SettingError:
    return SettingError(
        "{backend} is package, and the package {} does not load here ({}): `make reward-packages` builds an "
        "environment in which it does, or take {backend} native, which needs none",
        package,
        reason(error),
    )
