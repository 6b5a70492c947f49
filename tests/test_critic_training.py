"""Training by a critic: from scores alone, whatever the reward is, and exactly as if nothing had interrupted it."""

import math
from copy import deepcopy

import pytest
import torch
from toy_world import ToyGenerator

from hypernoise_core import Reward, RewardEnsemble, Trainer, TrainingConfig
from hypernoise_core.hypernetworks.critic import Critic
from hypernoise_core.reading import Reading
from hypernoise_core.rewards.given import GivenScores
from hypernoise_core.rewards.normalization import Normalization
from hypernoise_core.rewards.redness import Redness
from hypernoise_core.training import (
    ScoredNoise,
    StepDone,
    StepSkipped,
    Validated,
    WarmStart,
    load_trainer_state,
    trainer_state,
)
from hypernoise_core.training.replay import Replay
from hypernoise_core.training.scores_file import add_scores, read_scores
from hypernoise_core.training.validation import agreement

SMALL = dict(
    hypernetwork="head",
    teacher="critic",
    head_width=32,
    head_depth=1,
    critic_width=32,
    critic_depth=1,
    critic_warm_up=8,
    replay=64,
    batch_size=4,
    max_steps=3,
    temperature=0.05,
    diagnostics_every=0,
)


@pytest.fixture(scope="module")
def generator():
    """A toy: `make demo` and the benchmark train on the embedded one."""
    return ToyGenerator()


class InNumpy(Reward):
    """How red a picture is, by arithmetic that torch does not see."""

    name = "numpy"
    differentiable = False

    def __init__(self):
        self.pictures = 0

    def score(self, images, text):
        assert not images.requires_grad
        self.pictures += len(images)
        r, g, b = images.detach().cpu().numpy().mean((2, 3)).T
        return torch.from_numpy(r - (g + b) / 2)


def make(generator, reward, prompts, **changes):
    rewards = reward if isinstance(reward, RewardEnsemble) else RewardEnsemble([(reward, 1.0)])
    return Trainer(generator, rewards, prompts, TrainingConfig(**{**SMALL, **changes}))


def everything(trainer):
    return {name: tensor.clone() for name, tensor in trainer_state(trainer).tensors.items()}


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def score_of(generator, reward, adapter, prompts):
    """The mean score of pictures of unseen seeds, with an adapter or without."""
    conditioning = generator.encode(prompts * 4)
    x0 = torch.cat([generator.noise(1, seed=9000 + i) for i in range(4 * len(prompts))])
    with torch.no_grad():
        images = generator.generate(x0, conditioning) if adapter is None else adapter.generate(x0, conditioning)
        return reward.score(images, None).mean().item()


@pytest.mark.parametrize("kind", ["head", "lora"])
def test_a_reward_without_a_gradient_teaches(generator, prompts, kind):
    reward = InNumpy()
    lora = {"rank": 4, "alpha": 8.0, "lr": 3e-3} if kind == "lora" else {"lr": 3e-3}
    sizes = {"batch_size": 16, "critic_warm_up": 128, "max_steps": 12, "replay": 1024, "temperature": 1e-3}
    trainer = make(generator, reward, prompts, hypernetwork=kind, **sizes, **lora)
    before = {name: weight.clone() for name, weight in generator.denoiser.state_dict().items()}
    events = list(trainer.events())
    base, trained = (score_of(generator, reward, own, prompts) for own in (None, trainer.adapter))
    assert trained > base + 0.01
    assert equal(before, generator.denoiser.state_dict())
    told = [event for event in events if isinstance(event, WarmStart)]
    assert [event.what for event in told] == ["critic"] * 8
    assert (told[-1].done, told[-1].total) == (128, 128)
    last = [event.metrics for event in events if isinstance(event, StepDone)][-1]
    assert {"critic/loss", "critic/bias", "reward", "reward/numpy", "kl", "alignment"} <= last.keys()
    assert math.isfinite(last["critic/bias"])


