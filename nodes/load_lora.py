"""Load HyperNoise LoRA."""

from comfy_api.v0_0_2 import io

from .host.adapter import HyperNoiseType
from .host.folders import EMBEDDED, adapter_names, adapter_path, fingerprint
from .host.kinds import load_hypernoise


class HyperNoiseLoraLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseLoraLoader",
            display_name="Load HyperNoise LoRA",
            category="HyperNoise",
            description="Loads a noise hypernetwork, a head or a LoRA, from models/hypernoise.",
            search_aliases=["noise hypernetwork", "hypernoise loader", "load adapter"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=adapter_names(),
                    default=EMBEDDED,
                    tooltip="A .safetensors file or a PEFT folder in models/hypernoise. 'embedded' (a LoRA) and "
                    "'embedded head' ship with the pack and fit its embedded generator.",
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
        return (file, path and fingerprint(path))

    @classmethod
    def execute(cls, file) -> io.NodeOutput:
        return io.NodeOutput(load_hypernoise(file, adapter_path(file)))
