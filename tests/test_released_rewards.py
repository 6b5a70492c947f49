"""The released rewards: loaded from files as they are published, against the originals' arithmetic."""

import gc
import shutil
import warnings
import weakref

import pytest
import torch
from conftest import WORDS
from original_rewards import (
    BLIP_L,
    TINY_H,
    VIT_H,
    head,
    imagereward_scores,
    imagereward_state,
    openclip_cosine,
    openclip_state,
)
from torch.nn import functional as F
from transformers import AutoTokenizer, CLIPModel, CLIPTextModel

from hypernoise_core import load_reward
from hypernoise_core.rewards import REWARDS, score_images
from hypernoise_core.rewards.images import preprocess
from hypernoise_core.tensor_file import read_tensors

NAMES = ("hpsv2", "imagereward", "pickscore", "clip", "aesthetic")
PROMPTS = ["a red square", "two crosses and a blue square"]


@pytest.fixture
def pictures():
    return torch.rand(2, 3, 50, 61, generator=torch.Generator().manual_seed(0)).requires_grad_()


def tokens(folder, prompts, **options):
    return AutoTokenizer.from_pretrained(folder)(prompts, return_tensors="pt", **options)


def agree(pictures, mine, theirs):
    """Scores to 1e-4 and gradients in the pictures to 1e-3 of their size."""
    assert torch.allclose(mine, theirs, atol=1e-4, rtol=1e-4), (mine, theirs)
    (own,), (other,) = (torch.autograd.grad(scores.sum(), pictures) for scores in (mine, theirs))
    assert other.norm() > 0
    assert (own - other).norm() < 1e-3 * other.norm()
    return (mine - theirs).abs().max().item(), ((own - other).norm() / other.norm()).item()


def hpsv2_pair(folder, pictures, prompts):
    reward = load_reward("hpsv2", folder)
    state = read_tensors(folder / "HPS_v2.1_compressed.pt")[0]
    ids = tokens(folder / "CLIP-ViT-H-14-laion2B-s32B-b79K", prompts, padding="max_length", max_length=77).input_ids
    mine = reward.score(pictures, reward.encode_text(prompts))
    return mine, openclip_cosine(state, preprocess(pictures, reward.backbone.size), ids)


def imagereward_pair(folder, pictures, prompts):
    reward = load_reward("imagereward", folder)
    state = read_tensors(folder / "ImageReward.pt")[0]
    words = tokens(folder / "bert-base-uncased", prompts, padding="max_length", max_length=35)
    mine = reward.score(pictures, reward.encode_text(prompts))
    pixels = preprocess(pictures, reward.size)
    return mine, imagereward_scores(state, pixels, words.input_ids, words.attention_mask)


def transformers_pair(name, hub):
    def pair(folder, pictures, prompts):
        reward = load_reward(name, folder)
        model = CLIPModel.from_pretrained(folder / hub)
        words = tokens(folder / hub, prompts, padding=True)
        out = model(**words, pixel_values=preprocess(pictures, reward.backbone.size))
        return reward.score(pictures, reward.encode_text(prompts)), out.logits_per_image.diagonal()

    return pair


def aesthetic_pair(folder, pictures, prompts):
    reward = load_reward("aesthetic", folder)
    model = CLIPModel.from_pretrained(folder / "clip-vit-large-patch14")
    features = model.get_image_features(preprocess(pictures, reward.backbone.size)).pooler_output
    expected = head(read_tensors(folder / "aesthetic-model.pth")[0], "layers.", F.normalize(features, dim=-1))
    return reward.score(pictures, reward.encode_text(prompts)), expected


PAIRS = {
    "hpsv2": hpsv2_pair,
    "imagereward": imagereward_pair,
    "pickscore": transformers_pair("pickscore", "PickScore_v1"),
    "clip": transformers_pair("clip", "CLIP-ViT-H-14-laion2B-s32B-b79K"),
    "aesthetic": aesthetic_pair,
}


@pytest.mark.parametrize("name", NAMES)
def test_a_released_reward_computes_what_the_original_does(released, pictures, name):
    agree(pictures, *PAIRS[name](released, pictures, PROMPTS))


