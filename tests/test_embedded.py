"""The embedded world: prompts, drawings and their exact detector, the benchmark, and what is shipped."""

from collections import Counter

import numpy as np
import pytest
import torch
from conftest import scene_for

from hypernoise_core import LoraHypernetwork
from hypernoise_core.embedded import HYPERNOISE_FILE
from hypernoise_core.embedded.benchmark import PER_PROMPT, Made, cases, measure, paired_interval
from hypernoise_core.embedded.detector import detect, judge
from hypernoise_core.embedded.prompts import CATEGORIES, Prompt, Want, prompts
from hypernoise_core.embedded.scenes import SHAPES, Scene, Thing, draw, random_scene
from train.evaluation.embedded import method


@pytest.mark.parametrize("category", CATEGORIES)
def test_the_detector_is_right_on_every_drawn_category(category):
    rng = np.random.default_rng(0)
    own = [p for held_out in (False, True) for p in prompts(held_out) if p.category == category]
    for i in range(100):
        prompt = own[i % len(own)]
        verdict = judge(draw(scene_for(prompt, rng)), prompt)
        assert verdict.correct, prompt
        assert verdict.strict, prompt


def test_the_detector_finds_exactly_what_is_drawn():
    rng = np.random.default_rng(1)
    for _ in range(200):
        scene = random_scene(rng)
        found = detect(draw(scene))
        assert Counter((t.shape, t.color) for t in found.things) == Counter((t.shape, t.color) for t in scene.things)
        assert not found.unknown


WRONG = {
    "another shape": ("a photo of a square", [("cross", "red")]),
    "another colour": ("a photo of a red square", [("square", "blue")]),
    "colours swapped": ("a photo of a red square and a blue cross", [("square", "blue"), ("cross", "red")]),
    "one missing": ("a photo of a square and a cross", [("square", "red")]),
    "one too many": ("a photo of two squares", [("square", "red")] * 3),
    "other side": ("a photo of a cross right of a square", [("cross", "red"), ("square", "blue")]),
}
PLACES = [(12, 32), (32, 32), (52, 32)]


@pytest.mark.parametrize("case", WRONG)
def test_the_detector_says_no(case):
    text, drawn = WRONG[case]
    prompt = next((p for held_out in (False, True) for p in prompts(held_out) if p.text == text), None)
    if prompt is None:
        prompt = Prompt(text, "color_attr", (Want("square", "red"), Want("cross", "blue")))
    things = tuple(Thing(s, c, *place, 7) for (s, c), place in zip(drawn, PLACES, strict=False))
    assert not judge(draw(Scene(things)), prompt).correct


def test_extra_things_are_only_strictly_wrong():
    prompt = next(p for p in prompts(True) if p.text == "a photo of a square")
    things = (Thing("square", "red", 12, 32, 7), Thing("cross", "blue", 50, 32, 7))
    verdict = judge(draw(Scene(things)), prompt)
    assert verdict.correct
    assert not verdict.strict


def test_ghosts_and_smears_are_no_things():
    picture = draw(Scene((Thing("square", "red", 32, 32, 9),)))
    empty = draw(Scene(()))
    assert not detect(0.25 * picture + 0.75 * empty).things
    smear = picture.copy()
    smear[32:60] = smear[32]
    found = detect(smear)
    assert (found.things, found.unknown) == ((), 1)


def test_held_out_prompts_are_held_out():
    training, judging = ({p.text for p in prompts(h) if p.category != "single_object"} for h in (False, True))
    assert not training & judging
    for held_out in (False, True):
        assert {p.category for p in prompts(held_out)} == set(CATEGORIES)
    assert {w.shape for p in prompts(False) for w in p.wants} == set(SHAPES)


def test_cases_are_paired_and_balanced():
    todo = cases(120)
    assert todo == cases(120)
    assert len({case.seed for case in todo}) == 120
    assert set(Counter(case.prompt.category for case in todo).values()) == {20}
    assert all(len({c.prompt for c in todo[i : i + PER_PROMPT]}) == 1 for i in range(0, 120, PER_PROMPT))
    with pytest.raises(ValueError, match="multiple of 60"):
        cases(100)


def test_the_benchmark_measures_what_it_says(generator, reward):
    todo = cases(60)
    base = measure(generator, reward, method(generator), todo)
    again = measure(generator, reward, method(generator), todo, batch=7)
    assert np.array_equal(base.correct, again.correct)
    assert paired_interval(again, base) == (0, 0, 0)
    one_picture = measure(
        generator, reward, lambda x0, c, t: Made(torch.full((len(x0), 3, 64, 64), 0.5), x0 + 0.1), todo
    )
    summary = one_picture.summary()
    assert summary["diversity"] == 0
    assert summary["detector_mean"] == 0
    assert summary["kl"] == pytest.approx(0.5 * 1024 * 0.01, rel=1e-3)
    assert paired_interval(one_picture, base)[0] == pytest.approx(-base.summary()["detector_mean"])


FIFTH = [case for i, case in enumerate(cases(900)) if i // PER_PROMPT % 5 == 0]
"""Every fifth prompt's of 900 cases: as many of each category."""


@pytest.fixture(scope="module")
def base(generator, reward):
    """The shipped generator."""
    return measure(generator, reward, method(generator), FIFTH)


def test_the_shipped_generator_makes_mistakes_that_steps_mend(generator, reward, base):
    found = base.summary()
    assert 0.48 < found["detector_mean"] < 0.67
    assert found["diversity"] > 0.05
    for category in (own for own in CATEGORIES if found["categories"][own] == 0):  # one is rare
        rest = [case for case in cases(900) if case.prompt.category == category and case not in FIFTH]
        assert measure(generator, reward, method(generator), rest).correct.any(), category
    steps = FIFTH[::3]
    four_steps = measure(generator, reward, method(generator, steps=4), steps)
    assert four_steps.correct.mean() > base.correct[::3].mean()


def test_the_shipped_adapter_mends_mistakes(generator, reward, base):
    adapter = LoraHypernetwork.load(generator, HYPERNOISE_FILE)
    hypernoise = measure(generator, reward, method(generator, adapter), FIFTH)
    _, low, _ = paired_interval(hypernoise, base)
    assert low > 0
    assert hypernoise.summary()["kl"] <= 5
    assert hypernoise.summary()["noise_std"] == pytest.approx(1, abs=0.02)
    assert hypernoise.summary()["diversity"] == pytest.approx(base.summary()["diversity"], rel=0.1)
