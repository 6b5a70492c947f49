"""Which part of the project may import which, read from the source of every module; nothing is imported here."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("hypernoise_core", "train", "nodes", "benchmarks")
MAY_IMPORT = {
    "hypernoise_core": {"hypernoise_core"},
    "train": {"train", "hypernoise_core"},
    "nodes": {"nodes", "hypernoise_core"},
    "benchmarks": {"benchmarks", "train", "hypernoise_core"},
}
"""Room to the rooms that its modules import."""

HOST = ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "latent_preview", "server")
"""ComfyUI's top-level modules; all else that begins with comfy counts too."""


def modules() -> dict[str, Path]:
    """Dotted name to file; a package's name is that of its `__init__.py`."""
    found = {}
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports(module: str, tree: ast.AST) -> set[str]:
    """Full names of all that a module imports, wherever the statement stands: at the top, inside a function, under
    TYPE_CHECKING. `from package import name` is the module `package.name` where there is one, else `package`."""
    package = module.split(".") if MODULES[module].name == "__init__.py" else module.split(".")[:-1]
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                own = f"{source}.{alias.name}"
                names.add(own if own in MODULES else source)
    return names


IMPORTS = {module: imports(module, ast.parse(path.read_text("utf-8"))) for module, path in MODULES.items()}


def test_no_module_imports_itself_by_a_detour():
    """A circle works by luck, in one order of imports. Those inside functions and under TYPE_CHECKING count as well:
    they are how a circle hides. What Python runs besides, the `__init__.py` of the packages above a module, does not
    count: a package that offers its modules' names imports them, and they would all be in a circle with it."""
    graph = {module: {name for name in names if name in MODULES} for module, names in IMPORTS.items()}
    try:
        list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail("imports run in a circle: " + " <- ".join(error.args[1]))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room):
    """nodes -> core, train -> core, benchmarks -> train and core; nodes and train do not know each other."""
    wrong = {
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        if module.split(".")[0] == room and name.split(".")[0] in {*ROOMS} - MAY_IMPORT[room]
    }
    assert not wrong


def test_only_nodes_import_comfyui():
    wrong = {
        (module, name)
        for module, names in IMPORTS.items()
        for name in names
        if not module.startswith("nodes") and (name.split(".")[0] in HOST or name.startswith("comfy"))
    }
    assert not wrong


def test_nodes_import_one_another_relatively():
    """ComfyUI loads the pack under a name of its own, and has a module `nodes` itself."""
    assert not {(m, name) for m in MODULES if m.startswith("nodes") for name in absolute(MODULES[m])}


def absolute(path: Path) -> set[str]:
    """What a file imports from `nodes` by that name."""
    tree = ast.parse(path.read_text("utf-8"))
    named = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level]
    named += [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    return {name for name in named if name.split(".")[0] == "nodes"}


def test_what_stands_inside_functions_is_read_too():
    """The reading itself: were it blind there, all of the above would pass."""
    code = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .host import generator\n"
    code += "def f():\n    from ..train import cli\n    import comfy.sd\n"
    assert imports("nodes.train", ast.parse(code)) == {"typing", "nodes.host.generator", "train.cli", "comfy.sd"}
