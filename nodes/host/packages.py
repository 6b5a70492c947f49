"""The packages that requirements.txt adds to ComfyUI, and a check for nodes that need them."""

from importlib import import_module


def missing(*packages: str) -> str | None:
    """The message for a user who lacks one of `packages`, or None. A broken package counts as missing."""
    try:
        for package in packages:
            import_module(package)
    except ImportError as error:
        return (
            f"this node needs {' and '.join(packages)}, which ComfyUI does not install ({error}). In the folder of "
            "ComfyUI-HyperNoise, run python -m pip install -r requirements.txt with ComfyUI's Python"
        )
    return None
