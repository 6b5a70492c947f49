"""The ensemble: what it adds, what it keeps in memory, what it only measures."""

from itertools import islice

import pytest
import torch

from hypernoise_core import Reward, RewardEnsemble, Trainer, TrainingConfig, load_reward
from hypernoise_core.rewards import PAPER_WEIGHTS, LoadOptions, Normalization, parse_rewards
from hypernoise_core.rewards.base import BackboneReward
from hypernoise_core.rewards.diversity import Diversity
from hypernoise_core.rewards.redness import Redness

PROMPTS = ["a red square", "two crosses", "a blue square"]
PAPERS = "hpsv2,imagereward,clip,pickscore"


@pytest.fixture
def pictures():
    return torch.rand(3, 3, 48, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()


def ensemble(released, names=PAPERS, **options):
    return parse_rewards(names, LoadOptions(weights=released), **options)


def plain(rewards, pictures):
    """The weighted sum as one graph, and its gradient under uneven slopes."""
    total = sum(
        weight * rewards.rewards[name].score(pictures, rewards.rewards[name].encode_text(PROMPTS))
        for name, weight in rewards.weights.items()
    )
    return total, slope(total, pictures)


def slope(total, pictures):
    return torch.autograd.grad((total * torch.tensor([1.0, -2.0, 0.5])).sum(), pictures)[0]


def test_the_papers_weights_are_the_default(released):
    rewards = ensemble(released)
    assert rewards.weights == PAPER_WEIGHTS == {"hpsv2": 5.0, "imagereward": 1.0, "clip": 0.01, "pickscore": 0.05}


@pytest.mark.parametrize("options", [{}, {"chunk": 1}, {"chunk": 2}, {"offload": True}])
@pytest.mark.parametrize("names", [PAPERS, "clip,diversity=3,redness=-2", "diversity"])
def test_taking_gradients_at_once_changes_nothing(released, pictures, names, options):
    rewards = ensemble(released, names, **options)
    total, scores = rewards.judge(pictures, rewards.encode_text(PROMPTS))
    expected, gradient = plain(rewards, pictures)
    assert torch.allclose(total, expected, atol=1e-5)
    assert torch.allclose(slope(total, pictures), gradient, atol=1e-6)
    assert set(scores) == set(rewards.rewards)
    assert not any(score.requires_grad for score in scores.values())
    assert torch.allclose(rewards.combine(scores), expected, atol=1e-5)


def test_activations_of_one_encoder_at_a_time(released, pictures):
    """After judging, the graph holds a gradient of the pictures and nothing of any encoder."""
    rewards = ensemble(released)
    text = rewards.encode_text(PROMPTS)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        total, _ = rewards.judge(pictures, text)
    alive = [t for t in _saved(total.grad_fn) if isinstance(t, torch.Tensor)]
    assert len(kept) > 100
    assert sum(t.numel() for t in alive) == pictures.numel()


def _saved(node):
    found, waiting = [], [node]
    while waiting:
        node = waiting.pop()
        found += list(getattr(node, "saved_tensors", ()))
        waiting += [following for following, _ in node.next_functions if following is not None]
    return found


def test_rewards_on_one_backbone_are_one_pass(released, pictures, monkeypatch):
    rewards = RewardEnsemble(
        [
            (load_reward("aesthetic", released), 1.0),
            (load_reward("clip", released / "clip-vit-large-patch14"), 1.0),
        ]
    )
    backbone = rewards.rewards["clip"].backbone
    passes = []
    forward = type(backbone).image_features
    monkeypatch.setattr(type(backbone), "image_features", lambda self, x: passes.append(1) or forward(self, x))
    total, _ = rewards.judge(pictures, rewards.encode_text(PROMPTS))
    assert len(passes) == 1
    expected, gradient = plain(rewards, pictures)
    assert torch.allclose(total, expected, atol=1e-5)
    assert torch.allclose(slope(total, pictures), gradient, atol=1e-6)


def test_offloaded_encoders_are_on_the_device_only_while_they_score(released, pictures):
    class Watched(Redness):
        name = "watched"
        moves = ()

        def to(self, device):
            self.moves = (*self.moves, str(device))
            return self

        def score(self, images, text):
            self.moves = (*self.moves, "score")
            return super().score(images, text)

    reward = Watched()
    rewards = RewardEnsemble([(reward, 1.0)], offload=True).to("meta")
    text = rewards.encode_text(PROMPTS)
    assert reward.moves == ("cpu", "meta", "cpu")
    rewards.judge(pictures, text)
    assert reward.moves[3:] == ("meta", "score", "cpu")


def test_reference_offsets_make_the_references_loss(released, pictures):
    """(1 - hps) 5 + (2 - imagereward) 1 + (100 - clip) .01 + (30 - pickscore) .05."""
    rewards = ensemble(released, normalization="reference")
    total, s = rewards.judge(pictures, rewards.encode_text(PROMPTS))
    loss = (1 - s["hpsv2"]) * 5 + (2 - s["imagereward"]) + (100 - s["clip"]) * 0.01 + (30 - s["pickscore"]) * 0.05
    assert torch.allclose(-total, loss, atol=1e-5)


def test_running_normalisation_standardises_by_what_came_before(pictures):
    normalization = Normalization(running=True)
    rewards = RewardEnsemble([(Redness(), 2.0)], normalization=normalization)
    random = torch.Generator().manual_seed(1)
    seen = []
    for _ in range(20):
        batch = torch.rand(3, 3, 4, 4, generator=random).requires_grad_()
        text = rewards.encode_text(PROMPTS)
        if len(seen) >= 3:
            so_far = torch.cat(seen)
            expected = 2 * (Redness().score(batch, text) - so_far.mean()) / so_far.std()
            with torch.no_grad():  # measuring leaves the statistics alone
                assert torch.allclose(rewards.score(batch, text), expected, rtol=1e-4)
        total, scores = rewards.judge(batch, text)
        if len(seen) >= 3:
            assert torch.allclose(total, expected, rtol=1e-4)
        seen.append(scores["redness"])
    restored = Normalization(running=True)
    restored.load_state_dict(normalization.state_dict())
    assert torch.equal(restored("redness", seen[0]), normalization("redness", seen[0]))


def test_a_fixed_scale_divides_and_must_be_positive():
    rewards = RewardEnsemble([(Redness(), 3.0)], normalization=Normalization({"redness": (0.5, 4.0)}))
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)
    assert rewards.score(red, rewards.encode_text(["x"])).item() == pytest.approx(3 * (1 - 0.5) / 4)
    with pytest.raises(ValueError, match="'redness' is 0"):
        Normalization({"redness": (0.0, 0.0)})


