"""SIGKILL at random moments, also in the middle of a write, through the command line as it is."""

import os

import pytest

from benchmarks.kill_and_resume import KINDS, kill_and_resume


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks; not on Windows")
@pytest.mark.parametrize(
    ("kills", "processes", "kind"), [pytest.param(2, 1, "lora", marks=pytest.mark.slow), (1, 2, "head")]
)
def test_killed_runs_end_as_if_left_alone(tmp_path, monkeypatch, kills, processes, kind):
    """A kill or two here; `python -m benchmarks.kill_and_resume` does 20, with `--processes 2` of two that train
    together. tests/test_resume.py stops within a warm start, whose line search takes seconds."""
    monkeypatch.setitem(KINDS, kind, [*KINDS[kind], "--warm_start_pictures=0"])
    outcome = kill_and_resume(tmp_path, kills, steps=4 * kills, processes=processes, kind=kind)
    assert outcome.kills == kills
    assert outcome.exact, outcome
