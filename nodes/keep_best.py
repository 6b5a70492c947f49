"""Keep Best Images: Best-of-N."""

from comfy_api.v0_0_2 import io

from hypernoise_core.search import ranking

from .host.inputs import picture_inputs


class HyperNoiseKeepBest(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HyperNoiseKeepBest",
            display_name="Keep Best Images",
            category="HyperNoise/rewards",
            description="Keeps the best images of a batch, best first (Best-of-N).",
            search_aliases=["best of n", "rank images", "sort by score", "filter images"],
            inputs=[
                *picture_inputs(),
                io.Int.Input(
                    "count",
                    default=1,
                    min=1,
                    max=4096,
                    tooltip="How many images to keep. Keeps all if there are fewer.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The best images, in order."),
                io.Float.Output(display_name="scores", is_output_list=True, tooltip="Their scores, in the same order."),
            ],
        )

    @classmethod
    def execute(cls, image, prompt, reward, count) -> io.NodeOutput:
        total = reward.score(image, prompt)["total"]
        best = ranking(total)[:count]
        return io.NodeOutput(image[best], total[best].tolist())
