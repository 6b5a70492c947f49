"""Load Reward, Reward Score, Keep Best, Compare and Save in the real ComfyUI."""

import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_vlms import save_vlm

from host.graphs import Graph, custom_sampling, output
from host.server import ComfyError, saved
from host.test_training import curves, train
from hypernoise_core import load_reward
from hypernoise_core.embedded import HYPERNOISE_FILE

PROMPT = "a photo of a red square"

OWN_REWARD = """
from hypernoise_core import Reward


class Greenness(Reward):
    def score(self, images, text):
        return images[:, 1].mean((1, 2))
"""


def sampled(g, batch=4):
    """IMAGE of the embedded generator."""
    model = g.HyperNoiseLoadGenerator(model="embedded")
    positive = g.CLIPTextEncode(clip=output(model, 1), text=PROMPT)
    latent = g.EmptyLatentImage(width=64, height=64, batch_size=batch)
    samples = custom_sampling(g, model, positive, g.RandomNoise(noise_seed=0), latent)
    return g.VAEDecode(samples=samples, vae=output(model, 2))


def reward_node(g, reward="embedded", weight=1.0, **inputs):
    return g.HyperNoiseLoadReward(
        reward=reward, weights="models/hypernoise_rewards", weight=weight, device="auto", **inputs
    )


def test_scores_equal_the_cores_and_the_best_are_kept_in_order(comfy):
    g = Graph()
    image = sampled(g)
    reward = reward_node(g, "redness", weight=-10.0, add_to=reward_node(g))
    score = g.HyperNoiseRewardScore(image=image, prompt=PROMPT, reward=reward)
    best = g.HyperNoiseKeepBest(image=image, prompt=PROMPT, reward=reward, count=3)
    for kept in (image, best):
        g.ProbeSave(image=kept)
    outputs = comfy.run(g.nodes)
    (images, _), (kept, _) = saved(comfy, outputs)
    pixels = images.movedim(-1, 1)
    embedded, redness = load_reward("embedded"), load_reward("redness")
    with torch.no_grad():
        scores = embedded.score(pixels, embedded.encode_text([PROMPT]).repeat(4)) - 10 * redness.score(pixels, None)
    assert torch.equal(kept, images[scores.argsort(descending=True)[:3]])
    report = outputs[score[0]]["text"][0]
    assert report.splitlines()[0].split() == ["embedded", "redness", "total"]
    assert float(report.splitlines()[1].split()[-1]) == pytest.approx(scores.mean().item(), abs=2e-4)


def test_a_reward_of_ones_own_is_a_file_in_the_folder(comfy):
    (comfy.folder / "models" / "hypernoise_rewards" / "my_rewards.py").write_text(OWN_REWARD)
    g = Graph()
    image = g.EmptyImage(width=32, height=32, batch_size=2, color=0x00FF00)
    score = g.HyperNoiseRewardScore(image=image, prompt="", reward=reward_node(g, "my_rewards:Greenness"))
    assert comfy.run(g.nodes)[score[0]]["text"][0].splitlines()[1].split() == ["mean", "1.0000"]
    g = Graph()
    g.HyperNoiseRewardScore(image=image, prompt="", reward=reward_node(g, "os:Greenness"))
    with pytest.raises(ComfyError, match="there is no reward os:Greenness") as refused:
        comfy.run(g.nodes)
    assert refused.value.status == 400


@pytest.fixture(scope="module")
def judge(comfy):
    """Inputs of Load Reward for a vision-language model of two narrow layers."""
    save_vlm("Qwen2-VL", comfy.folder / "models" / "hypernoise_rewards" / "tiny-judge")
    return {"weights": "tiny-judge", "weight": 1.0, "device": "cpu"}


def test_a_vision_language_model_tells_what_an_image_lacks(comfy, judge):
    folder = comfy.folder / "models" / "hypernoise_rewards"
    questions = {"prompt": "a red square", "questions": ["Is it red?", "Is there a square?"]}
    (folder / "vqa.questions.jsonl").write_text(json.dumps(questions) + "\n")
    g = Graph()
    image = g.EmptyImage(width=64, height=64, batch_size=1, color=0xFF0000)
    asked = g.HyperNoiseLoadReward(reward="vqa", **judge)
    both = g.HyperNoiseLoadReward(reward="vqa-questions", add_to=asked, **judge)
    scored = g.HyperNoiseRewardScore(image=image, prompt="a red square", reward=both)
    report = comfy.run(g.nodes)[scored[0]]["text"][0]
    assert report.splitlines()[0].split() == ["vqa", "vqa-questions", "total"]
    answers = [line.split(maxsplit=2) for line in report.splitlines()[-2:]]
    assert sorted(question for _, _, question in answers) == sorted(questions["questions"])
    assert float(answers[0][1]) <= float(answers[1][1])