def test_one_call_has_a_gradient_whatever_the_steps(generator, prompts):
    """Neither decoder nor reward nor the later steps of the sampler are differentiated through."""
    trainer = make(generator, InNumpy(), prompts, steps=3, between_steps="keep-moved", critic_warm_up=4, max_steps=1)
    differentiated = []
    hook = generator.denoiser.register_forward_hook(lambda *out: differentiated.append(out[-1][0].requires_grad))
    try:
        list(trainer.events())
    finally:
        hook.remove()
    assert differentiated.count(True) == 1
    assert differentiated.count(False) == 1 + 3 + 1 + 3  # a reading and a picture, in the warm-up and in the step


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_share_of_the_pictures_is_drawn_and_scored(generator, prompts, share):
    reward = InNumpy()
    trainer = make(generator, reward, prompts, batch_size=8, micro_batch_size=2, score_share=share, max_steps=2)
    steps = [event.metrics for event in trainer.events() if isinstance(event, StepDone)]
    assert reward.pictures == share * (8 + 16)
    assert trainer.teacher.replay.added == share * (8 + 16)
    assert all(abs(metrics["reward"]) < 1 for metrics in steps)
    assert steps[0]["reward"] == pytest.approx(steps[0]["reward/numpy"])


class Moody(InNumpy):
    """One that cannot judge some pictures."""

    def __init__(self, fails):
        super().__init__()
        self.fails = fails

    def score(self, images, text):
        scores = super().score(images, text)
        scores[: round(self.fails * len(scores))] = float("nan")
        return scores


def test_pictures_that_the_reward_cannot_judge_are_left_out(generator, prompts):
    trainer = make(generator, Moody(0.25), prompts)
    events = list(trainer.events())
    steps = [event.metrics for event in events if isinstance(event, StepDone)]
    assert len(steps) == 3
    assert all(math.isfinite(value) for metrics in steps for value in metrics.values())
    assert trainer.teacher.replay.added == 0.75 * (8 + 12)


def test_running_normalisation_sees_what_a_critic_learns_from(generator, prompts):
    normalization = Normalization.of_kind("running")
    ensemble = RewardEnsemble([(InNumpy(), 1.0)], normalization=normalization)
    list(make(generator, ensemble, prompts, max_steps=1).events())
    plain = make(generator, InNumpy(), prompts, max_steps=1)
    list(plain.events())
    assert normalization.state_dict() != Normalization.of_kind("running").state_dict()
    assert ensemble.combine({"numpy": plain.teacher.replay.scores}).mean().abs() < 0.5


def test_a_step_without_scores_is_skipped_and_says_so(generator, prompts):
    trainer = make(generator, Moody(0.75), prompts)
    events = trainer.events()
    skipped = next(event for event in events if isinstance(event, StepSkipped))
    assert skipped.reason == "the reward is not finite for 75% of the images"
    assert trainer.step == 0


def test_a_stopped_run_goes_on_bit_for_bit(generator, prompts):
    settings = {"max_steps": 5, "iterations": 3, "score_share": 0.5, "ema_decay": 0.9, "replay": 16}
    whole = make(generator, InNumpy(), prompts, **settings)
    told = [repr(event) for event in whole.events()]
    for stop in (1, 2, 4):
        first, second = (make(generator, InNumpy(), prompts, **settings) for _ in range(2))
        events = first.events()
        heard = [repr(next(events)) for _ in range(stop)]
        assert load_trainer_state(second, trainer_state(first)) == []
        heard += [repr(event) for event in second.events()]
        assert heard == told
        assert equal(everything(second), everything(whole))


def test_a_replay_that_was_not_saved_is_filled_again_and_told(generator, prompts, monkeypatch):
    monkeypatch.setattr("hypernoise_core.training.teachers.critic.SAVED_AT_MOST", 0)
    first, second = (make(generator, InNumpy(), prompts) for _ in range(2))
    list(first.events())
    (told,) = load_trainer_state(second, trainer_state(first))
    assert told == "replay is not in the checkpoint: critic_warm_up, 8 images, is made again first"
    assert second.teacher.warm_up_left == 8


class Interrupting(InNumpy):
    """Raises at one of its calls."""

    def __init__(self, at):
        super().__init__()
        self.at, self.calls = at, 0

    def score(self, images, text):
        self.calls += 1
        if self.calls == self.at:
            raise KeyboardInterrupt
        return super().score(images, text)


