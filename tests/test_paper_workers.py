"""Two workers of `make benchmark`, in processes of their own: what a worker finds is what its parent would."""

import json
from weakref import WeakValueDictionary

from benchmarks.paper import __main__ as benchmark


def test_two_workers_on_the_embedded_generator_give_what_one_gives(tmp_path, monkeypatch):
    """The one works in this process, without the rewards that other tests have loaded here: they remember prompts as
    those were padded, and a world would share them."""
    monkeypatch.setattr("hypernoise_core.rewards.clip._loaded", WeakValueDictionary())
    monkeypatch.setattr("benchmarks.paper.page.plots", lambda folder, results: {})
    found = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        line = f"--scale=0.005 --only=base-1-steps,base-2-steps --workers={workers} --save_dir={folder}"
        benchmark.main(line.split())
        rows = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
        found.append({name: {**row, "timing": None} for name, row in rows.items()})
    assert found[0] == found[1]
    assert found[0]["base-2-steps"]["records"]["base-2"]["nfe"] == 2
