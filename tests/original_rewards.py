"""What the published rewards compute, in plain torch on state dicts under their own names, and random weights for it.

HPSv2.1: OpenCLIP's ViT-H-14 (Radford et al. 2021 with 80-channel heads and GELU). ImageReward: BLIP (Li et al. 2022), a
ViT and a BERT with cross-attention, then linear layers.
"""

import torch
from torch.nn import functional as F

VIT_H = {"vision": 1280, "layers": 32, "patch": 14, "size": 224, "text": 1024, "text_layers": 24, "dim": 1024}
TINY_H = {"vision": 160, "layers": 3, "patch": 14, "size": 42, "text": 128, "text_layers": 2, "dim": 48}
BLIP_L = {"vision": 1024, "layers": 24, "size": 224, "text": 768, "text_layers": 12, "words": 30524}
TINY_BLIP = {"vision": 128, "layers": 2, "size": 48, "text": 64, "text_layers": 2, "words": 40}


def openclip_state(vision, layers, patch, size, text, text_layers, dim, words=49408, length=77, seed=0):
    shapes = {
        "positional_embedding": (length, text),
        "text_projection": (text, dim),
        "logit_scale": (),
        "visual.class_embedding": (vision,),
        "visual.positional_embedding": ((size // patch) ** 2 + 1, vision),
        "visual.proj": (vision, dim),
        "visual.conv1.weight": (vision, 3, patch, patch),
        "token_embedding.weight": (words, text),
    }
    for name, width in (("visual.ln_pre", vision), ("visual.ln_post", vision), ("ln_final", text)):
        shapes |= _affine(name, width)
    for prefix, width, count in (("visual.transformer", vision, layers), ("transformer", text, text_layers)):
        for i in range(count):
            block = f"{prefix}.resblocks.{i}"
            shapes |= _affine(f"{block}.ln_1", width) | _affine(f"{block}.ln_2", width)
            shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
            shapes |= _affine(f"{block}.attn.out_proj", width, width)
            shapes |= _affine(f"{block}.mlp.c_fc", 4 * width, width) | _affine(f"{block}.mlp.c_proj", width, 4 * width)
    return _random(shapes, seed)


def openclip_cosine(state, pixels, ids):
    """Cosine [B] of preprocessed pictures and token ids, ended by the largest id."""
    x = F.conv2d(pixels, state["visual.conv1.weight"], stride=state["visual.conv1.weight"].shape[-1])
    x = x.flatten(2).mT
    x = torch.cat([state["visual.class_embedding"].expand(len(x), 1, -1), x], 1) + state["visual.positional_embedding"]
    x = _openclip_blocks(state, "visual.transformer", _norm(state, "visual.ln_pre", x), 80)
    picture = _norm(state, "visual.ln_post", x[:, 0]) @ state["visual.proj"]
    t = state["token_embedding.weight"][ids] + state["positional_embedding"][: ids.shape[1]]
    causal = torch.full((ids.shape[1], ids.shape[1]), -torch.inf).triu(1)
    t = _norm(state, "ln_final", _openclip_blocks(state, "transformer", t, 64, causal))
    text = t[torch.arange(len(ids)), ids.argmax(-1)] @ state["text_projection"]
    return F.cosine_similarity(picture, text, dim=-1)


def _openclip_blocks(state, prefix, x, head, bias=0.0):
    i = 0
    while f"{prefix}.resblocks.{i}.ln_1.weight" in state:
        block = f"{prefix}.resblocks.{i}"
        normed = _norm(state, f"{block}.ln_1", x)
        qkv = F.linear(normed, state[f"{block}.attn.in_proj_weight"], state[f"{block}.attn.in_proj_bias"])
        x = x + _linear(state, f"{block}.attn.out_proj", _attend(*qkv.chunk(3, -1), head, bias))
        hidden = F.gelu(_linear(state, f"{block}.mlp.c_fc", _norm(state, f"{block}.ln_2", x)))
        x = x + _linear(state, f"{block}.mlp.c_proj", hidden)
        i += 1
    return x


def imagereward_state(vision, layers, size, text, text_layers, words, patch=16, length=512, seed=0):
    v, t = "blip.visual_encoder.", "blip.text_encoder."
    shapes = {
        v + "cls_token": (1, 1, vision),
        v + "pos_embed": (1, (size // patch) ** 2 + 1, vision),
        v + "patch_embed.proj.weight": (vision, 3, patch, patch),
        v + "patch_embed.proj.bias": (vision,),
        t + "embeddings.word_embeddings.weight": (words, text),
        t + "embeddings.position_embeddings.weight": (length, text),
        t + "embeddings.position_ids": (1, length),
        "blip.vision_proj.weight": (256, vision),
    }
    shapes |= _affine(v + "norm", vision) | _affine(t + "embeddings.LayerNorm", text)
    for i in range(layers):
        block = f"{v}blocks.{i}"
        shapes |= _affine(f"{block}.norm1", vision) | _affine(f"{block}.norm2", vision)
        shapes |= _affine(f"{block}.attn.qkv", 3 * vision, vision) | _affine(f"{block}.attn.proj", vision, vision)
        shapes |= _affine(f"{block}.mlp.fc1", 4 * vision, vision) | _affine(f"{block}.mlp.fc2", vision, 4 * vision)
    for i in range(text_layers):
        layer = f"{t}encoder.layer.{i}"
        for attention, width in (("attention", text), ("crossattention", vision)):
            shapes |= _affine(f"{layer}.{attention}.self.query", text, text)
            shapes |= _affine(f"{layer}.{attention}.self.key", text, width)
            shapes |= _affine(f"{layer}.{attention}.self.value", text, width)
            shapes |= _affine(f"{layer}.{attention}.output.dense", text, text)
            shapes |= _affine(f"{layer}.{attention}.output.LayerNorm", text)
        shapes |= _affine(f"{layer}.intermediate.dense", 4 * text, text)
        shapes |= _affine(f"{layer}.output.dense", text, 4 * text) | _affine(f"{layer}.output.LayerNorm", text)
    return _random(shapes | head_shapes("mlp.layers.", text), seed)


def head_shapes(prefix, width):
    widths = (width, 1024, 128, 64, 16, 1)
    numbered = zip((0, 2, 4, 6, 7), widths, widths[1:], strict=False)
    return {key: shape for n, a, b in numbered for key, shape in _affine(f"{prefix}{n}", b, a).items()}


def random_head(width, seed=0):
    return _random(head_shapes("layers.", width), seed)


def imagereward_scores(state, pixels, ids, mask):
    """Standardised scores [B] of preprocessed pictures, token ids and their mask."""
    v, t = "blip.visual_encoder.", "blip.text_encoder."
    x = F.conv2d(pixels, state[v + "patch_embed.proj.weight"], state[v + "patch_embed.proj.bias"], stride=16)
    x = x.flatten(2).mT
    x = torch.cat([state[v + "cls_token"].expand(len(x), 1, -1), x], 1) + state[v + "pos_embed"]
    i = 0
    while f"{v}blocks.{i}.norm1.weight" in state:
        block = f"{v}blocks.{i}"
        qkv = _linear(state, f"{block}.attn.qkv", _norm(state, f"{block}.norm1", x, 1e-6))
        x = x + _linear(state, f"{block}.attn.proj", _attend(*qkv.chunk(3, -1), 64))
        hidden = F.gelu(_linear(state, f"{block}.mlp.fc1", _norm(state, f"{block}.norm2", x, 1e-6)))
        x = x + _linear(state, f"{block}.mlp.fc2", hidden)
        i += 1
    seen = _norm(state, v + "norm", x, 1e-6)

    words = state[t + "embeddings.word_embeddings.weight"][ids]
    positions = state[t + "embeddings.position_embeddings.weight"][: ids.shape[1]]
    h = _norm(state, t + "embeddings.LayerNorm", words + positions, 1e-12)
    padding = torch.where(mask.bool(), 0.0, -torch.inf)[:, None, None]
    i = 0
    while f"{t}encoder.layer.{i}.output.dense.weight" in state:
        layer = f"{t}encoder.layer.{i}"
        for attention, source, bias in (("attention", None, padding), ("crossattention", seen, 0.0)):
            name = f"{layer}.{attention}"
            query = _linear(state, f"{name}.self.query", h)
            key, value = (_linear(state, f"{name}.self.{k}", h if source is None else source) for k in ("key", "value"))
            read = _linear(state, f"{name}.output.dense", _attend(query, key, value, 64, bias))
            h = _norm(state, f"{name}.output.LayerNorm", h + read, 1e-12)
        hidden = F.gelu(_linear(state, f"{layer}.intermediate.dense", h))
        h = _norm(state, f"{layer}.output.LayerNorm", h + _linear(state, f"{layer}.output.dense", hidden), 1e-12)
        i += 1
    return (head(state, "mlp.layers.", h[:, 0]) - 0.16717362830052426) / 1.0333394966054072


def head(state, prefix, x):
    """The linear chain [B, D] to [B]."""
    for n in (0, 2, 4, 6, 7):
        x = _linear(state, f"{prefix}{n}", x)
    return x[:, 0]


def _attend(q, k, v, head, bias=0.0):
    q, k, v = (x.unflatten(-1, (-1, head)).transpose(1, 2) for x in (q, k, v))
    weights = (q @ k.mT / head**0.5 + bias).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def _linear(state, name, x):
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _norm(state, name, x, eps=1e-5):
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)


def _affine(name, out, *ins):
    return {f"{name}.weight": (out, *ins), f"{name}.bias": (out,)}


def _random(shapes, seed):
    """Random everywhere, at scales at which depth neither silences nor explodes a signal."""
    random = torch.Generator().manual_seed(seed)
    state = {}
    for name, shape in shapes.items():
        value = torch.randn(shape, generator=random)
        fan_in = value[0].numel() if value.dim() > 1 else 100
        if name.endswith("weight") and value.dim() == 1:
            state[name] = 1 + 0.1 * value
        elif name == "logit_scale":
            state[name] = torch.tensor(4.6)
        else:
            state[name] = value.mul_(0.7 * fan_in**-0.5)
    if "blip.text_encoder.embeddings.position_ids" in state:
        key = "blip.text_encoder.embeddings.position_ids"
        state[key] = torch.arange(state[key].shape[1])[None]
    return state
