"""Load judges' models from Hugging Face or a folder, with one clear sentence if they are missing."""

from pathlib import Path
from typing import TypeVar

from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedModel

from ..settings import SettingError, about
from ..tensor_file import reason, refuse_stand_ins

Model = TypeVar("Model", bound=PreTrainedModel)


def check_source(source: str, model_type: str, option: str) -> None:
    """Check that a model's configuration exists and has the right kind, before hours of work.

    Args:
        source: Hugging Face id, or folder saved by transformers.
        model_type: transformers' name of the architecture, such as `mask2former`.
        option: the setting that named it, for the message.

    Raises:
        ValueError: it is missing, of another kind, or only stands for weights.
    """
    with about(option):
        refuse_stand_ins(Path(source))
    try:
        found = AutoConfig.from_pretrained(source).model_type
    except Exception as error:  # the hub's, the network's, JSON's
        raise _missing(source, option, error) from error
    if found != model_type:
        raise SettingError(f"{{{option}}} is {{!r}}, a {{}} model; give one of kind {{}}", source, found, model_type)


def load_whole(model_class: type[Model], source: str, option: str) -> Model:
    """A frozen model with all of its weights, float32, on the CPU.

    Raises:
        ValueError: it is missing, damaged, or lacks weights.
    """
    try:
        model, report = model_class.from_pretrained(source, output_loading_info=True)
    except Exception as error:  # a damaged folder raises what its reader raises
        raise _missing(source, option, error) from error
    if missing := sorted(report["missing_keys"]):
        raise SettingError(
            f"{{{option}}} is {{!r}}, which lacks {{}} weights, such as {{}}", source, len(missing), missing[0]
        )
    return model.eval().requires_grad_(False)


def load_part(auto_class: type[AutoTokenizer] | type[AutoImageProcessor], source: str, option: str, **options):
    """The tokenizer or image processor of a model.

    Raises:
        ValueError: it is missing.
    """
    try:
        return auto_class.from_pretrained(source, **options)
    except Exception as error:
        raise _missing(source, option, error) from error


def _missing(source: str, option: str, error: Exception) -> SettingError:
    return SettingError(
        f"{{{option}}} cannot be loaded from {{!r}} ({{}}): download all of huggingface.co/{{}} into a folder and pass "
        f"it with {{{option}}}, or let the benchmark's own code score, with {{score}} false",
        source,
        reason(error),
        source,
    )
