"""Load HyperNoise Generator: a diffusers pipeline of a family that ComfyUI's core lacks, as MODEL, CLIP and VAE."""

from pathlib import Path

import folder_paths
from comfy_api.v0_0_2 import io

from .host.folders import EMBEDDED
from .host.packages import missing


class HyperNoiseLoadGenerator(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseLoadGenerator",
            display_name="Load HyperNoise Generator",
            category="HyperNoise",
            description="Loads SANA-Sprint, which ComfyUI's core lacks, or the small generator that ships with the "
            "pack. Both work with ComfyUI's own samplers and nodes. Sample with 1 to 4 steps, cfg 1 and scheduler "
            "simple. Use sampler euler for one step and lcm for more.",
            search_aliases=["sana sprint", "sana loader", "embedded generator", "diffusers loader"],
            inputs=[
                io.String.Input(
                    "model",
                    default=EMBEDDED,
                    tooltip="'embedded' needs no download and draws coloured shapes at 64x64. Otherwise give a folder "
                    "saved by diffusers (its name in models/diffusers or its full path) or a Hugging Face id such as "
                    "Efficient-Large-Model/Sana_Sprint_0.6B_1024px_diffusers, which is downloaded once.",
                )
            ],
            outputs=[
                io.Model.Output(tooltip="For KSampler, SamplerCustomAdvanced and the Modulate nodes."),
                io.Clip.Output(tooltip="For CLIP Text Encode. This encoder ignores weights in brackets."),
                io.Vae.Output(tooltip="For VAE Decode and VAE Encode."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model):
        if words := missing("diffusers"):
            return words
        if not model.strip():
            return f"model: write {EMBEDDED}, a folder or a Hugging Face id"
        return True

    @classmethod
    def execute(cls, model) -> io.NodeOutput:
        from .host.sana_sprint import load_sana_sprint

        return io.NodeOutput(*load_sana_sprint(_place(model.strip())))


def _place(model: str) -> str:
    """The folder of that name in models/diffusers, or `model` itself."""
    folders = [Path(folder) / model for folder in folder_paths.get_folder_paths("diffusers")]
    return next((str(folder) for folder in folders if (folder / "model_index.json").is_file()), model)
