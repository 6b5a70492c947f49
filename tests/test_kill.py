"""SIGKILL at random moments, also in the middle of a write, through the command line as it is."""

import os

import pytest

from benchmarks.kill_and_resume import kill_and_resume


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks; not on Windows")
def test_killed_runs_end_as_if_left_alone(tmp_path):
    """Two kills here; `python -m benchmarks.kill_and_resume` does 20."""
    outcome = kill_and_resume(tmp_path, kills=2, steps=8)
    assert outcome.kills == 2
    assert outcome.exact, outcome
