"""The noun phrases of a prompt, by spaCy's small English model, as in T2I-CompBench's own code."""

from collections.abc import Callable

from ..settings import SettingError
from ..tensor_file import reason

SPACY_MODEL = "en_core_web_sm"


def load_noun_phrases() -> Callable[[str], list[str]]:
    """A function from a prompt to its noun phrases, in order: `a green bench and a red car` to `a green bench`,
    `a red car`.

    Raises:
        ValueError: spaCy or its model is not installed.
    """
    try:
        import spacy

        language = spacy.load(SPACY_MODEL)
    except (ImportError, OSError) as error:
        raise SettingError(
            "T2I-CompBench's noun phrases need spaCy and its model ({}): pip install 'comfyui-hypernoise[evaluate]' "
            "and python -m spacy download {}, or let the benchmark's own code score, with {score} false",
            reason(error),
            SPACY_MODEL,
        ) from error
    return lambda prompt: [chunk.text for chunk in language(prompt).noun_chunks]