@pytest.mark.parametrize("at", [2, 4])
def test_an_interrupted_event_leaves_everything_as_before(generator, prompts, at):
    settings = {"micro_batch_size": 2, "critic_warm_up": 4, "max_steps": 2}
    whole, stopped = (make(generator, reward, prompts, **settings) for reward in (InNumpy(), Interrupting(at)))
    told = [repr(event) for event in whole.events()]
    events, heard = stopped.events(), []
    with pytest.raises(KeyboardInterrupt):
        while True:
            before = everything(stopped)
            heard.append(repr(next(events)))
    assert equal(everything(stopped), before)
    heard += [repr(event) for event in stopped.events()]
    assert heard == told
    assert equal(everything(stopped), everything(whole))


def test_a_critic_that_is_interrupted_while_it_learns_is_as_before(generator, prompts, monkeypatch):
    trainer = make(generator, InNumpy(), prompts, max_steps=2)
    events = trainer.events()
    for _ in range(3):
        next(events)
    before = everything(trainer)
    draw, calls = Replay.draw, []

    def interrupted(self, *arguments):
        calls.append(1)
        if len(calls) == 2:  # the first of its two steps is made
            raise KeyboardInterrupt
        return draw(self, *arguments)

    monkeypatch.setattr(Replay, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(events)
    assert equal(everything(trainer), before)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"teacher": "gradient"}, "rewards: numpy has no gradient, .*: take teacher critic"),
        ({"train_type": "finetune"}, "teacher is critic, .* leave it out for train_type finetune"),
        ({"teacher": "gradient", "score_share": 0.5}, "score_share is 0.5, and the gradient needs all scores"),
        ({"teacher": "reward"}, "teacher is 'reward': give gradient or critic"),
        ({"critic_width": 30}, "critic_width is 30: give a multiple of 16"),
        ({"score_share": 0.0}, "score_share is 0, so nothing would be learnt: give scores"),
        ({"score_share": 1.5}, "score_share is 1.5: give a number from 0 to 1"),
        ({"replay_gib": 0.0}, "replay_gib is 0.0"),
        ({"critic_warm_up": -1}, "critic_warm_up is -1: give at least 0"),
    ],
)
def test_settings_that_do_not_go_together(generator, prompts, changes, match):
    with pytest.raises(ValueError, match=match):
        make(generator, InNumpy(), prompts, **changes)


def test_a_critic_cannot_change_on_the_way(generator, prompts):
    state = trainer_state(make(generator, InNumpy(), prompts))
    with pytest.raises(ValueError, match="critics is 3, the checkpoint has 2: the critic's weights have another shape"):
        load_trainer_state(make(generator, InNumpy(), prompts, critics=3), state)


def test_what_is_saved_knows_the_rewards_scale(generator, prompts, tmp_path):
    trainer = make(generator, Redness(), prompts, critic_warm_up=64, batch_size=16, replay=512)
    list(trainer.events())
    trainer.save(tmp_path / "a.safetensors")
    scores = trainer.teacher.replay.scores[:-16]  # the last batch came after the last restatement
    critic = type(trainer.adapter).load(generator, tmp_path / "a.safetensors").critic
    assert isinstance(critic, Critic)
    assert critic.network.mean == pytest.approx(scores.mean().item(), abs=1e-6)
    assert critic.network.std == pytest.approx(scores.std(unbiased=False).item(), abs=1e-6)


def given_scores(generator, count):
    """Rows whose images are scored by how red they are."""
    reward, rows = Redness(), []
    for i in range(count):
        drawn = generator.noise(2, seed=i)[i % 2 :][:1]
        with torch.no_grad():
            score = reward.score(generator.generate(drawn, generator.encode(["a"])), None)
        rows.append(ScoredNoise("a", i, float(score), i % 2))
    return rows


