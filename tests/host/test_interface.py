"""What the pack tells the page: nodes, tooltips, translations, help pages, templates."""

import json
from urllib.parse import quote

import pytest

from host.server import REPOSITORY

NODES = {
    "HyperNoiseLoraLoader",
    "HyperNoiseModulateNoise",
    "HyperNoiseModulateModel",
    "HyperNoiseLoadReward",
    "HyperNoiseRewardScore",
    "HyperNoiseKeepBest",
    "HyperNoiseKeepScores",
    "HyperNoiseCompare",
    "HyperNoiseSaveLora",
    "HyperNoiseLoadGenerator",
    "HyperNoiseTrain",
    "HyperNoiseOptimizeNoise",
}
"""Promises: workflows out there name them."""


@pytest.fixture(scope="module")
def nodes(comfy):
    return {name: node for name, node in comfy.get("/object_info").items() if name.startswith("HyperNoise")}


def inputs(node):
    return {**node["input"].get("required", {}), **node["input"].get("optional", {})}


def test_the_ids_stay_and_everything_has_words(nodes):
    assert nodes.keys() >= NODES
    for name, node in nodes.items():
        assert node["category"].split("/")[0] == "HyperNoise", name
        assert node["description"], name
        assert node["search_aliases"], name
        assert all(spec[1].get("tooltip") for spec in inputs(node).values()), name
        assert all(node["output_tooltips"] or [True] * len(node["output"])), name


@pytest.mark.parametrize("language", ["en", "zh"])
def test_translations_cover_every_word(comfy, nodes, language):
    served = comfy.get("/i18n")[language]["nodeDefs"]
    assert served == json.loads((REPOSITORY / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    for name, node in nodes.items():
        words = served[name]
        assert words["inputs"].keys() == inputs(node).keys()
        assert len(words["outputs"]) == len(node["output"])
        if language == "en":
            assert (words["display_name"], words["description"]) == (node["display_name"], node["description"])
            tooltips = {key: spec[1]["tooltip"] for key, spec in inputs(node).items()}
            assert {key: text["tooltip"] for key, text in words["inputs"].items()} == tooltips


def test_help_pages_and_their_pictures_are_served(comfy, nodes):
    for name in nodes:
        page = comfy.text(f"/extensions/ComfyUI-HyperNoise/docs/{name}.md")
        assert page.startswith("# ")
        assert all(key in page for key in inputs(nodes[name]))
        assert f"({name}.png)" in page
        assert comfy.text(f"/extensions/ComfyUI-HyperNoise/docs/{name}.png", binary=True).startswith(b"\x89PNG")


def test_templates_are_offered_with_thumbnails_and_notes(comfy):
    templates = comfy.get("/workflow_templates")["ComfyUI-HyperNoise"]
    assert len(templates) >= 6
    for template in templates:
        workflow = comfy.get(template_file(template, "json"))
        assert any(node["type"] == "MarkdownNote" for node in workflow["nodes"])
        assert comfy.text(template_file(template, "jpg"), binary=True).startswith(b"\xff\xd8")


def template_file(template, kind):
    return quote(f"/api/workflow_templates/ComfyUI-HyperNoise/{template}.{kind}")


def test_templates_say_where_the_page_can_download_what_comfyuis_own_loaders_ask_for(comfy):
    seen = 0
    for template in comfy.get("/workflow_templates")["ComfyUI-HyperNoise"]:
        for node in comfy.get(template_file(template, "json"))["nodes"]:
            asked = [str(value) for value in node.get("widgets_values", []) if str(value).endswith(".safetensors")]
            if not asked or node["type"].startswith("HyperNoise"):
                continue
            offered = node["properties"]["models"]
            assert [model["name"] for model in offered] == asked, template
            for model in offered:
                assert model["url"].startswith("https://huggingface.co/") and model["url"].endswith(model["name"])
                assert model["directory"] in ("checkpoints", "diffusion_models", "text_encoders", "vae")
            seen += 1
    assert seen > 0


def test_blueprints_are_offered_and_fit_the_nodes(comfy, nodes):
    offered = comfy.get("/global_subgraphs")
    ours = {own["name"]: key for key, own in offered.items() if own["info"]["node_pack"].endswith("ComfyUI-HyperNoise")}
    assert ours.keys() == {"HyperNoise for KSampler", "Best of N"}
    for key in ours.values():
        blueprint = json.loads(comfy.get(f"/global_subgraphs/{key}")["data"])
        (inside,) = blueprint["definitions"]["subgraphs"]
        within = {str(node["id"]): node for node in inside["nodes"]}
        for node in within.values():
            assert [own["name"] for own in node["inputs"]] == list(inputs(nodes[node["type"]]))
            widgets = [spec for spec in inputs(nodes[node["type"]]).values() if "default" in spec[1]]
            assert node["widgets_values"] == [spec[1]["default"] for spec in widgets]
        for number, widget in blueprint["nodes"][0]["properties"]["proxyWidgets"]:
            assert widget in inputs(nodes[within[number]["type"]])
