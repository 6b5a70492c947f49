"""Costs on the full-size models, counted without data."""

from dataclasses import replace

import pytest
import torch

from benchmarks.counts import MARKS, call_and_head, made, row, write_between_marks
from benchmarks.full_size_models import MODELS
from benchmarks.step_by_kind import StepByKindArguments, memory_of, small_autoencoder, trainers
from hypernoise_core.hypernetworks.head import HeadHypernetwork
from hypernoise_core.planning.counter import Counter
from hypernoise_core.planning.released import sana_transformer
from hypernoise_core.planning.without_data import without_data


@pytest.mark.parametrize(
    "name", [pytest.param("sd-turbo", marks=pytest.mark.slow), pytest.param("sana", marks=pytest.mark.full_size)]
)
def test_a_head_costs_less_than_a_twentieth_of_the_call_that_it_reads(name):
    with without_data():
        head = HeadHypernetwork.new(made(MODELS[name], name))
        call, own = call_and_head(head)
    assert 0 < own < 0.05 * call


def test_what_is_kept_for_a_backward_pass_is_counted_and_given_back():
    x = torch.zeros(1000, requires_grad=True)
    counter = Counter([x])
    with counter:
        y = x
        for _ in range(10):
            y = y.exp()  # each result is kept by the graph alone
        assert counter.now == 11 * 4000
        y = y.sum()
        y.backward()
    assert 11 * 4000 < counter.peak <= 14 * 4000
    del y
    assert counter.now == 2 * 4000  # x and its gradient


def test_attention_counts_as_its_two_products():
    q, k = torch.zeros(1, 2, 7, 8, requires_grad=True), torch.zeros(1, 2, 5, 8)
    with Counter() as counter:
        out = torch.nn.functional.scaled_dot_product_attention(q, k, k)
    assert counter.flops == 2 * 2 * (2 * 7 * 5 * 8)
    with counter:
        out.sum().backward()
    assert counter.flops == 2 * 2 * (2 * 7 * 5 * 8) * 3.5


def test_lines_of_the_table_take_the_place_of_their_like(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\n{MARKS[1]}\nafter\n")
    write_between_marks(page, ["| one | 1 |", "| two | 1 |"])
    write_between_marks(page, ["| three | 2 |", "| one | 2 |"])
    lines = page.read_text().splitlines()
    assert (lines[:2], lines[-2:]) == (["before", MARKS[0]], [MARKS[1], "after"])
    assert lines[4:-2] == ["| one | 2 |", "| two | 1 |", "| three | 2 |"]
    page.write_text("nothing")
    with pytest.raises(ValueError, match="has no lines"):
        write_between_marks(page, [])


@pytest.mark.parametrize("kind", [pytest.param("lora", marks=pytest.mark.slow), "head"])
def test_what_is_counted_without_data_is_what_a_step_with_data_takes(kind):
    autoencoder = lambda: small_autoencoder((4, 8, 16, 32))  # noqa: E731
    toy = replace(MODELS["sana"], denoiser=lambda: sana_transformer(1, 2, 2), autoencoder=autoencoder, rank=4)
    with without_data():
        counted = row(toy, made(toy, "toy"), kind)
    true = row(toy, made(toy, "toy"), kind)
    assert counted.peak == pytest.approx(true.peak, rel=0.02)
    assert vars(counted) | {"peak": 0} == vars(true) | {"peak": 0}


@pytest.mark.slow
def test_a_head_trains_in_seven_tenths_of_the_loras_memory():
    rows = trainers(StepByKindArguments(batch_size=1))
    lora, head = memory_of(rows["LoRA"]), memory_of(rows["head"])
    assert head.peak < 0.7 * lora.peak
    assert head.kept < 0.7 * lora.kept
