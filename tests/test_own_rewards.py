"""Rewards of the user's own that fail, or that cannot teach: told at once, in words that name the class."""

import re

import pytest
import torch
from test_critic_training import make
from toy_world import ToyGenerator

from hypernoise_core import Reward, RewardEnsemble
from hypernoise_core.rewards.checked import RewardError
from hypernoise_core.rewards.redness import Redness
from hypernoise_core.training import Notice
from train import __main__ as train_command
from train.cli import run_command


@pytest.fixture(scope="module")
def generator():
    return ToyGenerator()


class Own(Reward):
    name = "own"

    def __init__(self, answer, differentiable=True):
        self.answer, self.differentiable = answer, differentiable

    def score(self, images, text):
        return self.answer(images)


def ensemble(answer, differentiable=True):
    return RewardEnsemble([(Own(answer, differentiable), 1.0)])


ODD = {
    "one number for the batch": (lambda images: images.mean(), "returned shape [] for 3 images: return a tensor"),
    "a column": (lambda images: images.mean((1, 2, 3))[:, None], "returned shape [3, 1] for 3 images"),
    "a score too few": (lambda images: images.mean((1, 2, 3))[1:], "with one score for each, [3]"),
    "a list": (lambda images: [0.0] * 3, "returned a list for 3 images"),
    "nothing": (lambda images: None, "returned a NoneType for 3 images"),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("differentiable", [True, False])
def test_what_is_no_score_for_each_image_is_told(odd, differentiable):
    answer, words = ODD[odd]
    reward = ensemble(answer, differentiable)
    with pytest.raises(RewardError, match=re.escape(f"reward 'own' (Own) {words}" if "returned" in words else words)):
        reward.score(torch.rand(3, 3, 8, 8), reward.encode_text(["a"] * 3))


def test_a_reward_without_the_gradient_that_it_promises_is_refused_before_a_step(generator, prompts):
    answer = lambda images: images.detach().mean((1, 2, 3))  # noqa: E731
    trainer = make(generator, ensemble(answer), prompts, teacher="gradient")
    with pytest.raises(ValueError, match=r"rewards: 'own' \(Own\) gives no gradient .* take teacher critic"):
        list(trainer.events())
    assert trainer.step == 0
    assert len(list(make(generator, ensemble(answer, False), prompts).events())) == 5


def test_an_error_in_it_names_its_file_and_line(generator, prompts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [
        "from hypernoise_core import Reward",
        "",
        "class Broken(Reward):",
        "    name = 'broken'",
        "    def score(self, images, text):",
        "        return helper(images)",
        "",
        "def helper(images):",
        "    return 1 / len([])",
    ]
    (tmp_path / "broken_reward.py").write_text("\n".join(lines))
    (tmp_path / "p.txt").write_text("two crosses\n")
    line = ["--rewards=broken_reward:Broken", "--prompts=p.txt", "--save_dir=run", "--batch_size=2", "--trackers="]
    assert run_command(train_command.main, "train", line) == 2
    told = capsys.readouterr().err.splitlines()[-1]
    place = f"{tmp_path / 'broken_reward.py'}:9"
    assert told == f"train: error: reward 'broken' (Broken) failed at {place}: ZeroDivisionError: division by zero"
    assert run_command(train_command.main, "train", [*line, "--save_dir=again", "--debug"]) == 2
    told = capsys.readouterr().err
    assert "Traceback (most recent call last)" in told
    assert "return helper(images)" in told


def test_errors_of_the_projects_own_rewards_stay_what_they_are():
    reward = RewardEnsemble([(Redness(), 1.0)])
    with pytest.raises(IndexError):
        reward.score(torch.rand(3), reward.encode_text(["a"] * 3))


@pytest.mark.parametrize("same", [True, False])
def test_a_reward_that_is_the_same_everywhere_is_told_after_the_warm_up(generator, prompts, same):
    def answer(images):
        return torch.full((len(images),), 0.5) if same else images.mean((1, 2, 3))

    events = list(make(generator, ensemble(answer, False), prompts, critic_warm_up=12).events())
    told = [event for event in events if isinstance(event, Notice)]
    assert len(told) == same
    if same:
        assert events.index(told[0]) == 3
        assert "rewards gave every image of the warm-up nearly the same score, 0.5" in told[0].text
