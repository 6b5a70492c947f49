"""DPG-Bench's rule (Hu et al. 2024, arXiv 2403.05135): questions about an image, some of which count only if others got
a yes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A yes-or-no question. `parents` are the numbers of the questions that must be answered yes first. `kind` is the
    first word of its proposition: entity, attribute, relation, global or other."""

    number: int
    text: str
    parents: tuple[int, ...]
    kind: str


def dependent_score(questions: Sequence[Question], yes: Mapping[int, bool]) -> float:
    """Share of questions answered yes, in [0, 1]. A question counts only if all questions that it depends on were
    answered yes."""
    by_number = {question.number: question for question in questions}
    counted: dict[int, bool] = {}

    def counts(number: int) -> bool:
        if number not in counted:
            counted[number] = False  # in a ring of questions none counts
            parents = (parent for parent in by_number[number].parents if parent in by_number)
            counted[number] = yes[number] and all([counts(parent) for parent in parents])
        return counted[number]

    return sum(counts(question.number) for question in questions) / len(questions)


def kind_scores(questions: Sequence[Question], yes: Mapping[int, bool]) -> dict[str, float]:
    """Share of yes by kind of question, without the dependencies."""
    kinds: dict[str, list[bool]] = {}
    for question in questions:
        kinds.setdefault(question.kind, []).append(yes[question.number])
    return {kind: sum(own) / len(own) for kind, own in sorted(kinds.items())}
