"""`make benchmark`: every row on a toy world, the page on invented rows."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from invented_rows import invent
from toy_world import ToyGenerator, ToyReward

from benchmarks.paper import __main__ as benchmark
from benchmarks.paper import run as runner
from benchmarks.paper import world
from benchmarks.paper.bars import bars
from benchmarks.paper.measures import bits, cut, measure, paired
from benchmarks.paper.page import write_page
from benchmarks.paper.plan import plan
from benchmarks.paper.plots import plots
from benchmarks.paper.results import Places, Results, keys
from benchmarks.paper.rows import load_changed
from benchmarks.paper.run import to_run
from benchmarks.paper.techniques import OPENINGS, Spec, by_rules, load_rewriter, make, tools_for
from benchmarks.paper.world import SHIPPED, SHIPPED_HEAD, World, chosen_cases
from hypernoise_core import HeadHypernetwork, LoraHypernetwork, RewardEnsemble
from hypernoise_core.embedded.benchmark import Result, cases, paired_interval
from hypernoise_core.embedded.detector import Detection
from hypernoise_core.embedded.prompts import prompts
from hypernoise_core.embedded.scenes import Thing
from hypernoise_core.hypernetworks.critic_network import CriticNetwork
from train.cli import run_command
from train.config import TrainArguments

AGAIN = "hypernoise-0-*,finetune-matched-steps,base-re*,hypernoise-best-of,redness,kl,transfer-*,multi-*,hard-*"
"""Rows of every kind but the timing, with all that they need."""
SOME = (
    "base-1-steps,base-2-steps,base-4-steps,base-reno,critic-0-calibrated,finetune-matched,redness,kl,retrained,"
    "transfer-perturbed,hard-measured,timing-white"
)
SOME_AGAIN = "base-reno,kl,hard-measured"
OF_LORAS = 10
"""Targets of the paper's hypernetwork; those of heads follow."""
TINY = ["--scale=0.005", "--workers=1"]


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """The toy world in place of the embedded one."""
    shipped = {name: tmp_path_factory.mktemp("shipped") / "own.safetensors" for name in (SHIPPED, SHIPPED_HEAD)}
    LoraHypernetwork(ToyGenerator(), rank=2, alpha=2).save(shipped[SHIPPED])
    head = HeadHypernetwork.new(ToyGenerator(), width=16, depth=1)
    critic = CriticNetwork(head.info.shape)
    HeadHypernetwork(ToyGenerator(), head.network, head.info, critic).save(shipped[SHIPPED_HEAD])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world, "load_generator", lambda name: ToyGenerator())
        load_reward = world.load_reward
        patch.setattr(world, "load_reward", lambda name: ToyReward() if name == "embedded" else load_reward(name))
        for name, file in shipped.items():
            patch.setitem(world.SHIPPED_FILES, name, file)
        load = TrainArguments.load_rewards
        toy = RewardEnsemble([(ToyReward(), 1.0)])
        patch.setattr(TrainArguments, "load_rewards", lambda a: load(a) if a.rewards != "embedded" else toy)
        yield


def no_plots(folder, results):
    return {}


def run(folder, *line, plots=no_plots):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.paper.page.plots", plots)
        benchmark.main([*TINY, f"--save_dir={folder}", *line])
    return {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}


@pytest.fixture(scope="module")
def some(toys, tmp_path_factory):
    """(folder, rows as they were found) of a tiny run of a row of each kind."""
    folder = tmp_path_factory.mktemp("some")
    return folder, run(folder, f"--only={SOME}")


def untimed(rows):
    return {name: {key: value for key, value in row.items() if key != "timing"} for name, row in rows.items()}


def test_a_row_of_each_kind_runs_and_a_second_run_gives_equal_numbers(some, tmp_path):
    _, rows = some
    assert {row["kind"] for row in rows.values()} == set(runner.KINDS)
    again = run(tmp_path, f"--only={SOME_AGAIN}")
    assert {name: row for name, row in untimed(rows).items() if name in again} == untimed(again)
    assert again["kl"]["timing"] != rows["kl"]["timing"]


