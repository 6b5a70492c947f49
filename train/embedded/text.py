"""The text side of the embedded pipeline: every prompt that it learns, a word-level tokenizer, a small Gemma2."""

from itertools import permutations

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import Gemma2Config, PreTrainedTokenizerFast

from hypernoise_core.embedded.prompts import CATEGORIES, NUMBERS, PLURALS, RELATIONS, Prompt, Want
from hypernoise_core.embedded.scenes import COLORS, SHAPES

SHARES = dict(zip(CATEGORIES, (0.08, 0.16, 0.20, 0.06, 0.22, 0.12), strict=True)) | {
    "colored_counting": 0.06,
    "colored_position": 0.10,
}
"""How often each kind of prompt is drawn. The last two are not judged, but users will type them."""

OPENINGS = ("a photo of ", "a picture of ", "")


def vocabulary() -> dict[str, list[Prompt]]:
    """Every prompt of the world by kind, without its opening words."""
    pairs, colors = list(permutations(SHAPES, 2)), list(COLORS)
    two = [((a, x), (b, y)) for a, b in pairs for x, y in permutations(colors, 2)]
    return {
        "single_object": [Prompt(f"a {s}", "single_object", (Want(s),)) for s in SHAPES],
        "two_object": [Prompt(f"a {a} and a {b}", "two_object", (Want(a), Want(b))) for a, b in pairs],
        "counting": [
            Prompt(f"{w} {PLURALS[s]}", "counting", (Want(s, count=n),)) for s in SHAPES for w, n in NUMBERS.items()
        ],
        "colors": [Prompt(f"a {c} {s}", "colors", (Want(s, c),)) for s in SHAPES for c in colors],
        "position": [
            Prompt(f"a {a} {r} a {b}", "position", (Want(a), Want(b)), r) for a, b in pairs for r in RELATIONS
        ],
        "color_attr": [
            Prompt(f"a {x} {a} and a {y} {b}", "color_attr", (Want(a, x), Want(b, y))) for (a, x), (b, y) in two
        ],
        "colored_counting": [
            Prompt(f"{w} {c} {PLURALS[s]}", "counting", (Want(s, c, n),))
            for s in SHAPES
            for c in colors
            for w, n in NUMBERS.items()
        ],
        "colored_position": [
            Prompt(f"a {x} {a} {r} a {y} {b}", "position", (Want(a, x), Want(b, y)), r)
            for (a, x), (b, y) in two
            for r in RELATIONS
        ],
    }


def sample_prompt(rng: np.random.Generator, kinds: dict[str, list[Prompt]]) -> Prompt:
    kind = rng.choice(list(SHARES), p=list(SHARES.values()))
    prompt = kinds[kind][rng.integers(len(kinds[kind]))]
    opening = rng.choice(OPENINGS, p=(0.6, 0.15, 0.25))
    return Prompt(opening + prompt.text, prompt.category, prompt.wants, prompt.relation)


def build_tokenizer(
    special: tuple[str, ...] = ("<pad>", "<bos>", "<eos>", "<unk>"), longest: int = 300
) -> PreTrainedTokenizerFast:
    """Words to ids. The `special` tokens have the first ids. A prompt may be `longest` tokens long.

    The normalizer strips SANA's complex human instruction, which was not used in training.
    """
    words = sorted({w for ps in vocabulary().values() for p in ps for w in p.text.split()} | {"photo", "picture", "of"})
    ids = {token: i for i, token in enumerate([*special, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.Replace(Regex(r"[\s\S]*user prompt: ?"), "")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Punctuation("removed")]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", ids["<bos>"]), ("<eos>", ids["<eos>"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="right",
        model_max_length=longest,
    )


def text_config(vocab_size: int) -> Gemma2Config:
    return Gemma2Config(
        vocab_size=vocab_size,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        head_dim=32,
        query_pre_attn_scalar=32,
        sliding_window=512,
        max_position_embeddings=512,
        initializer_range=0.08,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        attn_implementation="eager",
    )
