"""What requirements.txt adds to ComfyUI, and which nodes cannot do without."""

from importlib import import_module


def missing(*packages: str) -> str | None:
    """What to tell a user whose environment lacks one of `packages`: broken ones are as good as none."""
    try:
        for package in packages:
            import_module(package)
    except ImportError as error:
        return (
            f"this node needs {' and '.join(packages)}, which ComfyUI does not bring ({error}). Install into ComfyUI's "
            "Python: python -m pip install -r requirements.txt, in the folder of ComfyUI-HyperNoise"
        )
    return None
