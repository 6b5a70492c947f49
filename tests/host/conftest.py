"""Skips without a ComfyUI: say where one is in HYPERNOISE_COMFY_ROOT (and HYPERNOISE_COMFY_PYTHON)."""

import pytest

from host.server import Comfy, find_root

HOW = "set HYPERNOISE_COMFY_ROOT to ComfyUI's folder and HYPERNOISE_COMFY_PYTHON to its Python"


def pytest_collection_modifyitems(items):
    root, python = find_root()
    if not ((root / "main.py").is_file() and python.exists()):
        skip = pytest.mark.skip(reason=f"no ComfyUI at {root} with {python}: {HOW}")
        for item in items:
            if "host" in item.path.parent.name:
                item.add_marker(skip)


@pytest.fixture(scope="session")
def comfy(tmp_path_factory):
    """ComfyUI with the pack, and with diffusers and peft."""
    server = Comfy(tmp_path_factory.mktemp("comfy"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def plain_comfy(tmp_path_factory):
    """ComfyUI with the pack, and without what requirements.txt would add."""
    server = Comfy(tmp_path_factory.mktemp("plain"), blocked=("diffusers", "peft"))
    yield server
    server.stop()
