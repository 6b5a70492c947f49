"""Vision-language models of the real classes with two narrow layers, and HPSv3's file for one, saved as the published
ones are."""

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
SPECIAL += ["<|video_pad|>"]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.content %}{% if c.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WIDTH, PICTURE = 32, 56 * 56


def tokenizer():
    """A token for every byte."""
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    backend = Tokenizer(models.BPE(alphabet, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(SPECIAL)
    own = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|im_end|>", pad_token="<|endoftext|>")
    own.chat_template = TEMPLATE
    return own


def text_config(words, window, **more):
    return {
        "vocab_size": words, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": window,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}, **more,
    }  # fmt: skip


def qwen2(text, ids):
    vision = {"depth": 2, "embed_dim": WIDTH, "hidden_size": WIDTH, "num_heads": 2, "mlp_ratio": 2}
    return Qwen2VLForConditionalGeneration(Qwen2VLConfig(text_config=text, vision_config=vision, **ids))


def qwen2_5(text, ids):
    vision = {
        "depth": 2, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_heads": 2, "out_hidden_size": WIDTH,
        "fullatt_block_indexes": [1], "window_size": 56,
    }  # fmt: skip
    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=text, vision_config=vision, **ids))


def qwen3(text, ids):
    vision = {
        "depth": 2, "hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_heads": 2, "out_hidden_size": WIDTH,
        "deepstack_visual_indexes": [0], "num_position_embeddings": 16, "patch_size": 16,
    }  # fmt: skip
    text = text | {"head_dim": WIDTH // 2}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=vision, **ids))


KINDS = {"Qwen2-VL": qwen2, "Qwen2.5-VL": qwen2_5, "Qwen3-VL": qwen3}


def randomized(model, scale=0.3):
    """Its initial weights are so small that every answer is the same."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "norm" not in name:
                parameter.copy_(torch.randn(parameter.shape) * scale)
    return model.eval()


def save_processor(folder, patch=14):
    own = tokenizer()
    size = {"shortest_edge": PICTURE, "longest_edge": PICTURE}
    own.save_pretrained(folder)
    Qwen2VLImageProcessorPil(size=size, patch_size=patch).save_pretrained(folder)
    return own


def save_vlm(kind, folder, window=4096):
    """The folder of a whole model."""
    own = save_processor(folder, 16 if kind == "Qwen3-VL" else 14)
    names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    tokens = own.convert_tokens_to_ids(["<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = randomized(KINDS[kind](text_config(len(own), window), dict(zip(names, tokens, strict=True))))
    model.save_pretrained(folder)
    return folder


TOLD = "Rate this picture of: {prompt}\n\nRating: <|Reward|>\n"
"""In the place of what HPSv3's authors tell their model."""


def save_hpsv3(folder, older_names=False):
    """HPSv3.safetensors for a Qwen2-VL with two layers and heads of the published width, the processor's folder, and
    what the model is told."""
    (folder / "instruction.txt").write_text(TOLD)
    own = save_processor(folder / "Qwen2-VL-7B-Instruct")
    own.add_special_tokens({"additional_special_tokens": ["<|Reward|>"]})
    width = 2 * 128
    text = text_config(
        len(own), 32768, hidden_size=width, rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    )  # fmt: skip
    vision = {"depth": 2, "embed_dim": 160, "hidden_size": width, "num_heads": 2, "mlp_ratio": 4}
    ids = {"image_token_id": own.convert_tokens_to_ids("<|image_pad|>")}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = Qwen2VLConfig(text_config=text, vision_config=vision, **ids)
        model = randomized(Qwen2VLForConditionalGeneration(config), 0.1)
        head = torch.nn.Sequential(
            torch.nn.Linear(width, 1024), torch.nn.ReLU(), torch.nn.Dropout(0.05), torch.nn.Linear(1024, 16),
            torch.nn.ReLU(), torch.nn.Linear(16, 2),
        ).eval()  # fmt: skip
    config.save_pretrained(folder / "Qwen2-VL-7B-Instruct")
    state = model.state_dict() | {f"rm_head.{key}": value for key, value in head.state_dict().items()}
    if older_names:
        state = {
            key.replace("model.language_model.", "model.").replace("model.visual.", "visual."): value
            for key, value in state.items()
        }
    save_file({key: value.clone() for key, value in state.items()}, folder / "HPSv3.safetensors")
    return model, head, own
