"""What tests share. Heavy imports stand inside the functions: the process that starts the two of `make test` reads this
file and no other."""

import gc
import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # an unknown model is unknown at once


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests stay in one process, and so do all tests in a real ComfyUI: what they share is made once. Files go
    out by name, not those with the most tests first: that puts ComfyUI's, which take longest, in front."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return "tests/host" if nodeid.startswith("tests/host/") else super()._split_scope(nodeid)

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def frozen():
    """What was imported stays: a quarter of a second each time that the garbage collector goes through it."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def unsynced():
    """No waiting until files are on the disk: half a second each on a busy one. Files of tests need not outlive a power
    cut; a killed process loses nothing by it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def generator():
    """The embedded generator: real SANA-Sprint classes, a few million parameters."""
    from hypernoise_core import load_generator

    return load_generator("embedded")


@pytest.fixture(scope="session")
def reward():
    from hypernoise_core import load_reward

    return load_reward("embedded")


@pytest.fixture
def redness():
    from hypernoise_core import RewardEnsemble, load_reward

    return RewardEnsemble([(load_reward("redness"), 1.0)])


@pytest.fixture
def prompts():
    from hypernoise_core.embedded.benchmark import cases

    return [case.prompt.text for case in cases(60)[::10]]


@pytest.fixture
def hypernetwork(generator):
    """One that is not zero: as if trained a little."""
    from hypernoise_core import LoraHypernetwork

    return randomized(LoraHypernetwork(generator, rank=4, alpha=8))


def randomized(lora, scale=0.02):
    import torch

    from hypernoise_core.hypernetworks.lora_clone import lora_parameters

    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in lora_parameters(lora.network).items():
            if ".lora_B." in name:
                parameter.copy_(torch.randn(parameter.shape, generator=random) * scale)
    return lora


@pytest.fixture
def head(generator):
    """A small one that is not zero."""
    from hypernoise_core import HeadHypernetwork

    return randomized_head(HeadHypernetwork.new(generator, width=32, depth=1))


def randomized_head(head, scale=0.05):
    """All of its weights as if trained a little, the same for equal shapes."""
    import torch

    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=random) * scale + (parameter == 1))
    return head


def scene_for(prompt, rng):
    """A drawn scene that shows a prompt."""
    import numpy as np

    from hypernoise_core.embedded.prompts import RELATIONS
    from hypernoise_core.embedded.scenes import COLORS, Scene, Thing, random_background

    while True:
        things = []
        for want in prompt.wants:
            for _ in range(want.count):
                color = want.color or str(rng.choice(list(COLORS)))
                x, y = rng.uniform(9, 55, size=2)
                things.append(Thing(want.shape, color, x, y, 7))
        if any(max(abs(a.x - b.x), abs(a.y - b.y)) < 17 for i, a in enumerate(things) for b in things[:i]):
            continue
        if prompt.relation:
            dx, dy = things[0].x - things[1].x, things[0].y - things[1].y
            ux, uy = RELATIONS[prompt.relation]
            if dx * ux + dy * uy < 0.6 * np.hypot(dx, dy):
                continue
        return Scene(tuple(things), random_background(rng))


@pytest.fixture
def toy_model(monkeypatch):
    """The model of the commands' `--model embedded`: a few hundred weights, for tests of what commands do around it."""
    from toy_world import ToyGenerator

    from train.model import ModelArguments

    monkeypatch.setattr(ModelArguments, "load_generator", lambda arguments, device=None: ToyGenerator())
    monkeypatch.setattr("train.evaluation.embedded.load_generator", lambda name: ToyGenerator())
    return ToyGenerator()


WORDS = ["a", "red", "blue", "square", "cross", "two", "crosses", "and", "photo", "of", "one", "more", "thing"]


def tiny_tokenizer(folder, first, last, pad, length):
    """A tokenizer of a few words, saved: `first` and `last` frame every text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = [pad, "<unk>", *WORDS, first, last]  # the last has the largest id, as in CLIP's
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(special))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    frame = [(first, vocabulary[first]), (last, vocabulary[last])]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=frame)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=first,
        eos_token=last,
        pad_token=pad,
        unk_token="<unk>",
        model_max_length=length,
    ).save_pretrained(folder)
    return vocabulary


@pytest.fixture(scope="session")
def released(tmp_path_factory):
    """A folder as a person fills it, with every released reward at a size of two layers."""
    import torch
    from original_rewards import TINY_BLIP, TINY_H, imagereward_state, openclip_state, random_head
    from transformers import CLIPConfig, CLIPModel

    folder = tmp_path_factory.mktemp("hypernoise_rewards")
    for seed, name in enumerate(("CLIP-ViT-H-14-laion2B-s32B-b79K", "PickScore_v1", "clip-vit-large-patch14")):
        vocabulary = tiny_tokenizer(folder / name, "<start>", "<end>", "<pad>", 77)
        tower = {"num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 96}
        ids = {"bos_token_id": vocabulary["<start>"], "eos_token_id": vocabulary["<end>"], "pad_token_id": 0}
        config = CLIPConfig(
            projection_dim=24,
            text_config=tower | ids | {"hidden_size": 64, "vocab_size": len(vocabulary)},
            vision_config=tower | {"hidden_size": 64, "image_size": 32, "patch_size": 8},
        )
        torch.manual_seed(seed)
        model = CLIPModel(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        model.save_pretrained(folder / name)
    torch.save(
        {"epoch": 1, "state_dict": openclip_state(**TINY_H, words=len(vocabulary))}, folder / "HPS_v2.1_compressed.pt"
    )
    torch.save(imagereward_state(**TINY_BLIP), folder / "ImageReward.pt")
    torch.save(random_head(24), folder / "aesthetic-model.pth")
    tiny_tokenizer(folder / "bert-base-uncased", "[CLS]", "[SEP]", "[PAD]", 512)
    return folder
