"""Load and Save HyperNoise LoRA."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from hypernoise_core.hypernetworks.adapter_file import write_adapter

from .adapter import HyperNoise, HyperNoiseType
from .folders import ADAPTERS, EMBEDDED, adapter_names, adapter_path

CATEGORY = "HyperNoise"


class HyperNoiseLoraLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseLoraLoader",
            display_name="Load HyperNoise LoRA",
            category=CATEGORY,
            description="Loads a noise hypernetwork from models/hypernoise.",
            search_aliases=["noise hypernetwork", "hypernoise loader", "load adapter"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=adapter_names(),
                    default=EMBEDDED,
                    tooltip="A .safetensors file or a PEFT folder in models/hypernoise. 'embedded' is the one that the "
                    "pack ships for its embedded generator.",
                ),
            ],
            outputs=[HyperNoiseType.Output(display_name="hypernoise", tooltip="For the Modulate nodes.")],
        )

    @classmethod
    def validate_inputs(cls, file):
        if adapter_path(file) is None:
            return f"there is no {file} in models/hypernoise: put it there, or choose another file"
        return True

    @classmethod
    def fingerprint_inputs(cls, file):
        path = adapter_path(file)
        return (file, path and path.stat().st_mtime_ns)

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        return io.NodeOutput(HyperNoise.load(file, adapter_path(file)))


class HyperNoiseSaveLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseSaveLora",
            display_name="Save HyperNoise LoRA",
            category=CATEGORY,
            description="Writes a noise hypernetwork to models/hypernoise, where Load HyperNoise LoRA finds it. The "
            "file works in `python -m train` and peft too.",
            search_aliases=["export hypernoise", "save adapter"],
            is_output_node=True,
            inputs=[
                HyperNoiseType.Input("hypernoise", tooltip="What to save."),
                io.String.Input(
                    "filename_prefix",
                    default="hypernoise",
                    tooltip="Name of the file, without number and ending; a subfolder may stand before it.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def execute(cls, hypernoise, filename_prefix) -> io.NodeOutput:
        root = folder_paths.get_folder_paths(ADAPTERS)[0]
        folder, name, counter, _, _ = folder_paths.get_save_image_path(filename_prefix, root)
        path = Path(folder) / f"{name}_{counter:05}_.safetensors"
        write_adapter(path, hypernoise.weights, hypernoise.info)
        return io.NodeOutput(ui=ui.PreviewText(f"models/hypernoise/{path.relative_to(root).as_posix()}"))
