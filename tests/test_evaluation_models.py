"""The judges' models at toy size: loaded from folders, their arithmetic beside their classes' own."""

from typing import ClassVar

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_judges import save_judges
from transformers import Dinov2Model

from hypernoise_core.evaluation import detector as detector_module
from hypernoise_core.evaluation import phrases
from hypernoise_core.evaluation.clip import load_clip_score
from hypernoise_core.evaluation.colors import BACKGROUND, ColorClassifier, load_color_classifier
from hypernoise_core.evaluation.detector import load_detector
from hypernoise_core.evaluation.distances import load_diversity
from hypernoise_core.evaluation.geneval import COLORS, Detection
from hypernoise_core.evaluation.loading import check_source
from hypernoise_core.evaluation.vqa import attribute_binding, load_yes_no


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    return save_judges(tmp_path_factory.mktemp("judges"))


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Detect at 64 pixels instead of 800."""
    monkeypatch.setattr(detector_module, "SHORT_SIDE", 64)


def picture(width=48, height=32, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8))


def test_a_detector_gives_classes_scores_boxes_and_masks(judges):
    detector = load_detector(str(judges / "detector"))
    found = detector.detect(picture())
    assert found
    for thing in found:
        assert thing.label == "dog"
        assert 0.3 < thing.score <= 1
        left, top, right, bottom = map(int, thing.box)
        assert thing.mask.shape == (32, 48)
        assert thing.mask[top:bottom, left:right].sum() == thing.mask.sum() > 0
        assert thing.mask[top].any() and thing.mask[bottom - 1].any()
        assert thing.mask[:, left].any() and thing.mask[:, right - 1].any()
    with torch.no_grad():
        detector.model.class_predictor.bias.zero_()
        detector.model.class_predictor.bias[-1] = 20  # nothing there
    assert detector.detect(picture()) == []


def test_geneval_s_names_and_sizes(judges):
    detector = load_detector(str(judges / "detector"))
    names = set(detector.labels.values())
    assert {"computer mouse", "tv remote", "computer keyboard", "tv", "couch", "hair drier"} <= names
    detector.check_classes(names)
    older = ("motorbike", "aeroplane", "sofa", "pottedplant", "diningtable", "tvmonitor", "Remote")
    newer = ["motorcycle", "airplane", "couch", "potted plant", "dining table", "tv", "tv remote"]
    assert [detector_module._name(name) for name in older] == newer
    with pytest.raises(ValueError, match="'unicorn'"):
        detector.check_classes({"dog", "unicorn"})
    assert detector._size(picture(100, 50)) == {"height": 64, "width": 128}
    assert detector._size(picture(50, 50)) == {"height": 64, "width": 64}


class SpyBackbone:
    """Sees colours by their mean: text "red" and a red crop point the same way."""

    class model:
        device = "cpu"

    RGB: ClassVar = {"red": (1, 0, 0), "green": (0, 1, 0), "blue": (0, 0, 1)}

    def __init__(self):
        self.seen = []

    def image_features(self, images):
        self.seen.append(images)
        return images.mean((2, 3))

    def text_features(self, prompts, long_prompts):
        named = [next((c for c in COLORS if c in prompt.split()[4].split("-")), None) for prompt in prompts]
        assert None not in named
        return torch.tensor([self.RGB.get(color, (0.0, 0.0, 0.0)) for color in named]).float()


def test_colours_are_named_on_the_thing_alone():
    backbone = SpyBackbone()
    image = Image.new("RGB", (40, 40), "blue")
    image.paste((255, 0, 0), (10, 10, 20, 30))
    mask = np.zeros((40, 40), bool)
    mask[10:30, 10:20] = True
    classify = ColorClassifier(backbone)
    things = [Detection("dog", 0.9, (5, 5, 35, 35), mask), Detection("dog", 0.9, (20, 0, 40, 40))]
    assert classify(image, things, "dog") == ["red", "blue"]
    assert backbone.seen[0].shape == (1, 3, 30, 30)
    gray = int(BACKGROUND[1] * 2, 16) / 255
    assert torch.allclose(backbone.seen[0][0, :, 0, 0], torch.full((3,), gray))  # what is not the thing is painted over


def test_a_real_clip_names_colours_and_scores(judges):
    classify = load_color_classifier(str(judges / "clip"))
    names = classify(
        picture(), [Detection("dog", 0.9, (3.4, 2.2, 30.6, 20.8)), Detection("dog", 0.8, (0, 0, 0, 0))], "dog"
    )
    assert len(names) == 2
    assert set(names) <= set(COLORS)
    scores = load_clip_score(str(judges / "clip"))(torch.rand(3, 3, 40, 40), "a photo of a dog")
    assert len(set(scores)) == 3
    assert all(-1 <= score <= 1 for score in scores)


def test_yes_or_no_equals_the_class_s_own_first_answer(judges):
    ask = load_yes_no(str(judges / "blip"))
    questions = ["is there a Dog?", "a red car and the green bench?"]
    got = ask(picture(), questions)
    model, tokenizer = ask._model, ask._tokenizer
    pixels = ask._processor(images=picture(), return_tensors="pt").pixel_values
    for question, probability in zip(questions, got, strict=True):
        ids = tokenizer(question.lower(), return_tensors="pt").input_ids
        ids[:, 0] = model.config.text_config.bos_token_id + 1
        made = model.generate(
            ids, pixels, max_new_tokens=1, output_logits=True, return_dict_in_generate=True, do_sample=False
        )
        yes, no = (made.logits[0][0, tokenizer.convert_tokens_to_ids(word)].exp() for word in ("yes", "no"))
        assert probability == pytest.approx((yes / (yes + no)).item(), abs=1e-5)
    assert abs(got[0] - got[1]) > 1e-4
    assert abs(got[0] - ask(picture(seed=1), questions[:1])[0]) > 1e-5


def test_attribute_binding_is_the_product_over_noun_phrases():
    asked = []

    def ask(image, questions):
        asked.extend(questions)
        return [0.5, 0.8][: len(questions)]

    assert attribute_binding(ask, None, ["a red car", "a dog"]) == pytest.approx(0.4)
    assert asked == ["a red car?", "a dog?"]
    assert attribute_binding(ask, None, []) == 1


def test_diversity_is_zero_for_equal_pictures_only(judges):
    same, other = torch.rand(1, 3, 40, 40).repeat(3, 1, 1, 1), torch.rand(3, 3, 40, 40)
    for name in ("pixels", "dinov2"):
        measure = load_diversity(name, str(judges / "dino"))
        assert measure(same) == pytest.approx(0, abs=1e-5)
        assert measure(other) > 1e-4


def test_dinov2_compares_class_tokens(judges):
    images = torch.rand(2, 3, 28, 28)
    images = (images * 255).round() / 255
    model = Dinov2Model.from_pretrained(judges / "dino").eval()
    measure = load_diversity("dinov2", str(judges / "dino"))
    with torch.no_grad():
        mean, std = (
            torch.tensor(v).view(3, 1, 1) for v in (measure._processor.image_mean, measure._processor.image_std)
        )
        a, b = model(pixel_values=(images - mean) / std).last_hidden_state[:, 0]
    assert measure(images) == pytest.approx(1 - torch.cosine_similarity(a, b, dim=0).item(), abs=1e-3)


def test_what_is_missing_is_said_before_any_work(judges, monkeypatch):
    with pytest.raises(ValueError, match=r"^detector cannot be loaded from 'nobody/nothing'.*download all of"):
        check_source("nobody/nothing", "mask2former", "detector")
    with pytest.raises(ValueError, match="a clip model; give one of kind blip"):
        check_source(str(judges / "clip"), "blip", "vqa")
    (judges / "blip" / "model.safetensors").rename(judges / "blip" / "gone")
    try:
        with pytest.raises(ValueError, match=r"^vqa cannot be loaded"):
            load_yes_no(str(judges / "blip"))
    finally:
        (judges / "blip" / "gone").rename(judges / "blip" / "model.safetensors")
    with pytest.raises(ValueError, match="choose from pixels, dinov2, lpips"):
        load_diversity("beauty")


def test_noun_phrases_are_spacy_s(monkeypatch):
    import sys
    import types

    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(ValueError, match=r"pip install 'comfyui-hypernoise\[evaluate\]'"):
        phrases.load_noun_phrases()
    chunk = types.SimpleNamespace(text="a red car")
    fake = types.SimpleNamespace(load=lambda name: lambda prompt: types.SimpleNamespace(noun_chunks=[chunk]))
    monkeypatch.setitem(sys.modules, "spacy", fake)
    assert phrases.load_noun_phrases()("a red car stands there") == ["a red car"]