def save_vit_h(folder):
    """A `CLIPModel` of CLIP ViT-H-14's size in the place of the one in `folder`."""
    config = CLIPModel.config_class.from_pretrained(folder)
    tower = {"num_attention_heads": 16, "hidden_act": "gelu"}
    vision = {"image_size": VIT_H["size"], "patch_size": VIT_H["patch"]}
    for part, name, layers in ((config.vision_config, "vision", "layers"), (config.text_config, "text", "text_layers")):
        sizes = {"hidden_size": VIT_H[name], "intermediate_size": 4 * VIT_H[name], "num_hidden_layers": VIT_H[layers]}
        part.update(tower | sizes | (vision if name == "vision" else {}))
    config.projection_dim = VIT_H["dim"]
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)


@pytest.mark.full_size
@pytest.mark.parametrize("name", ["hpsv2", "imagereward", "pickscore", "clip"])
def test_full_size_equals_the_original(released, tmp_path, name, capsys):
    """ViT-H-14 and BLIP-large with all their layers, random weights: about 12 GB and two minutes each."""
    for tokenizer in ("CLIP-ViT-H-14-laion2B-s32B-b79K", "bert-base-uncased"):
        shutil.copytree(released / tokenizer, tmp_path / tokenizer)
    if name == "hpsv2":
        words = len(AutoTokenizer.from_pretrained(tmp_path / "CLIP-ViT-H-14-laion2B-s32B-b79K"))
        torch.save({"state_dict": openclip_state(**VIT_H, words=words)}, tmp_path / "HPS_v2.1_compressed.pt")
    elif name == "imagereward":
        torch.save(imagereward_state(**BLIP_L), tmp_path / "ImageReward.pt")
    else:
        folder = tmp_path / {"pickscore": "PickScore_v1", "clip": "CLIP-ViT-H-14-laion2B-s32B-b79K"}[name]
        shutil.copytree(released / folder.name, folder, dirs_exist_ok=True)
        save_vit_h(folder)
    pictures = torch.rand(1, 3, 256, 320, generator=torch.Generator().manual_seed(0)).requires_grad_()
    apart = agree(pictures, *PAIRS[name](tmp_path, pictures, PROMPTS[:1]))
    with capsys.disabled():
        print(
            f"\n{name} at full size: scores differ by {apart[0]:.1e}, picture gradients by {apart[1]:.1e} of their norm"
        )


def test_hpsv2_against_open_clip(released, pictures):
    """The same weights in open_clip's own classes; and its ViT-H-14 has just the keys that are remapped here."""
    try:
        import open_clip
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"open_clip does not load here: {error}")
    state = read_tensors(released / "HPS_v2.1_compressed.pt")[0]
    vision = {"image_size": 42, "layers": TINY_H["layers"], "width": 160, "head_width": 80, "patch_size": 14}
    words = len(state["token_embedding.weight"])
    text = {"context_length": 77, "vocab_size": words, "width": 128, "heads": 2, "layers": 2}
    model = open_clip.model.CLIP(embed_dim=TINY_H["dim"], vision_cfg=vision, text_cfg=text).eval()
    model.load_state_dict(state)
    reward = load_reward("hpsv2", released)
    folder = released / "CLIP-ViT-H-14-laion2B-s32B-b79K"
    ids = tokens(folder, PROMPTS, padding="max_length", max_length=77).input_ids
    seen = model.encode_image(preprocess(pictures, 42), normalize=True)
    theirs = (seen * model.encode_text(ids, True)).sum(-1)
    agree(pictures, reward.score(pictures, reward.encode_text(PROMPTS)), theirs)
    with torch.device("meta"):
        published = open_clip.model.CLIP(**open_clip.get_model_config("ViT-H-14")).state_dict()
    tiny = {"vision": 1280, "text": 1024, "dim": 1024, "patch": 14, "size": 224, "layers": 1, "text_layers": 1}
    for key, value in openclip_state(**tiny).items():
        assert published[key].shape == value.shape
    blocks = {key for key in published if ".resblocks." not in key or ".resblocks.0." in key}
    assert blocks == openclip_state(**tiny).keys()
    for tower, layers in (("visual.transformer", VIT_H["layers"]), ("transformer", VIT_H["text_layers"])):
        assert len([key for key in published if key.startswith(tower) and key.endswith(".ln_1.weight")]) == layers


