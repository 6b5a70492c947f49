"""GenEval's rules on detectors whose answers are known, each right and wrong; DPG-Bench's rule; the intervals."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hypernoise_core.evaluation.dpg import Question, dependent_score, kind_scores
from hypernoise_core.evaluation.geneval import Detection, check_metadata, confident, judge, relations
from hypernoise_core.evaluation.statistics import mean_of_groups, paired_interval
from train.evaluation.benchmark import Item, cells, grid
from train.evaluation.geneval import judge_with

LEFT, MIDDLE, RIGHT = (0, 40, 20, 60), (40, 40, 60, 60), (80, 40, 100, 60)
ABOVE, BELOW = (40, 0, 60, 20), (40, 80, 60, 100)


def thing(label, score=0.95, box=MIDDLE):
    return Detection(label, score, box)


class FakeDetector:
    def __init__(self, *things):
        self.things = things

    def detect(self, image):
        return list(self.things)


def verdict(row, *things, colors=()):
    """(right, reason) through the judge as the command uses it."""
    named = iter(colors)
    own = judge_with(FakeDetector(*things), lambda image, found, name: [next(named) for _ in found])
    item = Item("00000", 0, row["tag"], "x", row)
    check_metadata(row | {"prompt": "x"})
    scores, details = own(item, [Image.new("RGB", (100, 100))])
    return bool(scores["geneval"][0]), details[0]["reason"]


SINGLE = {"tag": "single_object", "include": [{"class": "dog", "count": 1}]}
TWO = {"tag": "two_object", "include": [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}]}
THREE = {
    "tag": "counting",
    "include": [{"class": "dog", "count": 3}],
    "exclude": [{"class": "dog", "count": 4}],
}
RED = {"tag": "colors", "include": [{"class": "dog", "count": 1, "color": "red"}]}
BINDING = {
    "tag": "color_attr",
    "include": [{"class": "dog", "count": 1, "color": "red"}, {"class": "cat", "count": 1, "color": "blue"}],
}


def position(relation):
    include = [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": [relation, 0]}]
    return {"tag": "position", "include": include}


DOGS = [thing("dog", score) for score in (0.99, 0.97, 0.95, 0.93)]

CASES = {
    "there": (SINGLE, [thing("dog", 0.31)], (), True, ""),
    "not sure enough": (SINGLE, [thing("dog", 0.3)], (), False, "expected dog>=1, found 0"),
    "another": (SINGLE, [thing("cat")], (), False, "expected dog>=1, found 0"),
    "more than asked for": (SINGLE, [*DOGS], (), True, ""),
    "both": (TWO, [thing("dog"), thing("cat")], (), True, ""),
    "one of two": (TWO, [thing("dog")], (), False, "expected cat>=1, found 0"),
    "three": (THREE, DOGS[:3], (), True, ""),
    "two of three": (THREE, DOGS[:2], (), False, "expected dog>=3, found 2"),
    "four for three": (THREE, DOGS, (), False, "expected dog<4, found 4"),
    "counting needs more confidence": (THREE, [*DOGS[:2], thing("dog", 0.9)], (), False, "found 2"),
    "an unsure fourth does not count": (THREE, [*DOGS[:3], thing("dog", 0.85)], (), True, ""),
    "colour": (RED, [thing("dog")], ["red"], True, ""),
    "another colour": (RED, [thing("dog")], ["blue"], False, "expected red dog>=1, found 0; they are blue"),
    "the surest has the colour": (RED, [thing("dog", 0.5), thing("dog", 0.9)], ["red"], True, ""),
    "bound": (BINDING, [thing("dog"), thing("cat")], ["red", "blue"], True, ""),
    "swapped": (BINDING, [thing("dog"), thing("cat")], ["blue", "red"], False, "expected blue cat"),
    "left": (position("left of"), [thing("cat"), thing("dog", box=LEFT)], (), True, ""),
    "right for left": (position("left of"), [thing("cat"), thing("dog", box=RIGHT)], (), False, "found right of"),
    "right": (position("right of"), [thing("cat"), thing("dog", box=RIGHT)], (), True, ""),
    "above": (position("above"), [thing("cat"), thing("dog", box=ABOVE)], (), True, ""),
    "below for above": (position("above"), [thing("cat"), thing("dog", box=BELOW)], (), False, "found below"),
    "below": (position("below"), [thing("cat"), thing("dog", box=BELOW)], (), True, ""),
    "on top of one another": (position("left of"), [thing("cat"), thing("dog")], (), False, "found neither"),
    "nothing to be left of": (position("left of"), [thing("dog", box=LEFT)], (), False, "no target for dog"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_rule_right_and_wrong(case):
    row, things, colors, correct, reason = CASES[case]
    got, why = verdict(row, *things, colors=colors)
    assert got == correct
    assert (reason in why) if reason else not why


def test_at_most_16_things_of_a_class_are_looked_at():
    assert len(confident([thing("dog", 0.5 + i / 100) for i in range(20)], "two_object")["dog"]) == 16
    assert confident([thing("dog", 0.2)], "two_object") == {}


def test_positions_count_from_a_tenth_of_both_sizes_on():
    """Boxes 20 wide: a centre has to be more than 4 pixels away."""
    assert relations(thing("a", box=(4, 0, 24, 20)), thing("b", box=(0, 0, 20, 20))) == set()
    # of an offset of (9, 0) only 5 are beyond the threshold: 5 / 9 is more than a half
    assert relations(thing("a", box=(9, 0, 29, 20)), thing("b", box=(0, 0, 20, 20))) == {"right of"}
    assert relations(thing("a", box=(7, 0, 27, 20)), thing("b", box=(0, 0, 20, 20))) == set()
    assert relations(thing("a", box=(50, 50, 70, 70)), thing("b", box=(0, 0, 20, 20))) == {"right of", "below"}


def test_no_colour_is_asked_for_where_none_is_wanted():
    def never(things, name):
        raise AssertionError

    assert judge(SINGLE, {"dog": [thing("dog")]}, never).correct


WRONG_METADATA = {
    "no tag": ({"prompt": "x", "include": []}, "no tag"),
    "nothing to include": ({"tag": "counting", "prompt": "x", "include": []}, "no list of things"),
    "no class": ({"tag": "counting", "prompt": "x", "include": [{"count": 1}]}, "thing 0 has no class"),
    "count": ({"tag": "a", "prompt": "x", "include": [{"class": "dog", "count": 0}]}, "count of thing 0"),
    "colour": ({"tag": "a", "prompt": "x", "include": [{"class": "dog", "count": 1, "color": "teal"}]}, "'teal'"),
    "position of what comes later": (
        {"tag": "a", "prompt": "x", "include": [{"class": "dog", "count": 1, "position": ["left of", 0]}]},
        "position of thing 0",
    ),
}


@pytest.mark.parametrize("case", WRONG_METADATA)
def test_wrong_metadata_is_named(case):
    row, words = WRONG_METADATA[case]
    with pytest.raises(ValueError, match=words):
        check_metadata(row)


def test_every_line_of_the_real_metadata_is_understood():
    path = Path(__file__).parents[2] / "shared" / "prompts" / "geneval" / "evaluation_metadata.jsonl"
    if not path.is_file():
        pytest.skip(f"GenEval's metadata is not at {path}")
    for line in path.read_text().splitlines():
        check_metadata(json.loads(line))


QUESTIONS = [
    Question(1, "is there a dog?", (), "entity"),
    Question(2, "is the dog red?", (1,), "attribute"),
    Question(3, "does the red dog run?", (2,), "attribute"),
    Question(4, "is there a car?", (), "entity"),
]


def test_a_yes_counts_only_if_what_it_depends_on_does():
    yes = {1: False, 2: True, 3: True, 4: True}
    assert dependent_score(QUESTIONS, yes) == 0.25
    assert dependent_score(QUESTIONS[::-1], yes) == 0.25  # in whatever order they come
    assert dependent_score(QUESTIONS, dict.fromkeys(range(1, 5), True)) == 1
    assert kind_scores(QUESTIONS, yes) == {"attribute": 1, "entity": 0.5}


def test_intervals_cover_the_truth_and_only_that():
    """Of 200 experiments the 95 % interval holds the true difference in about 190."""
    random = np.random.default_rng(0)
    covered = 0
    for seed in range(200):
        groups = [random.normal(0.3, 1, 60), random.normal(0.1, 1, 40)]
        interval = paired_interval(groups, samples=400, seed=seed)
        covered += interval.low <= 0.2 <= interval.high
    assert 178 <= covered <= 199
    assert mean_of_groups([np.ones(10), np.zeros(90)]) == 0.5
    assert paired_interval([np.full(5, 0.25)]).low == 0.25


def test_a_grid_comes_apart_as_it_was_put_together():
    images = [Image.new("RGB", (4, 3), (i, 0, 0)) for i in range(4)]
    for count in (1, 2, 3, 4):
        columns = min(2, count)
        whole = grid(images[:count], columns)
        assert [cell.getpixel((1, 1))[0] for cell in cells(whole, count, columns)] == list(range(count))
    assert grid(images, 2).size == (8, 6)