class Spy(Reward):
    """Held out: must be scored, and never differentiated."""

    name = "spy"

    def score(self, images, text):
        assert not torch.is_grad_enabled()
        return images.mean((1, 2, 3)) * torch.nan_to_num(torch.tensor(2.0))


def test_a_held_out_reward_is_measured_and_never_followed(generator, prompts):
    def run(held_out):
        config = TrainingConfig(rank=4, alpha=8, batch_size=2, max_steps=3, temperature=0.01, diagnostics_every=3)
        rewards = RewardEnsemble([(Redness(), 1.0)], held_out)
        trainer = Trainer(generator, rewards, prompts, config)
        events = list(islice(trainer.events(), 3))
        return events, [p.detach().clone() for p in trainer.parameters]

    plain_events, alone = run([])
    events, watched = run([Spy()])
    told = {event.step: event.metrics["held_out/spy"] for event in events if "held_out/spy" in event.metrics}
    assert told.keys() == {1, 3}  # it costs a pass of its encoder
    assert all(0 < value < 2 for value in told.values())
    assert "held_out/spy" not in plain_events[0].metrics
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))
    with pytest.raises(ValueError, match="twice"):
        RewardEnsemble([(Redness(), 1.0)], [Redness()])
    with pytest.raises(ValueError, match="never be measured"):
        never = TrainingConfig(rank=4, alpha=8, batch_size=2, diagnostics_every=0)
        Trainer(generator, RewardEnsemble([(Redness(), 1.0)], [Spy()]), prompts, never)


def test_diversity_compares_pictures_of_one_prompt():
    reward = Diversity()
    text = reward.encode_text(["a", "a", "a", "b", "c", "c"])
    pictures = torch.zeros(6, 3, 16, 16)
    pictures[1] = 1.0
    pictures[3] = 0.5
    scores = reward.score(pictures.requires_grad_(), text)
    assert scores.tolist() == pytest.approx([0.5, 1.0, 0.5, 0.0, 0.0, 0.0], abs=1e-3)
    assert torch.autograd.grad(scores.sum(), pictures)[0].isfinite().all()


def test_several_pictures_a_prompt_in_a_batch(generator, prompts):
    config = TrainingConfig(rank=4, alpha=8, batch_size=4, pictures_per_prompt=2, max_steps=1, diagnostics_every=0)
    trainer = Trainer(generator, RewardEnsemble([(Diversity(), 1.0)]), prompts, config)
    (part,) = trainer._draw(seed=0)
    embeds = part.conditioning["embeds"]
    assert torch.equal(embeds[::2], embeds[1::2])
    assert not torch.equal(embeds[0], embeds[2])
    assert next(trainer.events()).metrics["reward/diversity"] > 0
    with pytest.raises(ValueError, match="pictures_per_prompt is 3"):
        TrainingConfig(batch_size=4, pictures_per_prompt=3)


def test_checkpointing_the_trainer_checkpoints_the_rewards(generator, prompts, released):
    rewards = ensemble(released, "pickscore")
    layers = rewards.rewards["pickscore"].backbone.model.vision_model.encoder.layers
    config = TrainingConfig(rank=4, alpha=8, batch_size=2, max_steps=1, gradient_checkpointing=True)
    try:
        Trainer(generator, rewards, prompts[:2], config)
        assert all("forward" in vars(layer) for layer in layers)
    finally:
        generator.checkpoint_gradients(False)
        rewards.checkpoint_gradients(False)
    assert not any("forward" in vars(layer) for layer in layers)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("hpsv2=0,clip=0", "no reward has a weight"),
        ("clip=nan", "not finite"),
        ("clip=inf", "not finite"),
        ("clip=", "not a number"),
    ],
)
def test_weights_that_make_no_sum_are_refused_before_anything_loads(names, message):
    with pytest.raises(ValueError, match=message):
        parse_rewards(names)


def test_every_released_reward_says_whether_it_stands_on_a_backbone(released):
    assert isinstance(load_reward("hpsv2", released), BackboneReward)
    assert not isinstance(load_reward("imagereward", released), BackboneReward)
