"""What trains the embedded generator: the questions to its text encoder, the cells that count more."""

import torch

from hypernoise_core.embedded.prompts import PLURALS
from hypernoise_core.embedded.scenes import COLORS, SHAPES, Scene, Thing
from train.embedded.generator import thing_cells
from train.embedded.reading import QUESTIONS, Reading, _answers
from train.embedded.text import build_tokenizer, vocabulary


def test_every_word_for_a_shape_is_asked_about():
    tokenizer = build_tokenizer()
    prompts = [prompt for kind in vocabulary().values() for prompt in kind]
    ids = tokenizer([prompt.text for prompt in prompts], padding=True, return_tensors="pt").input_ids
    shapes = tokenizer.convert_tokens_to_ids([*SHAPES, *PLURALS.values()])
    for row, prompt in zip(ids, prompts, strict=True):
        answers = _answers(prompt)
        assert int(torch.isin(row, torch.tensor(shapes)).sum()) == len(answers)
        assert all(0 <= a < n for answer in answers for a, n in zip(answer, QUESTIONS.values(), strict=True))
    assert len(set(map(str, map(_answers, prompts)))) > 100  # swaps, counts and relations have answers of their own


def test_questions_are_learned_from_the_states_that_know():
    """Heads on states that hold the answers answer; on states that do not, they cannot."""
    torch.manual_seed(0)
    prompts = vocabulary()["color_attr"][:64]
    tokens = build_tokenizer()([prompt.text for prompt in prompts], padding=True, return_tensors="pt")
    known = torch.nn.functional.one_hot(tokens.input_ids.roll(1, 1), 64).float()  # the colour stands before its shape
    losses = {}
    for name, states in (("knows", known), ("knows nothing", torch.ones_like(known))):
        reading = Reading(64, build_tokenizer())
        optimizer = torch.optim.Adam(reading.parameters(), lr=0.3)
        for _ in range(30):
            optimizer.zero_grad()
            reading(states, tokens.input_ids, prompts).backward()
            optimizer.step()
        colours = reading.heads[0](states[torch.isin(tokens.input_ids, reading._shapes)])
        right = torch.tensor([a[0] for prompt in prompts for a in _answers(prompt)])
        losses[name] = torch.nn.functional.cross_entropy(colours, right).item()
    assert losses["knows"] < 0.1
    assert losses["knows nothing"] > 1


def test_cells_that_show_a_thing():
    cells = thing_cells([Scene((Thing("square", next(iter(COLORS)), 12, 44, 4),)), Scene(())])
    assert cells.shape == (2, 1, 8, 8)
    assert cells[0, 0].nonzero().tolist() == [[5, 1]]
    assert not cells[1].any()
