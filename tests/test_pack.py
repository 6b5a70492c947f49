"""The pack's front door, `__init__.py`."""

import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_the_front_door_does_nothing_without_comfyui():
    code = "import importlib.util as u, sys; s = u.spec_from_file_location('pack', '__init__.py'); "
    code += "m = u.module_from_spec(s); s.loader.exec_module(m); assert 'torch' not in sys.modules; "
    code += "assert not hasattr(m, 'comfy_entrypoint')"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.parametrize("copied", [False, True])
def test_a_second_copy_of_the_pack_is_told(tmp_path, caplog, copied):
    folder = tmp_path / "ComfyUI-HyperNoise" if copied else ROOT
    if copied:
        (folder / "hypernoise_core").mkdir(parents=True)
        (folder / "__init__.py").write_text((ROOT / "__init__.py").read_text("utf-8"), "utf-8")
    spec = spec_from_file_location("pack", folder / "__init__.py")
    pack = module_from_spec(spec)
    spec.loader.exec_module(pack)
    pack._import_core()
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == copied
    if copied:
        assert f"is there twice, in {ROOT} and in {folder}" in told[0]