@pytest.mark.slow
def test_scores_that_exist_teach_and_nothing_else_is_scored(generator, prompts):
    ensemble = RewardEnsemble([(GivenScores(), 1.0)])
    sizes = {"batch_size": 16, "critic_warm_up": 640, "max_steps": 12, "replay": 1024, "temperature": 1e-3, "lr": 3e-3}
    config = TrainingConfig(**{**SMALL, **sizes, "score_share": 0.0})
    trainer = Trainer(generator, ensemble, prompts, config, scored=given_scores(generator, 300))
    decode, generator.decode = generator.decode, None
    try:
        events = list(trainer.events())
    finally:
        generator.decode = decode
    assert trainer.teacher.replay.added == 300
    assert events[39] == WarmStart(0, 640, 640, "critic")
    last = events[-1].metrics
    assert not any(name.startswith("reward") or name == "critic/bias" for name in last)
    base, trained = (score_of(generator, Redness(), own, prompts) for own in (None, trainer.adapter))
    assert trained > base + 0.01


def test_a_run_on_given_scores_goes_on_bit_for_bit_and_not_on_others(generator, prompts):
    def run(rows):
        config = TrainingConfig(**{**SMALL, "critic_warm_up": 0, "score_share": 0.0})
        return Trainer(generator, RewardEnsemble([(GivenScores(), 1.0)]), prompts, config, scored=rows)

    rows = given_scores(generator, 10)
    whole, first, second = run(rows), run(rows), run(rows[::-1])
    told, events = [repr(event) for event in whole.events()], first.events()
    heard = [repr(next(events)) for _ in range(2)]
    state = trainer_state(first)
    load_trainer_state(second, deepcopy(state))
    assert heard + [repr(event) for event in second.events()] != told  # the order of rows is the file's
    third = run(rows)
    load_trainer_state(third, deepcopy(state))
    assert heard + [repr(event) for event in third.events()] == told
    assert equal(everything(third), everything(whole))
    with pytest.raises(ValueError, match=r"scores is 9 rows.*: the critic has learnt from others"):
        load_trainer_state(run(rows[:9]), state)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"teacher": "gradient", "score_share": 1.0}, "scores is given, which teacher gradient cannot use"),
        ({"replay": 5}, "scores has 10 rows, replay is 5: raise it"),
        ({"score_share": 1.0}, "no reward that could score new images"),
    ],
)
def test_given_scores_that_cannot_be_used(generator, prompts, changes, match):
    config = TrainingConfig(**{**SMALL, "score_share": 0.0, **changes})
    reward = Redness() if "teacher" in changes else GivenScores()
    with pytest.raises(ValueError, match=match):
        Trainer(generator, RewardEnsemble([(reward, 1.0)]), prompts, config, scored=given_scores(generator, 10))


GOOD = '{"prompt": "a", "seed": 1, "score": 1}'


@pytest.mark.parametrize(
    ("lines", "match"),
    [
        ([GOOD, "{"], "scores.jsonl:2 is no JSON"),
        ([GOOD, '{"prompt": "a", "seed": 1}'], "scores.jsonl:2 lacks a field"),
        ([GOOD, "7"], "scores.jsonl:2 lacks a field"),
        ([GOOD, '{"prompt": 3, "seed": 1, "score": 1}'], "scores.jsonl:2: the prompt is 3"),
        ([GOOD, '{"prompt": "a", "seed": -1, "score": 1}'], "scores.jsonl:2: seed and index are -1"),
        ([GOOD, '{"prompt": "a", "seed": 1.5, "score": 1}'], "scores.jsonl:2: seed and index are 1.5"),
        ([GOOD, '{"prompt": "a", "seed": 1, "score": "good"}'], "scores.jsonl:2: the score is 'good'"),
        ([GOOD, '{"prompt": "a", "seed": 1, "score": NaN}'], "scores.jsonl:2: the score is nan"),
        ([GOOD, '{"prompt": "a", "seed": 1, "score": 0, "width": 512}'], "scores.jsonl:2 is of an image of 512x64"),
        ([GOOD, GOOD], "has 2 rows, and no two different scores"),
        ([], "has 0 rows"),
    ],
)
def test_a_file_of_scores_is_read_line_by_line(tmp_path, lines, match):
    file = tmp_path / "scores.jsonl"
    file.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=match):
        read_scores(file, 64, 64)
    file.write_text(GOOD + '\n\n{"prompt": "b", "seed": 2, "score": -0.5, "index": 3, "width": 64}\n')
    assert read_scores(file, 64, 64) == [ScoredNoise("a", 1, 1.0), ScoredNoise("b", 2, -0.5, 3)]


