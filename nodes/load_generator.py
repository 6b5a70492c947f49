"""Load HyperNoise Generator: a few-step model that diffusers saved, as MODEL, CLIP and VAE."""

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
            description="Loads a few-step model from a folder that diffusers saved: SANA-Sprint, which ComfyUI's core "
            "lacks, Z-Image, Qwen-Image, FLUX, FLUX.2 klein, Krea 2, SD3, SDXL-Turbo, SD-Turbo, or the small generator "
            "that ships with the pack. It works with ComfyUI's own samplers and nodes. Sample with cfg 1 and scheduler "
            "simple. Use sampler euler; for SANA-Sprint in two steps or more, lcm.",
            search_aliases=["sana sprint", "sana loader", "embedded generator", "diffusers loader"],
            inputs=[
                io.String.Input(
                    "model",
                    default=EMBEDDED,
                    tooltip="'embedded' needs no download and draws coloured shapes at 64x64. Otherwise give a folder "
                    "saved by diffusers (its name in models/diffusers or its full path) or a Hugging Face id such as "
                    "Efficient-Large-Model/Sana_Sprint_0.6B_1024px_diffusers. Only safetensors weights are read.",
                ),
                io.Boolean.Input(
                    "download",
                    default=False,
                    optional=True,
                    tooltip="Allow a download from Hugging Face if the model is not on this machine. It is kept in the "
                    "Hugging Face cache.",
                ),
                io.Int.Input(
                    "text_length",
                    default=0,
                    min=0,
                    max=4096,
                    advanced=True,
                    optional=True,
                    tooltip="Tokens of a prompt that the model reads; 0 for the model's own, such as 256 for FLUX. "
                    "Longer prompts are cut. FLUX, FLUX.2 and SD3 see the padding of shorter ones, so a hypernetwork "
                    "works best at the length that it was trained with.",
                ),
            ],
            outputs=[
                io.Model.Output(tooltip="For KSampler, SamplerCustomAdvanced and the Modulate nodes."),
                io.Clip.Output(tooltip="For CLIP Text Encode. This encoder ignores weights in brackets."),
                io.Vae.Output(tooltip="For VAE Decode and VAE Encode."),
            ],
        )

    @classmethod
    def validate_inputs(cls, model, download=False):
        """Errors are raised, not returned: ComfyUI would repeat what is returned for each input."""
        if words := missing("diffusers"):
            raise ValueError(words)
        if model is not None and download is not None:  # None: from another node, known when it runs
            _place(model, download)
        return True

    @classmethod
    def execute(cls, model, download=False, text_length=0) -> io.NodeOutput:
        from hypernoise_core.settings import about

        from .host.diffusers_pipeline import load_pipeline
        from .host.generator_places import fetch

        with about("model"):
            place = _place(model, download) or fetch(model.strip())
        return io.NodeOutput(*load_pipeline(place, text_length or None))


def _place(model: str, download: bool) -> str | None:
    from hypernoise_core.settings import about

    from .host.generator_places import place_of

    with about("model"):
        return place_of(model.strip(), download)
