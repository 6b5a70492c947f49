"""The pack's entry point: gives ComfyUI the nodes, and does nothing if ComfyUI is not running."""

import logging
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

CORE = "hypernoise_core"


def _import_core() -> None:
    """Import the pack's own `hypernoise_core` under that name, because users' rewards import it too. The pack's folder
    is not added to sys.path, because its `nodes` would shadow ComfyUI's."""
    folder = Path(__file__).parent / CORE
    if CORE in sys.modules:
        loaded = Path(sys.modules[CORE].__file__).parent
        if loaded.resolve() != folder.resolve():
            logging.warning(
                "ComfyUI-HyperNoise is there twice, in %s and in %s: templates come twice, and nodes are those of the "
                "copy that is loaded last. Remove one.",
                loaded.parent,
                folder.parent,
            )
    else:
        spec = spec_from_file_location(CORE, folder / "__init__.py", submodule_search_locations=[str(folder)])
        sys.modules[CORE] = module_from_spec(spec)
        spec.loader.exec_module(sys.modules[CORE])


if find_spec("comfy_api"):
    _import_core()
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "web"
    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
