"""Every image family of ComfyUI's, at toy size: a head and a LoRA are trained, saved, loaded and used on it."""

import ast

import pytest

from host.family_table import BEGIN, DOCUMENT, END, KINDS, families, works
from host.server import REPOSITORY

PROBE = REPOSITORY / "tests" / "host" / "probe" / "families.py"


def names():
    """Of the probe's families, read without ComfyUI."""
    tree = ast.parse(PROBE.read_text(encoding="utf-8"))
    (table,) = (n.value for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "FAMILIES")
    return [key.value for key in table.keys]


def documented():
    """The table's cells by family."""
    table = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table.strip().splitlines()[2:]]
    return {row[0]: row[1:] for row in rows}


QUICK = {"PixArt-Σ", "FLUX.2", "Chroma", "ERNIE-Image", "Qwen-Image", "Krea 2", "PixelDiT"}
"""Those that need something of their own; the others take long."""


def listed(family):
    return family if family in QUICK else pytest.param(family, marks=pytest.mark.slow)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", map(listed, names()))
def test_the_docs_say_what_works(comfy, family, kind):
    assert documented()[family][1 + KINDS.index(kind)] == works(comfy, family, kind)


def test_every_row_is_one_of_comfyuis_families(comfy):
    found = families(comfy)
    assert documented().keys() == found.keys()
    assert {name: cells[0].strip("`") for name, cells in documented().items()} == found
