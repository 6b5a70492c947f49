"""Load Reward."""

from typing import get_args

import comfy.model_management
import torch
from comfy_api.v0_0_2 import io

from hypernoise_core.rewards import RewardEnsemble, check_weights
from hypernoise_core.rewards.quantized import Quantize, check_quantize
from hypernoise_core.rewards.vqa import QUESTION, check_question
from hypernoise_core.settings import naming

from .host.folders import EMBEDDED
from .host.reward import LoadedReward, RewardType
from .host.reward_files import IN_FOLDER, called, load, reward_names, weight_names, weights_path


class HyperNoiseLoadReward(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseLoadReward",
            display_name="Load Reward",
            category="HyperNoise/rewards",
            description="Loads a model that scores images under their prompt. Chain several through add_to to use "
            "their weighted sum.",
            search_aliases=[
                "hpsv2",
                "hpsv3",
                "vqascore",
                "imagereward",
                "pickscore",
                "clip score",
                "aesthetic",
                "preference model",
            ],
            inputs=[
                io.Combo.Input(
                    "reward",
                    options=reward_names(),
                    default=EMBEDDED,
                    tooltip="'embedded' scores the pack's own coloured shapes and needs no download. 'hpsv3', 'vqa' "
                    "and 'vqa-questions' are vision-language models of 9 to 17 GB that read the whole prompt. To use "
                    "your own, put a Python file with a subclass of hypernoise_core.Reward into "
                    "models/hypernoise_rewards; it appears as file:Class.",
                ),
                io.Combo.Input(
                    "weights",
                    options=weight_names(),
                    default=IN_FOLDER,
                    tooltip="Where the reward's released weights are: anywhere in models/hypernoise_rewards, in one "
                    "file or folder there, or in the Hugging Face cache, which downloads what is missing.",
                ),
                io.Float.Input(
                    "weight",
                    default=1.0,
                    min=-10000.0,
                    max=10000.0,
                    step=0.01,
                    tooltip="The weight of this reward in the sum.",
                ),
                io.Combo.Input(
                    "device",
                    options=["auto", "cpu"],
                    default="auto",
                    tooltip="Where the reward runs: 'auto' is ComfyUI's device, 'cpu' uses no GPU memory.",
                ),
                RewardType.Input("add_to", optional=True, tooltip="Another Load Reward. This reward is added to it."),
                io.String.Input(
                    "question",
                    default=QUESTION,
                    optional=True,
                    advanced=True,
                    tooltip="What 'vqa' asks, with {prompt} in the prompt's place. The score is how sure the model is "
                    "of the answer yes.",
                ),
                io.Combo.Input(
                    "quantize",
                    options=list(get_args(Quantize)),
                    default="none",
                    optional=True,
                    advanced=True,
                    tooltip="Weights of 'hpsv3', 'vqa' and 'vqa-questions' in 8 bits (int8) or 4 (nf4): half or a "
                    "third of the memory, scores change a little. Needs the Python package bitsandbytes.",
                ),
            ],
            outputs=[
                RewardType.Output(
                    display_name="reward",
                    tooltip="For Reward Score, Keep Best Images, HyperNoise Compare, Optimize Noise and Train "
                    "HyperNoise.",
                )
            ],
        )

    @classmethod
    def validate_inputs(cls, reward, weights, question=QUESTION, quantize="none"):
        """Errors are raised: what is returned, ComfyUI repeats for each input."""
        if reward not in reward_names():
            raise ValueError(f"there is no reward {reward}: choose one of {', '.join(reward_names())}")
        if weights not in weight_names():
            raise ValueError(f"there is no {weights} in {IN_FOLDER}: put it there, or choose other weights")
        if place := weights_path(reward, weights):
            with naming(called):
                check_weights(reward, place)
        with naming(called):
            check_question(question)
            check_quantize(quantize)
        return True

    @classmethod
    def execute(cls, reward, weights, weight, device, add_to=None, question=QUESTION, quantize="none") -> io.NodeOutput:
        others = [(r, add_to.ensemble.weights[name]) for name, r in add_to.ensemble.rewards.items()] if add_to else []
        loaded = (load(reward, weights_path(reward, weights), question, quantize), weight)
        place = torch.device("cpu") if device == "cpu" else comfy.model_management.get_torch_device()
        return io.NodeOutput(LoadedReward(RewardEnsemble([*others, loaded]), place))