def test_preprocessing_is_torchvisions_bit_for_bit():
    try:
        from torchvision.transforms import v2
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision does not load here: {error}")
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    steps = [v2.Resize(224, v2.InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(224), v2.Normalize(mean, std)]
    for height, width in ((224, 224), (512, 512), (768, 1151), (333, 200), (100, 417), (225, 224)):
        picture = torch.rand(1, 3, height, width)
        assert torch.equal(preprocess(picture, 224), v2.Compose(steps)(picture)), (height, width)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_equals_its_singles(released, pictures, name):
    reward = load_reward(name, released)
    text = reward.encode_text(PROMPTS)
    batch = reward.score(pictures, text)
    singles = [reward.score(pictures[i : i + 1], text.rows([i])) for i in range(2)]
    assert torch.allclose(batch, torch.cat(singles), atol=1e-4)
    assert batch.dtype == torch.float32


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_weights_reduce_in_float32(released, pictures, name):
    full, half = (load_reward(name, released, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    a, b = (r.score(pictures.detach(), r.encode_text(PROMPTS)) for r in (full, half))
    assert b.dtype == torch.float32
    assert torch.allclose(a, b, rtol=0.1, atol=0.1)
    assert not torch.equal(a, b)


@pytest.mark.parametrize("name", ["hpsv2", "imagereward", "pickscore"])
def test_gradient_checkpointing_is_really_on(released, pictures, name):
    """Fewer activations, the same gradient, in evaluation mode, which transformers' own switch ignores."""
    reward = load_reward(name, released, dtype=torch.float64)  # a backbone of its own
    text = reward.encode_text(PROMPTS)

    def run():
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            score = reward.score(pictures, text).sum()
        return sum(kept), torch.autograd.grad(score, pictures)[0]

    plain, gradient = run()
    reward.checkpoint_gradients()
    less, same = run()
    reward.checkpoint_gradients(False)
    assert less < 0.5 * plain
    assert torch.allclose(gradient, same, atol=1e-6)
    assert run()[0] == plain


def test_a_prompt_seen_before_costs_no_text_forward(released, monkeypatch):
    reward = load_reward("pickscore", released)
    calls = []
    forward = CLIPTextModel.forward
    monkeypatch.setattr(CLIPTextModel, "forward", lambda *a, **k: calls.append(1) or forward(*a, **k))
    before = reward.encode_text(["one more thing", "a red cross"])
    again = load_reward("pickscore", released).encode_text(["a red cross", "one more thing"])
    assert len(calls) == 1
    assert torch.equal(before["features"], again["features"].flip(0))


def test_files_and_hub_ids_are_places_too(released, pictures, monkeypatch):
    """The same scores as from the folder."""
    fetched = []

    def fetch(repository, file):
        fetched.append((repository, file))
        return str(released / file)

    for name, file in FILES.items():
        expected = PAIRS[name](released, pictures, PROMPTS)[0]
        reward = load_reward(name, released / file)
        assert torch.equal(reward.score(pictures, reward.encode_text(PROMPTS)), expected)
    monkeypatch.setattr("hypernoise_core.rewards.checkpoints.hf_hub_download", fetch)
    for weights in (None, "someone/copy"):
        load_reward("hpsv2", weights)
        load_reward("imagereward", weights)
    assert fetched == [
        ("xswu/HPSv2", "HPS_v2.1_compressed.pt"),
        ("THUDM/ImageReward", "ImageReward.pt"),
        ("someone/copy", "HPS_v2.1_compressed.pt"),
        ("someone/copy", "ImageReward.pt"),
    ]


def test_a_backbone_is_freed_with_its_last_reward(released):
    reward = load_reward("pickscore", released, dtype=torch.float16)
    watched = weakref.ref(reward.backbone.model)
    del reward
    gc.collect()
    assert watched() is None


def test_rewards_from_one_place_share_a_backbone(released):
    one, other = load_reward("clip", released), load_reward("clip", released)
    assert one.backbone is other.backbone
    aesthetic = load_reward("aesthetic", released)
    assert aesthetic.backbone is load_reward("clip", released / "clip-vit-large-patch14").backbone


@pytest.mark.parametrize(("name", "window"), [("hpsv2", 77), ("clip", 77), ("imagereward", 35)])
def test_a_long_prompt_is_reported_or_scored_in_pieces(released, pictures, name, window):
    words = [WORDS[i % len(WORDS)] for i in range(2 * (window - 2))]
    halves = [" ".join(words[: window - 2]), " ".join(words[window - 2 :])]
    reward, chunked = load_reward(name, released), load_reward(name, released, long_prompts="chunk")
    picture = pictures[:1].detach()
    with pytest.warns(UserWarning, match=rf"prompt of {2 * (window - 2)} tokens is judged by its first {window - 2}"):
        cut = reward.encode_text([" ".join(words)])
    apart = [reward.score(picture, reward.encode_text([half])).item() for half in halves]
    assert reward.score(picture, cut).item() == pytest.approx(apart[0], abs=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        text = chunked.encode_text([" ".join(words), "a red square"])
        short = reward.encode_text(["a red square"])
    scores = chunked.score(picture.expand(2, -1, -1, -1), text)
    assert scores[0].item() == pytest.approx(sum(apart) / 2, abs=1e-5)
    assert scores[1].item() == pytest.approx(reward.score(picture, short).item(), abs=1e-5)


def test_pictures_come_as_comfyui_has_them(released):
    reward = load_reward("clip", released)
    whole = (torch.rand(2, 40, 70, 3, generator=torch.Generator().manual_seed(0)) * 255).round()
    as_bytes = score_images(reward, whole.byte(), "a red square")["clip"]
    as_floats = score_images(reward, whole / 255, ["a red square"] * 2)["clip"]
    planes = reward.score((whole / 255).movedim(-1, 1), reward.encode_text(["a red square"] * 2))
    assert torch.equal(as_bytes, as_floats)
    assert torch.equal(as_floats, planes)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda x: x * 255, r"values from .* to 2\d\d\.\d; rewards take \[0, 1\]"),
        (lambda x: x * 2 - 1, r"from -"),
        (lambda x: x.log().neg().log(), "not finite|values from"),
        (lambda x: torch.where(x > 0.5, x, torch.nan), "image 0 has values that are not finite"),
        (lambda x: x.movedim(-1, 1), "shape"),
        (lambda x: x[0], "shape"),
        (lambda x: x.int(), "dtype"),
    ],
)
def test_what_is_not_a_picture_is_refused(released, spoil, message):
    pictures = torch.rand(2, 40, 2, 3, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=message):
        score_images(load_reward("redness"), spoil(pictures), "a")


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def swap(path):
    """Another reward's weights under this name."""
    other = path.parent / ("ImageReward.pt" if path.name != "ImageReward.pt" else "HPS_v2.1_compressed.pt")
    shutil.copy(other, path)


def drop_a_key(path):
    state = read_tensors(path)[0]
    del state[sorted(state)[-1]]
    torch.save(state, path)


def pickle_it(path):
    torch.save({"state_dict": shutil.copy}, path)


FILES = {"hpsv2": "HPS_v2.1_compressed.pt", "imagereward": "ImageReward.pt", "aesthetic": "aesthetic-model.pth"}


@pytest.mark.parametrize("harm", [truncate, swap, drop_a_key, pickle_it, lambda path: path.write_bytes(b"")])
@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_wrong_is_refused_in_a_line(released, tmp_path, name, harm):
    folder = tmp_path / "weights"
    shutil.copytree(released, folder)
    harm(folder / FILES[name])
    with pytest.raises(ValueError, match=FILES[name].replace(".", r"\.")) as error:
        load_reward(name, folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("harm", ["model.safetensors", "tokenizer.json", "config.json"])
def test_a_folder_that_is_not_whole_is_refused(released, tmp_path, harm):
    shutil.copytree(released / "PickScore_v1", tmp_path / "PickScore_v1")
    (tmp_path / "PickScore_v1" / harm).unlink()
    with pytest.raises(ValueError, match="'pickscore'"):
        load_reward("pickscore", tmp_path)
    shutil.copy(released / "PickScore_v1" / harm, tmp_path / "PickScore_v1")
    truncate(tmp_path / "PickScore_v1" / harm)
    with pytest.raises(ValueError, match="'pickscore'"):
        load_reward("pickscore", tmp_path)


@pytest.mark.parametrize(("name", "tokenizers"), [("hpsv2", "CLIP*"), ("imagereward", "bert*")])
def test_a_missing_tokenizer_is_named(released, tmp_path, name, tokenizers):
    shutil.copy(released / FILES[name], tmp_path)
    with pytest.raises(ValueError, match=rf"'{name}' has no tokenizer: put .* beside"):
        load_reward(name, tmp_path)


@pytest.mark.parametrize("name", NAMES)
def test_where_there_is_nothing_the_message_says_what_to_download(tmp_path, name):
    for weights in (tmp_path, tmp_path / "nowhere", None):
        with pytest.raises(ValueError, match=r"download|hub id") as error:
            load_reward(name, weights)
        assert name in str(error.value)


def test_packages_are_not_needed_and_said_to_be_missing(released):
    with pytest.raises(ValueError, match="make reward-packages"):
        load_reward("imagereward", released, backend="package")
    with pytest.raises(ValueError, match="no package"):
        load_reward("pickscore", released, backend="package")
    assert set(NAMES) < set(REWARDS)
