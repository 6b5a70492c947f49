"""Every image family of ComfyUI's, at toy size: a head and a LoRA are trained, saved, loaded and used on it."""

import ast

import pytest

from host.family_table import BEGIN, DOCUMENT, END, KINDS, families, works
from host.graphs import Graph, ksampler, output
from host.server import REPOSITORY, ComfyError, saved

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


QUICK = {"FLUX.2", "ERNIE-Image", "Qwen-Image", "PixelDiT"}
"""Those that need something of their own; the others take long."""


def listed(family):
    return family if family in QUICK else pytest.param(family, marks=pytest.mark.full_size)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("family", map(listed, names()))
def test_the_docs_say_what_works(comfy, family, kind):
    assert documented()[family][1 + KINDS.index(kind)] == works(comfy, family, kind)


def test_every_row_is_one_of_comfyuis_families(comfy):
    found = families(comfy)
    assert documented().keys() == found.keys()
    assert {name: cells[0].strip("`") for name, cells in documented().items()} == found


@pytest.mark.parametrize("kind", KINDS)
def test_video_models_are_refused(comfy, kind):
    told = works(comfy, "Wan 2.1 for video", kind)
    assert told == "not possible because model: its latents are not those of still images, so you cannot train for it"


def test_a_head_for_stills_with_a_time_axis_chooses_refines_and_reads_for_nothing_and_refuses_a_video(comfy):
    assert works(comfy, "Qwen-Image", "head") == "yes"

    def sampled(frames, strength=1.0, **changes):
        g = Graph()
        model = g.ProbeFamily(family="Qwen-Image")
        text = g.ProbeEncode(clip=output(model, 1), text="a cat")
        hypernoise = g.HyperNoiseLoraLoader(file="family-head-qwen-image_00001_.safetensors")
        moved = g.HyperNoiseModulateModel(model=model, hypernoise=hypernoise, strength=strength, **changes)
        latent = g.EmptyHunyuanLatentVideo(width=64, height=64, length=frames, batch_size=1)
        g.ProbeSave(latent=ksampler(g, moved, text, text, latent, steps=2))
        ((latents, _),) = saved(comfy, comfy.run(g.nodes))
        return latents

    ways = [sampled(1, **way) for way in ({"strength": 0.0}, {}, {"candidates": 3}, {"refine": 2}, FREE)]
    assert all(latents.shape == (1, 16, 1, 8, 8) and latents.isfinite().all() for latents in ways)
    assert all((a - b).abs().max() > 1e-4 for i, a in enumerate(ways) for b in ways[:i] if i != 2)
    with pytest.raises(ComfyError, match="latent_image: it holds a video of 2 latent frames"):
        sampled(5)


FREE = {"free_reading": True}
