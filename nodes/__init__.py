"""ComfyUI's nodes: thin V3 nodes over `hypernoise_core`, one file each. The only folder that imports ComfyUI.

`host/` is the bridge between ComfyUI and the core. It holds what the nodes share, and no nodes.
"""

from comfy_api.v0_0_2 import ComfyExtension, io

from .compare import HyperNoiseCompare
from .host import folders
from .keep_best import HyperNoiseKeepBest
from .keep_scores import HyperNoiseKeepScores
from .load_generator import HyperNoiseLoadGenerator
from .load_lora import HyperNoiseLoraLoader
from .load_reward import HyperNoiseLoadReward
from .modulate_noise import HyperNoiseModulateModel, HyperNoiseModulateNoise
from .optimize_noise import HyperNoiseOptimizeNoise
from .reward_score import HyperNoiseRewardScore
from .save_lora import HyperNoiseSaveLora
from .train import HyperNoiseTrain

folders.register()


class HyperNoiseExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            HyperNoiseLoraLoader,
            HyperNoiseModulateNoise,
            HyperNoiseModulateModel,
            HyperNoiseOptimizeNoise,
            HyperNoiseLoadGenerator,
            HyperNoiseLoadReward,
            HyperNoiseRewardScore,
            HyperNoiseKeepBest,
            HyperNoiseKeepScores,
            HyperNoiseCompare,
            HyperNoiseSaveLora,
            HyperNoiseTrain,
        ]


async def comfy_entrypoint() -> HyperNoiseExtension:
    return HyperNoiseExtension()
