"""`densebench run`: a table from beginning to end, its states as JSON, rehearsals, and wrong input."""

from __future__ import annotations

import json
import re
import signal
import sys
import time

import command_line
import pytest

from densebench.results.leaderboard import leaderboard
from densebench.tables.cells import Places, cells
from densebench.tables.states import TableFolder
from densebench.tables.table_file import read_table

CURSOR_UP = "\x1b[1A"

TABLE = """
title = "Two on scenes"
[[backbone]]
spec = "random:test_vit"
name = "net"
[[backbone]]
spec = "timm:test_vit"
weights = "gone.pth"
name = "gone"
[[evaluation]]
protocol = "incontext"
datasets = ["scenes"]
fractions = [1, 8]
seeds = 1
"""
CHEAP = """
[[pretrain]]
method = "dino"
data = ["scenes"]
limit = 8
epochs = EPOCHS
arch = "test_vit"
image_size = 32
local_size = 16
batch_size = 4
out_dim = 64
workers = 0
"""


@pytest.fixture
def call(tmp_path):
    (tmp_path / "small.toml").write_text(TABLE)
    return lambda *words: command_line.call("run", *words, folder=tmp_path)


@pytest.fixture
def run(tmp_path):
    (tmp_path / "small.toml").write_text(TABLE)
    return lambda *words: command_line.run("run", *words, folder=tmp_path)


def found(text):
    return {cell["label"]: cell["state"] for cell in json.loads(text)["cells"]}


def records(folder, place="results"):
    return sorted((folder / place / "records").glob("*.json"))


def test_the_states_are_one_json_object_and_nothing_is_written(call, tmp_path):
    done = call("small.toml", "--status", "--json")
    values = json.loads(done.out)
    assert values["title"] == "Two on scenes"
    assert values["counts"] == {"done": 0, "running": 0, "failed": 0, "interrupted": 0, "blocked": 0, "waiting": 2}
    assert values["cells"][0]["command"][:3] == ["densebench", "eval", "--protocol"]
    assert not (tmp_path / "results").exists()


def test_the_states_are_a_page_too(call, tmp_path):
    done = call("small.toml", "--status")
    path = tmp_path / "results" / "tables" / "small" / "index.html"
    assert "results/tables/small/index.html shows the states" in done.err
    assert "index.html" not in done.out
    assert "gone, incontext, scenes" in path.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["small.tml"], "small.tml"),
        (["small.toml", "--trial"], "--trial goes with --dry-run; add that or leave --trial out"),
        (["small.toml", "--status", "--dry-run"], "--status does not go with --dry-run; leave one of them out"),
        (["small.toml", "--gpus", "2", "--processes", "2"], "--gpus does not go with --processes"),
        (["small.toml", "--slurm", "partion=gpu,time=9"], "did you mean 'partition'"),
        (["small.toml", "--set", "fractoins=1"], "did you mean 'fractions'"),
    ],
)
def test_wrong_input_is_one_line(call, words, message):
    assert message in call(*words).error


@pytest.mark.parametrize(("last", "status"), [("interrupted", 130), ("failed", 0)])
def test_the_states_on_a_terminal_follow_what_happens_until_nothing_is_left_or_ctrl_c(tmp_path, monkeypatch, last, status):
    (tmp_path / "small.toml").write_text(TABLE)
    made = cells(read_table(tmp_path / "small.toml"), Places())
    folder = TableFolder(tmp_path / "results", "small")
    terminal, pictures = command_line.Terminal(), []

    def pass_a_second(_seconds):
        pictures.append(terminal.getvalue()[sum(map(len, pictures)) :])
        if len(pictures) > len(made):
            raise KeyboardInterrupt
        state = last if len(pictures) == len(made) else "failed"
        folder.note(made[len(pictures) - 1], {"state": state, "started": "now", "problem": f"why {len(pictures)}", "users": True})

    for name, value in (("COLUMNS", "100"), ("LINES", "30"), ("TERM", "xterm"), ("NO_COLOR", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(time, "sleep", pass_a_second)
    monkeypatch.setattr(sys.modules["densebench.cli.run"], "REFRESH", 0.0)  # the package has the function by that name
    assert command_line.call("run", "small.toml", "--status", folder=tmp_path, out=terminal).status == status
    pictures.append(terminal.getvalue()[sum(map(len, pictures)) :])
    found = [{*re.findall(r"of 2 cells done, (\d \w+(?:, \d \w+)*)", picture)} for picture in pictures]
    ended = "2 failed" if last == "failed" else "1 failed, 1 interrupted"
    assert found[:3] == [{"2 waiting"}, {"1 failed, 1 waiting"}, {ended}]
    assert [word in pictures[2] for word in ("why 1", "waiting", CURSOR_UP)] == [True, False, True]


@pytest.mark.slow
def test_one_cell_fails_and_the_rest_is_what_eval_writes(run, tmp_path):
    done = run("small.toml", "--processes", "2")
    assert done.status == 2
    assert "failed: gone, incontext, scenes: " in done.err
    assert "gone.pth" in done.err
    assert "1 of 2 cells done, 1 failed; running it again" in done.err
    assert "| net |" in done.out
    [path] = records(tmp_path)
    other = command_line.run(
        "eval", "--protocol", "incontext", "--backbone", "random:test_vit", "--name", "net", "--dataset", "scenes",
        "--fractions", "1,8", "--seeds", "1", "--results", "apart", folder=tmp_path,
    )  # fmt: skip
    assert other.status == 0
    [same] = records(tmp_path, "apart")
    assert path.name == same.name
    values = [command_line.measured(json.loads(each.read_text())) for each in (path, same)]
    assert values[0] == values[1]
    path.unlink()  # a note without its record makes nothing done
    assert found(run("small.toml", "--json").out) == {"net, incontext, scenes": "done", "gone, incontext, scenes": "failed"}
    assert records(tmp_path) == [path]


@pytest.mark.slow
def test_a_rehearsal_stays_out_of_the_real_table(run, tmp_path):
    done = run("small.toml", "--set", "fractions=[8]", "--set", "arch=test_vit", "--json")
    assert done.status == 0
    assert set(found(done.out).values()) == {"done"}
    assert records(tmp_path) == []
    made = records(tmp_path, "results/rehearsals/small")
    assert made
    assert all(json.loads(path.read_text())["run"]["rehearsal"] for path in made)
    with pytest.raises(Exception, match="no record of a whole run"):
        leaderboard(tmp_path / "results" / "rehearsals" / "small")
    assert set(found(run("small.toml", "--status", "--json").out).values()) == {"waiting"}


@pytest.mark.slow
def test_ctrl_c_saves_a_pretraining_which_resumes_and_is_scored(tmp_path):
    evaluation = TABLE[TABLE.index("[[evaluation]]") :]
    (tmp_path / "long.toml").write_text(CHEAP.replace("EPOCHS", "300") + evaluation)
    process = command_line.start("run", "long.toml", folder=tmp_path)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/long/*/run.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "densebench: stopped; `densebench run long.toml` resumes from there"
    assert "Traceback" not in err
    assert set(found(command_line.run("run", "long.toml", "--status", "--json", folder=tmp_path).out).values()) == {
        "interrupted", "waiting",
    }  # fmt: skip
    done = command_line.run("run", "long.toml", folder=tmp_path)
    assert done.status == 0, done.err
    assert len(list(tmp_path.glob("runs/long/*/run.json"))) == 1
    [log] = [path for path in tmp_path.glob("results/tables/long/jobs/*/*.err") if "resuming from" in path.read_text()]
    assert "at step 0 " not in log.read_text()
    assert len(records(tmp_path)) == 1