@pytest.mark.slow
def test_every_row_runs_and_a_second_run_gives_equal_numbers(toys, tmp_path):
    rows = run(tmp_path / "first", plots=plots)
    assert set(rows) == {row.name for row in plan(0.005)}
    again = run(tmp_path / "second", f"--only={AGAIN}")
    assert {name: row for name, row in untimed(rows).items() if name in again} == untimed(again)
    assert len(again) > 15
    page = (tmp_path / "first" / "results.md").read_text()
    assert f"{len(rows)} of {len(rows)} rows exist" in page
    assert "failed" not in page


def test_what_is_there_is_not_run_again(some, tmp_path, capsys):
    folder = shutil.copytree(some[0], tmp_path / "copy")
    times = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    run(folder, f"--only={SOME}")
    assert times == {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    (folder / "base-2-steps.json").write_text('{"half": ')  # as no row of ours can be left
    run(folder, f"--only={SOME}")
    run(folder, "--fresh", "--only=base-4-steps")
    changed = {n for n, t in times.items() if (folder / n).stat().st_mtime_ns != t}
    assert changed == {"base-2-steps.json", "base-4-steps.json"}


def test_weights_are_trained_again_only_where_a_row_needs_them(tmp_path):
    rows, places = invent(tmp_path)
    everything = {row.name for row in rows}
    assert to_run(rows, everything, places, fresh=False) == []  # no weights lie there, as after a clone
    places.file("kl").unlink()
    assert [row.name for row in to_run(rows, everything, places, fresh=False)] == ["hypernoise-0", "kl"]
    other = plan(1.0, seed=3)
    stale = {row.name for row in to_run(other, {row.name for row in other}, places, fresh=False)}
    assert "hypernoise-1" in stale
    assert not {name for name in stale if name.startswith("base-")}


def test_a_row_that_fails_is_told_and_the_others_stay(toys, tmp_path, monkeypatch, capsys):
    def broken(*_):
        raise RuntimeError("the disk is full")

    monkeypatch.setitem(runner.KINDS, "generator_changed", broken)
    monkeypatch.setattr("benchmarks.paper.page.plots", no_plots)
    line = [*TINY, f"--save_dir={tmp_path}", "--only=perturbed,transfer-perturbed,base-1-steps"]
    assert run_command(benchmark.main, "benchmark", line) == 2
    assert "row perturbed failed (RuntimeError: the disk is full)" in capsys.readouterr().err
    page = (tmp_path / "results.md").read_text()
    assert "Row transfer-perturbed failed: needs perturbed, which failed." in page
    assert {path.stem for path in tmp_path.glob("*.json")} >= {"base-1-steps"}
    assert not (tmp_path / "perturbed.json").exists()


def test_every_row_has_a_reward_of_its_own(toys, tmp_path, monkeypatch):
    """One that has seen no prompt yet, whatever ran before."""
    made = []
    monkeypatch.setattr(world, "load_reward", lambda name: made.append(ToyReward()) or made[-1])
    run(tmp_path, "--only=base-1-steps,base-2-steps")
    assert len(made) == 2


COSTS = {
    "base": (Spec(steps=4), 4, 0, 0),
    "hypernoise": (Spec(adapter=SHIPPED, steps=4), 5, 0, 0),
    "hypernoise applied again": (Spec(adapter=SHIPPED, steps=2, iterations=3), 5, 0, 0),
    "best of three": (Spec(best_of=3), 3, 0, 3),
    "from modulated noise": (Spec(best_of=3, adapter=SHIPPED, steps=2), 9, 0, 3),
    "from noise moved twice": (Spec(best_of=3, adapter=SHIPPED, iterations=2), 9, 0, 3),
    "reno": (Spec(reno=5), 6, 5, 6),
    "reno along white noise": (Spec(reno=5, search="reno-white"), 6, 5, 6),
    "zero-order": (Spec(reno=5, search="zero-order"), 6, 0, 6),
    "reno from modulated noise": (Spec(reno=5, adapter=SHIPPED), 7, 5, 6),
}


@pytest.mark.parametrize("name", COSTS)
def test_costs_are_counted_as_they_are(toys, tmp_path, name):
    """Every denoiser call of generator and hypernetwork, a picture each."""
    spec, nfe, backward, scored = COSTS[name]
    own = World(tmp_path)
    tools, batch = tools_for(spec, own), own.batch(chosen_cases(60, 2)[:3])
    calls = []
    networks = [own.generator.denoiser] + ([tools.adapter.network] if tools.adapter else [])
    hooks = [network.register_forward_hook(lambda *_: calls.append(1)) for network in networks]
    _, cost = make(spec, tools, batch)
    for hook in hooks:
        hook.remove()
    assert len(calls) == cost.nfe == nfe
    assert (cost.backward, cost.scored) == (backward, scored)
    assert (measure(own, spec, tools, chosen_cases(60, 2), 2)["kl"] is None) == bool(spec.best_of)


def test_a_search_is_measured_at_several_points_of_one_run(some):
    """The record at five iterations is that of a search of five."""
    folder, rows = some
    own = World(Places(folder).work)
    settings = rows["base-reno"]["settings"]
    todo, spec = chosen_cases(settings["n"], settings["per"]), Spec(reno=5)
    record = measure(own, spec, tools_for(spec, own), todo, settings["per"])
    assert record == rows["base-reno"]["records"]["base-reno-5"]
    records = rows["base-reno"]["records"]
    assert records["base-reno-50"]["reward"] > records["base-reno-5"]["reward"]


def test_a_changed_generator_is_kept(some):
    folder, rows = some
    own = World(Places(folder).work)
    assert 0 < rows["perturbed"]["relative_change"] < 0.1
    assert rows["retrained"]["relative_change"] > 0
    assert len(rows["retrained"]["losses"]) == 2
    before, after = (next(g.denoiser.parameters()) for g in (own.generator, load_changed(own, "perturbed")))
    assert 0 < (after - before).abs().max() < 0.2


def test_the_page_has_every_number_that_there_is(tmp_path):
    rows, places = invent(tmp_path)
    results = Results.read(rows, places, {})
    write_page(tmp_path / "docs" / "results.md", places.results, results, 1.0, 0)
    page = (tmp_path / "docs" / "results.md").read_text()
    pictures = re.findall(r"!\[.*?\]\((.*?)\)", page)
    assert len(pictures) == 7
    assert all((tmp_path / "docs" / picture).stat().st_size > 10_000 for picture in pictures)
    assert "not run" not in page.lower().replace("what was not", "")
    methods = page.split("## Every method")[1].split("![")[0]
    assert methods.count("–") == 1  # the base over itself
    assert "**not met**" not in page.split("## Every")[0].split("| a head at one reading")[0]


@pytest.mark.slow
def test_the_page_says_what_is_missing(tmp_path):
    left_out = {"base-reno", "redness", "kl", "timing", "rank-16-measured"}
    rows, places = invent(tmp_path, left_out=left_out)
    results = Results.read(rows, places, {})
    write_page(tmp_path / "results.md", places.results, results, 1.0, 0)
    page = (tmp_path / "results.md").read_text()
    assert f"Not run: {', '.join(row.name for row in rows if row.name in left_out)}." in page
    unmet = [bar for bar in bars(results)[:OF_LORAS] if bar.met is None]
    assert len(unmet) == 4
    assert {bar.measured for bar in unmet} == {"not run"}


def test_bars_are_not_met_by_worse_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("invented_rows.SKILL", {"base": 0.6, "hypernoise": 0.5, "finetune": 0.6})
    rows, places = invent(tmp_path)
    met = [bar.met for bar in bars(Results.read(rows, places, {}))]
    assert met[:4] == [False] * 4
    assert met[5:7] == [False] * 2
    assert not met[OF_LORAS - 1]


def test_intervals_are_the_embedded_benchmarks():
    todo, rng = cases(120), np.random.default_rng(0)
    a, b = (rng.integers(2, size=120).astype(float) for _ in range(2))
    empty = dict.fromkeys(("pictures", "strict", "reward", "redness", "kl"), np.zeros(120))
    one, two = (Result(todo, correct=v, noise_std=1, seconds_per_image=1, **empty) for v in (a, b))
    records = [{"per": 10, "correct": bits(v)} for v in (a, b)]
    assert paired(records[:1], records[1:]) == pytest.approx(paired_interval(one, two))
    assert paired(records, records) == (0, 0, 0)
    few = cut(records[0], 3)
    assert few["correct"] == bits(np.concatenate([a[i : i + 3] for i in range(0, 120, 10)]))
    assert [c for i, c in enumerate(todo) if i % 10 < 3] == chosen_cases(120, 3)


def test_layouts_differ_by_what_is_where():
    from benchmarks.paper.measures import _layout_distance

    square = Thing("square", "red", 10, 10, 6)
    moved, recolored = replace(square, x=50), replace(square, color="blue")
    one, nothing = Detection((square,), 0), Detection((), 0)
    assert _layout_distance(one, one) == _layout_distance(nothing, nothing) == 0
    assert all(_layout_distance(one, Detection((other,), 0)) == 1 for other in (moved, recolored))
    assert _layout_distance(one, Detection((square, moved), 0)) == 0.5
    assert _layout_distance(one, nothing) == 1


def test_the_rules_reword_without_new_words(generator):
    tokenizer = generator.pipeline.tokenizer
    for prompt in prompts(held_out=True):
        wordings = [prompt.text, *by_rules(prompt.text, [(prompt.text, 0.0)])]
        assert len(set(wordings)) == len(wordings) == len(OPENINGS) * (2 if len(prompt.wants) == 2 else 1)
        ids = tokenizer(wordings).input_ids
        assert not any(tokenizer.unk_token_id in row for row in ids), wordings
    left = by_rules("a photo of a cross left of a square", [])
    assert "a photo of a square right of a cross" in left
    assert by_rules("two crosses", [(opening + "two crosses", 0.0) for opening in OPENINGS]) == []


def test_prompt_search_keeps_the_best_wording_and_may_go_by_scores(toys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        "seen = []\n"
        "def propose(prompt, tried):\n"
        "    seen.append(list(tried))\n"
        "    return [f'{tried[0][0]} again'] if len(tried) < 3 else []\n"
    )
    own, spec = World(tmp_path), Spec(rewriter="mine:propose")
    tools, batch = tools_for(spec, own), own.batch(chosen_cases(60, 2)[:2])
    made, cost = make(spec, tools, batch)
    assert (cost.nfe, cost.scored) == (3, 3)
    seen = load_rewriter("mine:propose").__globals__["seen"]
    with torch.no_grad():
        kept = own.reward.score(made.images, batch.text)
    assert kept.tolist() == pytest.approx([max(score for _, score in seen[i]) for i in (2, 5)], abs=1e-6)
    assert all(scores == sorted(scores, reverse=True) for scores in ([s for _, s in tried] for tried in seen))


WRONG = {
    "scale": ("--scale=0", "scale is 0"),
    "workers": ("--workers=0", "workers is 0"),
    "rows": ("--only=base-*,nothing", "no row is called 'nothing'"),
    "rewriter": ("--rewriter=nowhere:words", "rewriter 'nowhere:words' does not load"),
    "no function": ("--rewriter=math:pi", "is not a function"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_values_end_in_one_line(name, tmp_path, capsys):
    argument, message = WRONG[name]
    assert run_command(benchmark.main, "benchmark", [argument, f"--save_dir={tmp_path / 'out'}"]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_plan_fits_in_two_hours_and_in_order(capsys):
    rows = plan()
    seen = set()
    for row in rows:
        assert set(row.needs) <= seen
        seen.add(row.name)
    assert len(seen) == len(rows)
    alone = sum(row.seconds for row in rows if row.alone)
    assert (sum(row.seconds for row in rows) - alone) / 2 + alone <= 120 * 60
    assert len(set(keys(rows).values())) == len(rows)
    benchmark.main(["--plan"])
    assert "rows to run" in capsys.readouterr().out
