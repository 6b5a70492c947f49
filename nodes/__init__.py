"""ComfyUI's face: thin V3 nodes over `hypernoise_core`. The only folder that imports ComfyUI."""

from comfy_api.latest import ComfyExtension, io

from . import folders
from .compare import HyperNoiseCompare
from .generator import HyperNoiseLoadGenerator
from .lora_files import HyperNoiseLoraLoader, HyperNoiseSaveLora
from .modulate import HyperNoiseModulateModel, HyperNoiseModulateNoise
from .optimize import HyperNoiseOptimizeNoise
from .rewards import HyperNoiseKeepBest, HyperNoiseLoadReward, HyperNoiseRewardScore
from .training import HyperNoiseTrain

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
            HyperNoiseCompare,
            HyperNoiseSaveLora,
            HyperNoiseTrain,
        ]


async def comfy_entrypoint() -> HyperNoiseExtension:
    return HyperNoiseExtension()