def test_a_question_of_ones_own_is_asked(comfy, judge):
    def score(question):
        g = Graph()
        image = g.EmptyImage(width=64, height=64, batch_size=1, color=0xFF0000)
        reward = g.HyperNoiseLoadReward(reward="vqa", question=question, **judge)
        scored = g.HyperNoiseRewardScore(image=image, prompt="a red square", reward=reward)
        return comfy.run(g.nodes)[scored[0]]["text"][0]

    assert score("Is {prompt} here?") != score("Is this {prompt}?")
    with pytest.raises(ComfyError, match=r"question is 'Is it here\?': write \{prompt\} where") as refused:
        score("Is it here?")
    assert refused.value.status == 400


def test_a_reward_without_a_gradient_is_not_followed(comfy, judge):
    g = Graph()
    model = g.HyperNoiseLoadGenerator(model="embedded")
    reward = g.HyperNoiseLoadReward(reward="vqa", add_to=reward_node(g, "redness"), **judge)
    found = g.HyperNoiseOptimizeNoise(
        noise=g.RandomNoise(noise_seed=0), model=model, clip=output(model, 1), vae=output(model, 2), reward=reward,
        latent_image=g.EmptyLatentImage(width=64, height=64, batch_size=1), prompt=PROMPT, iterations=1, lr=5.0,
        denoiser_steps=1,
    )  # fmt: skip
    g.ProbeSave(image=output(found, 1))
    with pytest.raises(ComfyError, match=r"reward vqa has no gradient, .*search zero-order or random.*refine by that"):
        comfy.run(g.nodes)


def test_a_head_is_trained_on_what_a_vision_language_model_says(comfy, judge):
    g = Graph()
    loaded = g.HyperNoiseLoadGenerator(model="embedded")
    train(
        g, loaded, output(loaded, 1), output(loaded, 2), "judged",
        reward=g.HyperNoiseLoadReward(reward="vqa", **judge), prompts=PROMPT, hypernetwork="head", head_width=16,
        head_depth=1, teacher="critic", critic_warm_up=2, steps=2, batch_size=2,
    )  # fmt: skip
    comfy.run(g.nodes)
    rewards = curves(comfy, "judged_00001_")["reward"]
    assert len(rewards) == 2
    assert all(reward < 0 for reward in rewards)


@pytest.mark.parametrize(
    ("reward", "told"),
    [("hpsv2", "download HPS_v2.1_compressed.pt"), ("pickscore", "download all of huggingface.co/yuvalkirstain")],
)
def test_missing_weights_are_told_before_the_run_and_once(comfy, reward, told):
    g = Graph()
    image = g.EmptyImage(width=32, height=32, batch_size=1, color=0)
    loaded = reward_node(g, reward)
    for prompt in ("", "again"):
        g.HyperNoiseRewardScore(image=image, prompt=prompt, reward=loaded)
    with pytest.raises(ComfyError, match=told) as refused:
        comfy.run(g.nodes)
    assert refused.value.status == 400
    assert str(refused.value).count(told) == 1


@pytest.mark.parametrize("scored", [True, False])
def test_compare_shows_every_pair(comfy, scored):
    g = Graph()
    dark, light = (g.EmptyImage(width=64, height=48, batch_size=3, color=color) for color in (0x800000, 0xFF0000))
    extra = {"reward": reward_node(g, "redness")} if scored else {}
    compare = g.HyperNoiseCompare(base=dark, hypernoise=light, prompt=PROMPT, **extra)
    report = g.PreviewAny(source=output(compare, 1))
    outputs = comfy.run(g.nodes)
    (shown,) = outputs[compare[0]]["images"]
    page = Image.open(comfy.file(shown)).convert("RGB")
    colors = {color: count for count, color in page.getcolors(page.width * page.height)}
    assert colors[(128, 0, 0)] == colors[(255, 0, 0)] == 3 * 256 * 192
    (words,) = outputs[compare[0]]["text"]
    assert outputs[report[0]]["text"] == [words]
    assert ("better 3, worse 0" in words) == scored


def test_compare_refuses_different_batches(comfy):
    g = Graph()
    one, two = (g.EmptyImage(width=64, height=64, batch_size=n, color=0) for n in (1, 2))
    g.HyperNoiseCompare(base=one, hypernoise=two, prompt="")
    with pytest.raises(ComfyError, match="base and hypernoise must have the same number"):
        comfy.run(g.nodes)


def test_a_saved_adapter_is_offered_and_equal(plain_comfy):
    def save(file):
        g = Graph()
        loader = g.HyperNoiseLoraLoader(file=file)
        node = g.HyperNoiseSaveLora(hypernoise=loader, filename_prefix="mine/copy")
        (text,) = plain_comfy.run(g.nodes)[node[0]]["text"]
        return text

    first = save("embedded")
    assert first == "models/hypernoise/mine/copy_00001_.safetensors"
    assert save(first.removeprefix("models/hypernoise/")).endswith("copy_00002_.safetensors")
    original, again = load_file(HYPERNOISE_FILE), load_file(plain_comfy.folder / first)
    assert original.keys() == again.keys()
    assert all(torch.equal(original[key], again[key]) for key in original)
    with pytest.raises(ComfyError, match="outside"):
        g = Graph()
        g.HyperNoiseSaveLora(hypernoise=g.HyperNoiseLoraLoader(file="embedded"), filename_prefix="../../elsewhere/x")
        plain_comfy.run(g.nodes)
