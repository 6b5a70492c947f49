"""The real page in Chromium: each template opened, the first run to its end in both renderers (`-m slow`: all that need
no download).

Needs node, playwright-core (in HYPERNOISE_PLAYWRIGHT/node_modules, else ~/comfy/browser/node_modules) and Chromium."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from host.server import REPOSITORY

WORKFLOWS = REPOSITORY / "workflows"
TEMPLATES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
PLAYWRIGHT = Path(os.environ.get("HYPERNOISE_PLAYWRIGHT") or Path.home() / "comfy" / "browser") / "node_modules"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

NOT_OURS = ("/user.css", "/api/userdata", "api.comfy.org", "huggingface.co", "ComfyApp graph accessed before init")
"""Complaints of the page on any fresh ComfyUI without network."""

pytestmark = pytest.mark.skipif(
    not (shutil.which("node") and CHROMIUM and (PLAYWRIGHT / "playwright-core").is_dir()),
    reason=f"needs node, Chromium, and playwright-core in {PLAYWRIGHT}: see HYPERNOISE_PLAYWRIGHT above",
)


RENDERERS = {"vue", "classic"}
COMPARED = ("base", "HyperNoise", "difference", "better")
SAID = {
    "1 Compare base and HyperNoise": {"HyperNoise Compare": COMPARED},
    "2 Read the noise and move it": {"Base and one reading": COMPARED, "Base and five readings": COMPARED},
    "3 Ask the critic": {
        "Best of 4 noises": ("expected",),
        "Refined 3 times": ("expected",),
        "Base and best of 4 noises": COMPARED,
        "Base and refined 3 times": COMPARED,
    },
    "4 Best of N": {"Best 4 of 16, with and without HyperNoise": COMPARED},
    "5 Search for better noise": {"Optimize Noise (ReNO)": ("before", "mean"), "HyperNoise Compare": COMPARED},
    "6 Train HyperNoise": {"Train HyperNoise": ("step", "preview:"), "Base and HyperNoise": COMPARED},
}
"""How the lines begin that are drawn on nodes after Run, by template and node."""


def drive(comfy, out: Path, runs: int, templates: list[str]) -> dict:
    """What the page did: its report; `out` gets a prompt of each template."""
    out.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).parent / "page.js"
    subprocess.run(
        ["node", script, comfy.url, CHROMIUM, out, str(runs), *templates],
        env={**os.environ, "NODE_PATH": str(PLAYWRIGHT)}, check=True, timeout=900,
    )  # fmt: skip
    return json.loads((out / "report.json").read_text())


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    return Path(os.environ.get("HYPERNOISE_SCREENSHOTS") or tmp_path_factory.mktemp("page"))


@pytest.fixture(scope="module")
def report(comfy, out):
    return drive(comfy, out, 1, TEMPLATES)


def test_no_node_is_missing_and_no_error_is_ours(report):
    assert report["missing"] == {template: [] for template in TEMPLATES}
    assert [error for error in report["errors"] if not any(noise in error for noise in NOT_OURS)] == []


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_api_twin_is_what_the_page_would_post(report, out, template):
    posted = json.loads((out / f"{template}.json").read_text())
    assert posted == json.loads((WORKFLOWS / "api" / f"{template}.json").read_text())


def test_templates_open_at_a_zoom_that_can_be_read_and_no_node_covers_another(report):
    assert {template: zoom for template, zoom in report["zoom"].items() if zoom < 0.65} == {}
    assert report["overlaps"] == {template: [] for template in TEMPLATES}


def test_the_slider_shows_two_different_pictures(comfy, report):
    compared = report["compared"]
    assert len(compared["a_images"]) == len(compared["b_images"]) > 0
    for a, b in zip(compared["a_images"], compared["b_images"], strict=True):
        assert ImageChops.difference(*(Image.open(comfy.file(image)).convert("RGB") for image in (a, b))).getbbox()


def check_runs(report, templates):
    assert report["ends"] == {renderer: dict.fromkeys(templates, "execution_success") for renderer in RENDERERS}
    for renderer in RENDERERS:
        for template in templates:
            words = {node: text.splitlines() for node, text in report["words"][renderer][template].items()}
            assert words.keys() == SAID[template].keys(), (renderer, template)
            for node, lines in words.items():
                begins = tuple(line.split()[0] for line in lines if line.strip())
                assert begins[: len(SAID[template][node])] == SAID[template][node], (renderer, template, lines)


def test_the_first_template_runs_and_its_words_are_drawn_in_both_renderers(report):
    check_runs(report, TEMPLATES[:1])


def test_words_of_cached_nodes_are_drawn_again(report):
    assert report["again"] == report["words"]["vue"][TEMPLATES[0]]


@pytest.mark.slow
def test_every_template_that_needs_no_download_runs_and_its_words_are_drawn_in_both_renderers(comfy, tmp_path):
    assert [template for template in TEMPLATES if template[0].isdigit()] == list(SAID)
    check_runs(drive(comfy, tmp_path, len(SAID), list(SAID)), list(SAID))


def test_a_blueprint_becomes_its_nodes_with_their_own_values(comfy, report):
    blueprints = report["blueprints"]
    inside = {name: {n["class_type"] for n in prompt.values()} for name, prompt in blueprints.items()}
    assert inside == {
        "HyperNoise for KSampler": {"HyperNoiseLoraLoader", "HyperNoiseModulateModel"},
        "Best of N": {"HyperNoiseLoadReward", "HyperNoiseKeepBest"},
    }
    known = comfy.get("/object_info")
    for node in (node for prompt in blueprints.values() for node in prompt.values()):
        words = known[node["class_type"]]["input"]
        defaults = {
            k: s[1]["default"]
            for k, s in {**words["required"], **words.get("optional", {})}.items()
            if len(s) > 1 and "default" in s[1]
        }
        assert {key: value for key, value in node["inputs"].items() if not isinstance(value, list)} == defaults
