"""The embedded world: a small real SANA-Sprint, its CLIP reward, a HyperNoise LoRA and a head, so that you can see the
method work without a download. `python -m train.embedded` makes all of it again from nothing."""

from pathlib import Path

GENERATOR_FOLDER = Path(__file__).parent / "generator"
"""A `SanaSprintPipeline` saved by diffusers: `load_generator("embedded")`."""

REWARD_FOLDER = Path(__file__).parent / "reward"
"""A `CLIPModel` with its tokenizer, saved by transformers: `load_reward("embedded")`."""

HYPERNOISE_FILE = Path(__file__).parent / "hypernoise.safetensors"
"""A HyperNoise LoRA for the generator, trained on the reward."""

HEAD_FILE = Path(__file__).parent / "head.safetensors"
"""A head for the generator, trained on the same reward (`train/recipes/embedded-head-long.yaml`)."""
