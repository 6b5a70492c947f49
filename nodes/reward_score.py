"""Reward Score."""

from comfy_api.v0_0_2 import io

from .host.inputs import picture_inputs
from .host.progress_text import shown
from .host.reward import table


class HyperNoiseRewardScore(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseRewardScore",
            display_name="Reward Score",
            category="HyperNoise/rewards",
            description="Scores each image of a batch under its prompt. Higher is better.",
            search_aliases=["image score", "rate image", "aesthetic score", "evaluate"],
            is_output_node=True,
            inputs=picture_inputs(),
            outputs=[
                io.Float.Output(display_name="score", tooltip="The mean of the batch."),
                io.Float.Output(display_name="scores", is_output_list=True, tooltip="One score per image."),
                io.String.Output(
                    display_name="report", tooltip="The scores as text; of vqa-questions each answer, the worst first."
                ),
            ],
        )

    @classmethod
    def execute(cls, image, prompt, reward) -> io.NodeOutput:
        scores = reward.score(image, prompt)
        report = "\n\n".join(part for part in (table(scores), reward.explain(image, prompt)) if part)
        total = scores["total"]
        return io.NodeOutput(total.mean().item(), total.tolist(), report, ui=shown(report))