def test_scores_are_added_to_a_file(tmp_path):
    file, rows = tmp_path / "new" / "scores.jsonl", [ScoredNoise("a", 1, 1.0), ScoredNoise("ä", 2, 0.0, 1)]
    assert add_scores(file, rows[:1], 64, 64) == 1
    assert add_scores(file, rows[1:], 64, 64) == 2
    assert read_scores(file, 64, 64) == rows


def test_a_file_of_scores_that_is_none(tmp_path):
    with pytest.raises(ValueError, match="cannot be read"):
        read_scores(tmp_path / "none.jsonl", 64, 64)
    (tmp_path / "utf16.jsonl").write_bytes(GOOD.encode("utf-16"))
    with pytest.raises(ValueError, match="save it as UTF-8"):
        read_scores(tmp_path / "utf16.jsonl", 64, 64)


def test_validation_tells_how_far_a_critic_is_to_be_believed(generator, prompts):
    trainer = Trainer(
        generator,
        RewardEnsemble([(Redness(), 1.0)]),
        prompts,
        TrainingConfig(**{**SMALL, "validate_every": 1, "max_steps": 1, "critic_warm_up": 4}),
        validation_prompts=prompts[:2],
    )
    (told,) = (event.metrics for event in trainer.events() if isinstance(event, Validated))
    assert -1 <= told["validation/critic_correlation"] <= 1
    assert math.isfinite(told["validation/critic_bias"])
    assert "validation/expected" not in told


def test_agreement_is_within_a_prompt():
    """Prompts that differ say nothing; what differs among the images of one prompt does."""
    reward = torch.tensor([0.0, 1, 2, 3, 10, 11, 12, 13])
    expected = torch.tensor([13.0, 12, 11, 10, 3, 2, 1, 0])
    assert agreement(expected, reward)["validation/critic_correlation"] == pytest.approx(-1)
    assert agreement(2 * reward + 5, reward)["validation/critic_correlation"] == pytest.approx(1)
    assert agreement(reward + 5, reward)["validation/critic_bias"] == pytest.approx(5)


def rows(first, count):
    """Readings that hold their own number, and it as their score."""
    values = torch.arange(first, first + count).float()
    x = values.view(-1, 1, 1, 1).expand(count, 2, 4, 4)
    return x, Reading(x, x[:, :1]), values


def test_a_replay_keeps_the_newest_and_draws_them_whole():
    replay = Replay(5)
    replay.add(*rows(0, 3))
    assert len(replay) == 3
    replay.add(*rows(3, 4))
    assert sorted(replay.scores.tolist()) == [2, 3, 4, 5, 6]
    x, reading, scores = replay.draw(200, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert set(scores.tolist()) == {2, 3, 4, 5, 6}
    for tensor in (x, reading.prediction, reading.features):
        assert torch.equal(tensor[:, 0, 0, 0].float(), scores)


def test_a_replay_is_bounded_in_bytes():
    each = 2 * (2 * 16 + 2 * 16 + 16) + 4
    replay = Replay(1000, most_bytes=7 * each + 1)
    replay.add(*rows(0, 20))
    assert len(replay) == 7
    assert replay.nbytes == 7 * each


@pytest.mark.parametrize("added", [0, 3, 5, 13])
@pytest.mark.parametrize("room", [3, 5, 8])
def test_a_replay_goes_on_in_another_of_any_size(added, room):
    first, second = Replay(5), Replay(room)
    for i in range(added):
        first.add(*rows(i, 1))
    second.load_state(first.state())
    assert second.added == added
    newest = list(range(max(0, added - min(5, room)), added))
    assert sorted(second.scores.tolist())[-len(newest) :] == newest if newest else len(second) == 0
    second.add(*rows(added, 1))
    assert added in second.scores.tolist()
