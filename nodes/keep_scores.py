"""Keep Scores: a person's verdicts on images, as rows that a critic learns from."""

from __future__ import annotations

from comfy_api.v0_0_2 import io

from .host.new_files import offer_new_files
from .host.packages import missing
from .host.progress_text import shown
from .host.scores import scores_path, scores_path_error


class HyperNoiseKeepScores(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseKeepScores",
            display_name="Keep Scores",
            category="HyperNoise/rewards",
            description="Writes down how much you like images, with their prompt and seed. Train HyperNoise can learn "
            "from these scores.",
            search_aliases=["thumbs up", "rate images", "human feedback", "preference"],
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="Images of one prompt and seed, made without HyperNoise."),
                io.String.Input("prompt", default="", tooltip="The prompt that they were made from."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=False,
                    tooltip="The seed of their noise.",
                ),
                io.String.Input(
                    "scores",
                    default="1",
                    tooltip="One number for each image, with commas between, or one for all. Higher is better: 1 for "
                    "a thumb up and 0 for a thumb down will do.",
                ),
                io.String.Input(
                    "name",
                    default="my_scores",
                    tooltip="Name of the file in output/hypernoise_scores, without extension. Rows are added to it.",
                ),
            ],
            outputs=[],
        )

    @classmethod
    def validate_inputs(cls, name=None):
        if words := missing("diffusers"):
            return words
        return True if name is None else scores_path_error(name) or True

    @classmethod
    def execute(cls, image, prompt, seed, scores, name) -> io.NodeOutput:
        from hypernoise_core.training.scored import ScoredNoise
        from hypernoise_core.training.scores_file import add_scores

        values = _numbers(scores, len(image))
        rows = [ScoredNoise(prompt, seed, value, index) for index, value in enumerate(values)]
        height, width = image.shape[1:3]
        count = add_scores(scores_path(name), rows, width, height)
        offer_new_files()
        told = f"{len(rows)} added, {count} in output/hypernoise_scores/{name}.jsonl"
        return io.NodeOutput(ui=shown(told))


def _numbers(scores: str, count: int) -> list[float]:
    try:
        values = [float(part) for part in scores.split(",")]
    except ValueError as error:
        raise ValueError(f"scores: {scores!r} are no numbers: write such as 1, or 1,0,1 for three images") from error
    if len(values) == 1:
        values *= count
    if len(values) != count:
        raise ValueError(f"scores: there are {len(values)} for {count} images: write one for each, or one for all")
    return values
