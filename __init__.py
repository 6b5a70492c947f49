"""The pack's front door: hands ComfyUI the nodes, and does nothing where ComfyUI is not running."""

from importlib.util import find_spec

if find_spec("comfy_api"):
    from .nodes import comfy_entrypoint

    __all__ = ["comfy_entrypoint"]
