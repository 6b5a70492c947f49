"""Save HyperNoise LoRA."""

from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from .host.adapter import HyperNoiseType
from .host.folders import ADAPTERS, told
from .host.new_files import offer_new_files
from .host.progress_text import shown


class HyperNoiseSaveLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseSaveLora",
            display_name="Save HyperNoise LoRA",
            category="HyperNoise",
            description="Writes a noise hypernetwork to models/hypernoise, where Load HyperNoise LoRA finds it. The "
            "file also works with `python -m train` and peft.",
            search_aliases=["export hypernoise", "save adapter"],
            is_output_node=True,
            inputs=[
                HyperNoiseType.Input("hypernoise", tooltip="The HyperNoise LoRA to save."),
                io.String.Input(
                    "filename_prefix",
                    default="hypernoise",
                    tooltip="File name without number and extension. You may put a subfolder in front.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, hypernoise, filename_prefix) -> io.NodeOutput:
        root = folder_paths.get_folder_paths(ADAPTERS)[0]
        folder, name, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, root)
        path = Path(folder) / f"{name}_{counter:05}_.safetensors"
        hypernoise.save(path)
        offer_new_files()
        return io.NodeOutput(ui=shown(told(path)))
