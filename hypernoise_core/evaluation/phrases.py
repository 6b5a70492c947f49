"""The noun phrases of a prompt, by spaCy's small English model, as T2I-CompBench's own code has them."""

from collections.abc import Callable

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
        raise ValueError(
            f"T2I-CompBench's noun phrases need spaCy and its model ({reason(error)}): "
            f"pip install 'comfyui-hypernoise[evaluate]' and python -m spacy download {SPACY_MODEL}, or leave scoring "
            "to the benchmark's own code by --score false"
        ) from error
    return lambda prompt: [chunk.text for chunk in language(prompt).noun_chunks]
