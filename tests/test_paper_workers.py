"""Two workers of `make benchmark`, in processes of their own: what a worker finds is what its parent would."""

import json
import multiprocessing
from weakref import WeakValueDictionary

import pytest
from toy_world import ToyGenerator, ToyReward

from benchmarks.paper import __main__ as benchmark
from benchmarks.paper import run as runner
from benchmarks.paper import world


@pytest.fixture(autouse=True)
def unplotted(monkeypatch):
    monkeypatch.setattr("benchmarks.paper.page.plots", lambda folder, results: {})


def found_by(workers, folder, rows):
    benchmark.main(["--scale=0.005", f"--only={rows}", f"--workers={workers}", f"--save_dir={folder}"])
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    return {name: {**row, "timing": None} for name, row in found.items()}


def test_two_forked_workers_on_toys_give_what_one_gives(tmp_path, monkeypatch):
    monkeypatch.setattr(world, "load_generator", lambda name: ToyGenerator())
    monkeypatch.setattr(world, "load_reward", lambda name: ToyReward())
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(runner.multiprocessing, "get_context", lambda method: fork)  # the toys go along
    rows = "base-1-steps,base-2-steps,perturbed,transfer-perturbed"
    one, two = (found_by(workers, tmp_path / str(workers), rows) for workers in (1, 2))
    assert one == two
    assert {"transfer-perturbed", "hypernoise-0"} <= set(one)


@pytest.mark.slow
def test_two_workers_on_the_embedded_generator_give_what_one_gives(tmp_path, monkeypatch):
    """The one works in this process, without the rewards that other tests have loaded here: they remember prompts as
    those were padded, and a world would share them."""
    monkeypatch.setattr("hypernoise_core.rewards.clip._loaded", WeakValueDictionary())
    one, two = (found_by(workers, tmp_path / str(workers), "base-1-steps,base-2-steps") for workers in (1, 2))
    assert one == two
    assert one["base-2-steps"]["records"]["base-2"]["nfe"] == 2
