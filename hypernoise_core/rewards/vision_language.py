"""A vision-language model as a judge: it is shown a picture and asked in words. Any model that transformers has under
`AutoModelForImageTextToText` does."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch
from PIL import Image
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES, processor_class_from_name

from ..batch import TensorBatch
from ..tensor_file import reason
from .checkpoints import find_folder
from .quantized import Quantize, loading

MODEL = "Qwen/Qwen3-VL-4B-Instruct"
"""Asked if no other model is named."""

PROCESSOR_FOLDER = "processor"
"""In a pipeline that diffusers saved."""

PROMPT_SHARE = 0.5
"""Of a model's window, what a prompt may fill. Picture, template and answer take the rest."""

CACHED_KINDS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
"""Whose cache can be cut back to what several questions share."""

_loaded: WeakValueDictionary[tuple, VisionLanguageModel] = WeakValueDictionary()
"""Rewards that ask one model share it. It is freed with the last of them."""


class VisionLanguageModel:
    """A frozen model with its processor."""

    def __init__(self, model: PreTrainedModel, processor: ProcessorMixin):
        self.model, self.processor = model.eval().requires_grad_(False), processor

    def fitted(self, prompts: Sequence[str]) -> list[str]:
        """Prompts as the model takes them. One that is longer than `PROMPT_SHARE` of its window is cut, and told."""
        return fitted(self.processor, prompts, self.model.config)

    def log_probability(self, images: Tensor, questions: Sequence[str], answer: str = "Yes") -> Tensor:
        """log p [B], float32, that the model begins its answer with the first token of `answer`.

        Args:
            images: [B, 3, H, W] in [0, 1].
            questions: one for each.
        """
        token = self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"][0]
        inputs = self._inputs(questions, images)
        logits = self.model(**inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
        return logits.float().log_softmax(-1)[:, token]

    def log_probabilities(self, image: Tensor, questions: Sequence[str], answer: str = "Yes") -> Tensor:
        """As `log_probability`, [N], of N different questions about one image [3, H, W]. Models of `CACHED_KINDS` read
        the image, and how all questions begin, once."""
        if self.model.config.model_type not in CACHED_KINDS or len(questions) == 1:
            return self.log_probability(image.expand(len(questions), -1, -1, -1), questions, answer)
        token = self.processor.tokenizer(answer, add_special_tokens=False)["input_ids"][0]
        first = self._inputs(questions[:1], image[None])
        shown = first["input_ids"]
        tails = [shown[0], *(self._inputs([text], image[None])["input_ids"][0] for text in questions[1:])]
        shared = min(_shared(shown[0], tail) for tail in tails[1:])
        begun = {key: own[:, :shared] if own.shape == shown.shape else own for key, own in first.items()}
        cache = self.model(**begun, use_cache=True, logits_to_keep=1).past_key_values
        found = []
        for tail in tails:
            seen = self.model(input_ids=tail[None, shared:], past_key_values=cache, use_cache=True, logits_to_keep=1)
            found.append(seen.logits[0, -1].float().log_softmax(-1)[token])
            cache.crop(shared - len(tail))
        return torch.stack(found)

    def write(self, instruction: str, most: int = 512) -> str:
        """What the model answers, at most `most` tokens, without chance."""
        inputs = self._inputs([instruction])
        pad = self.processor.tokenizer.pad_token_id
        written = self.model.generate(**inputs, max_new_tokens=most, do_sample=False, pad_token_id=pad)
        answer = written[:, inputs["input_ids"].shape[1] :]
        return self.processor.tokenizer.batch_decode(answer, skip_special_tokens=True)[0]

    def _inputs(self, texts: Sequence[str], images: Tensor | None = None) -> BatchFeature:
        batch = chat(self.processor, texts, images, padding_side="left")  # so that every row ends where it is answered
        return batch.to(self.model.device, self.model.dtype)

    def to(self, device: torch.device | str) -> VisionLanguageModel:
        self.model.to(device)
        return self


def _shared(a: Tensor, b: Tensor) -> int:
    """How many tokens two questions begin with alike; at least one of each is left."""
    most = min(len(a), len(b)) - 1
    alike = (a[:most] == b[:most]).cumprod(0)
    return int(alike.sum())


def load_vision_language(
    name: str, weights: str | Path | None, model: str | Path | None, dtype: torch.dtype, quantize: Quantize = "none"
) -> VisionLanguageModel:
    """The model that reward `name` asks.

    Args:
        weights: as in `checkpoints.find_folder`.
        model: its Hugging Face id, or its folder. Of an id, the folder of that name in `weights` is taken if there is
            one. `MODEL` by default.
        quantize: of its weights, as it is loaded.

    Raises:
        ValueError: it is missing or of another kind, or `quantize` needs a package.
    """
    source, how = find_judge(name, weights, model), loading(quantize, dtype)
    key = (source, dtype, quantize)
    if (found := _loaded.get(key)) is None:
        processor = load_processor(name, [source, *_beside(source)], _processor_hint(source), source)
        try:
            kind = AutoModelForImageTextToText
            weighed, report = kind.from_pretrained(source, dtype=dtype, output_loading_info=True, **how)
        except Exception as error:  # a damaged folder raises what its reader raises
            raise ValueError(
                f"reward {name!r}: no vision-language model at {source} ({reason(error)}): give a folder saved by "
                "transformers or a hub id, of a model for AutoModelForImageTextToText"
            ) from error
        if report["missing_keys"] or report.get("mismatched_keys"):
            raise ValueError(f"reward {name!r}: the weights at {source} are not those of a whole model")
        found = _loaded[key] = VisionLanguageModel(weighed, processor)
    return found


def find_judge(name: str, weights: str | Path | None, model: str | Path | None) -> str:
    """The model's folder or Hugging Face id. Arguments are those of `load_vision_language`.

    Raises:
        ValueError: it is not there.
    """
    return find_folder(name, model if model and Path(model).is_dir() else weights, str(model or MODEL))


def _beside(source: str) -> list[Path]:
    """Where the processor is of a model that is the text encoder of a pipeline which diffusers saved."""
    return [Path(source).parent / PROCESSOR_FOLDER] if Path(source).is_dir() else []


def _processor_hint(source: str) -> str:
    if not Path(source).is_dir():
        return f"download all of the model at {source} again"
    return (
        f"put the tokenizer's and processor's files of this model, as it is published for itself, into {source}, or "
        f"into a folder {PROCESSOR_FOLDER} beside it"
    )


def load_processor(
    name: str, sources: Sequence[str | Path], hint: str, model: str | Path | None = None
) -> ProcessorMixin:
    """The processor of the first source (folder or Hugging Face id) that has one. Pictures are resized by Pillow on
    every machine.

    Args:
        model: whose configuration says which kind of processor it is; by default the source's own.

    Raises:
        ValueError: none of them has one; `hint` says what to download.
    """
    failure: Exception | None = None
    for source in sources:
        if isinstance(source, Path) and not any(source.glob("*processor*.json")):
            continue
        try:
            kind = processor_class_from_name(
                PROCESSOR_MAPPING_NAMES[AutoConfig.from_pretrained(model or source).model_type]
            )
            if "video_processor" in inspect.signature(kind.__init__).parameters:
                return _without_video(kind).from_pretrained(source)
            return AutoProcessor.from_pretrained(source, backend="pil")
        except Exception as error:  # a damaged folder raises what its reader raises
            failure = error
    raise ValueError(
        f"reward {name!r} has no processor{f' ({reason(failure)})' if failure else ''}: {hint}"
    ) from failure


def _without_video(kind: type[ProcessorMixin]) -> type[ProcessorMixin]:
    """Its part for videos would need torchvision, and no reward is shown any."""

    class Pictures(kind):
        @classmethod
        def _get_arguments_from_pretrained(cls, source: str | Path, *_: Any, **__: Any) -> list:
            pictures = AutoImageProcessor.from_pretrained(source, backend="pil")
            return [pictures, AutoTokenizer.from_pretrained(source), None]

        def check_argument_for_proper_class(self, name: str, argument: object) -> object:
            return argument and super().check_argument_for_proper_class(name, argument)

    return Pictures


def chat(processor: ProcessorMixin, texts: Sequence[str], images: Tensor | None = None, **options: Any) -> BatchFeature:
    """What a model gets when a user shows `images` [B, 3, H, W] in [0, 1], if there are any, and says `texts`: one
    message each, padded, on the CPU. Pictures have 8 bits a channel, as in a file."""
    shown = [] if images is None else [{"type": "image"}]
    messages = [[{"role": "user", "content": [*shown, {"type": "text", "text": text}]}] for text in texts]
    said = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    pictures = {} if images is None else {"images": [[picture] for picture in _as_files(images)]}
    return processor(text=said, **pictures, padding=True, return_tensors="pt", **options)


def _as_files(images: Tensor) -> list[Image.Image]:
    pixels = (images.detach().float().clamp(0, 1) * 255).round().byte().movedim(1, -1).cpu().numpy()
    return [Image.fromarray(picture) for picture in pixels]


def fitted(processor: ProcessorMixin, prompts: Sequence[str], config: Any) -> list[str]:
    """As `VisionLanguageModel.fitted`. What a prompt says in a model's control marks (<|…|>) is plain text."""
    room, taken = int(config.get_text_config().max_position_embeddings * PROMPT_SHARE), []
    for prompt in prompts:
        prompt = prompt.replace("<|", "< |").replace("\0", "")
        ids = processor.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if len(ids) > room:
            warnings.warn(
                f"a prompt of {len(ids)} tokens is judged by its first {room}, half of what the model reads; picture "
                f"and question take the rest: {prompt[:60]!r}…",
                stacklevel=2,
            )
            prompt = processor.tokenizer.decode(ids[:room])
        taken.append(prompt)
    return taken


def as_batch(texts: Sequence[str]) -> TensorBatch:
    """Texts as UTF-8 `bytes` [B, longest], filled up with zeros. `as_texts` reads them."""
    rows = [torch.frombuffer(bytearray(text.encode() or b" "), dtype=torch.uint8) for text in texts]
    return TensorBatch({"bytes": torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)})


def as_texts(batch: TensorBatch) -> list[str]:
    return [bytes(row.tolist()).rstrip(b"\0").decode() for row in batch["bytes"].cpu()]
