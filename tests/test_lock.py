"""Two trainings do not write into one folder."""

import json
import os
import socket
from pathlib import Path

import psutil
import pytest

from train.__main__ import main
from train.lock import NAME, check_free, holding

RUN = [
    *("--rewards=redness", "--prompts=p.txt", "--max_steps=1", "--batch_size=2", "--lora_rank=4", "--trackers="),
    *("--warm_start_pictures=0", "--diagnostics_every=0"),
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a red square\n")


def left_by(pid, started, host=None):
    owner = {"pid": pid, "host": host or socket.gethostname(), "started": started}
    Path("run", NAME).write_text(json.dumps(owner))


def test_a_folder_is_held_while_a_training_lives_and_taken_over_from_a_dead_one(toy_model, capsys):
    main([*RUN, "--save_dir=run"])
    assert not Path("run", NAME).exists()
    mine = psutil.Process().create_time()
    left_by(os.getpid(), mine)
    before = sorted(Path().rglob("*"))
    with pytest.raises(ValueError, match=rf"process {os.getpid()} on .* is training in run: wait for it, stop it"):
        main(["--resume=run", "--max_steps=2"])
    assert sorted(Path().rglob("*")) == before
    left_by(os.getpid(), mine - 100)  # an earlier process of the same number
    main(["--resume=run", "--max_steps=2"])
    assert not Path("run", NAME).exists()
    left_by(7, 0.0, "elsewhere")
    main(["--resume=run", "--max_steps=2"])
    assert "last written by process 7 on elsewhere: make sure that it has ended" in capsys.readouterr().out


def test_nobody_else_gets_in_between():
    with holding(Path("run")):
        with pytest.raises(ValueError, match="is training in run"):
            check_free(Path("run"))
        Path("run", NAME).write_text('{"pid"')  # half of one
        assert check_free(Path("run")) is None
    assert check_free(Path("run")) is None
