"""ComfyUI's face: thin V3 nodes over `hypernoise_core`. The only folder that imports ComfyUI."""

from comfy_api.latest import ComfyExtension, io


class HyperNoiseExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return []


async def comfy_entrypoint() -> HyperNoiseExtension:
    return HyperNoiseExtension()
