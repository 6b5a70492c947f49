"""The judges' real classes at toy size with random weights, saved as a person has them: one folder each."""

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BitImageProcessorPil,
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessorPil,
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    PreTrainedTokenizerFast,
    SwinConfig,
)

COCO = [
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow", "elephant",
    "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard",
    "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange", "broccoli",
    "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant", "bed", "dining table", "toilet",
    "tv", "laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink",
    "refrigerator", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush",
]  # fmt: skip
"""As released checkpoints name them."""

WORDS = [
    *("a", "photo", "of", "red", "green", "blue", "bench", "dog", "car", "and"),
    *("yes", "no", "?", "is", "there", "the", "cat"),
]


def tokenizer(first, last):
    special = ["<pad>", "<unk>", *WORDS, first, last]
    ids = {word: i for i, word in enumerate(special)}
    backend = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(first, ids[first]), (last, ids[last])]
    backend.post_processor = processors.TemplateProcessing(single=f"{first} $A {last}", special_tokens=ends)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", bos_token=first, eos_token=last
    )


def detector(seen="dog"):
    """It is sure of one class, whatever it is shown; its masks are random."""
    backbone = SwinConfig(
        image_size=32, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=7,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    config = Mask2FormerConfig(
        backbone_config=backbone, feature_size=32, mask_feature_size=32, hidden_dim=32, encoder_feedforward_dim=16,
        encoder_layers=1, decoder_layers=2, num_attention_heads=2, dim_feedforward=16, num_queries=4,
        id2label=dict(enumerate(COCO)), label2id={name: i for i, name in enumerate(COCO)},
    )  # fmt: skip
    model = Mask2FormerForUniversalSegmentation(config).eval()
    with torch.no_grad():
        model.class_predictor.bias[COCO.index(seen)] = 20
    return model, Mask2FormerImageProcessorPil(size={"height": 64, "width": 64})


def clip():
    own = tokenizer("<start>", "<end>")
    tower = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "hidden_size": 32}
    ids = {"bos_token_id": own.bos_token_id, "eos_token_id": own.eos_token_id, "pad_token_id": 0}
    config = CLIPConfig(
        projection_dim=16,
        text_config=tower | ids | {"vocab_size": len(own), "max_position_embeddings": 77},
        vision_config=tower | {"image_size": 32, "patch_size": 8},
    )
    return CLIPModel(config), own


def blip():
    own = tokenizer("[CLS]", "[SEP]")
    text = {
        "vocab_size": len(own) + 2, "hidden_size": 32, "encoder_hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0,
        "bos_token_id": len(own), "sep_token_id": own.eos_token_id, "eos_token_id": own.eos_token_id,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 8,
    }  # fmt: skip
    model = BlipForQuestionAnswering(BlipConfig(text_config=text, vision_config=vision)).eval()
    with torch.no_grad():  # its initial weights are so small that every answer is one half
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and "norm" not in name.lower():
                parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model, own, BlipImageProcessorPil(size={"height": 32, "width": 32})


def dino():
    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, mlp_ratio=2, image_size=28, patch_size=14
    )
    return Dinov2Model(config), BitImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})


def save_judges(folder):
    """All of them: detector, clip, blip, dino."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for build in (detector, clip, blip, dino):
            for part in build():
                part.save_pretrained(folder / build.__name__)
    return folder
