"""The real page in Chromium: each template opened from the template browser, the first run to its end.

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


@pytest.fixture(scope="module")
def page(comfy, tmp_path_factory):
    """A folder with what the page did: report.json and a prompt of each template."""
    out = Path(os.environ.get("HYPERNOISE_SCREENSHOTS") or tmp_path_factory.mktemp("page"))
    out.mkdir(parents=True, exist_ok=True)
    script = Path(__file__).parent / "page.js"
    subprocess.run(
        ["node", script, comfy.url, CHROMIUM, out, *TEMPLATES],
        env={**os.environ, "NODE_PATH": str(PLAYWRIGHT)}, check=True, timeout=900,
    )  # fmt: skip
    return out


def test_no_node_is_missing_and_no_error_is_ours(page):
    report = json.loads((page / "report.json").read_text())
    assert report["missing"] == {template: [] for template in TEMPLATES}
    assert [error for error in report["errors"] if not any(noise in error for noise in NOT_OURS)] == []


@pytest.mark.parametrize("template", TEMPLATES)
def test_the_api_twin_is_what_the_page_would_post(page, template):
    posted = json.loads((page / f"{template}.json").read_text())
    assert posted == json.loads((WORKFLOWS / "api" / f"{template}.json").read_text())


def test_the_slider_shows_two_different_pictures(comfy, page):
    compared = json.loads((page / "report.json").read_text())["compared"]
    assert len(compared["a_images"]) == len(compared["b_images"]) > 0
    for a, b in zip(compared["a_images"], compared["b_images"], strict=True):
        assert ImageChops.difference(*(Image.open(comfy.file(image)).convert("RGB") for image in (a, b))).getbbox()


def test_a_nodes_last_words_are_drawn_on_it_in_both_renderers(page):
    words = json.loads((page / "report.json").read_text())["words"]
    assert words.keys() == {"vue", "classic"}
    for seen in words.values():
        assert [line.split()[0] for line in seen.splitlines()] == ["base", "HyperNoise", "difference", "better"]


def test_words_of_cached_nodes_are_drawn_again_and_once(page):
    report = json.loads((page / "report.json").read_text())
    (words,) = report["again"]
    assert words.split() == report["words"]["vue"].split()


def test_a_blueprint_becomes_its_nodes_with_their_own_values(comfy, page):
    blueprints = json.loads((page / "report.json").read_text())["blueprints"]
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
