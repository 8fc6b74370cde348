"""`densebench records`, and what the leaderboard says of runs that failed."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from made_records import header
from typer.testing import CliRunner

from densebench.cli import app
from densebench.errors import UserError
from densebench.results import record as records
from densebench.results.leaderboard import leaderboard
from densebench.results.score import Score


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(
    name, status="complete", *, protocol="incontext", dataset="scenes", command="densebench eval", limit=None, results="results"
):
    """A record in ./results; returns its path."""
    record = records.open_or_create(Path(results), header(name, protocol=protocol, dataset=dataset, limit=limit))
    record.start({"command": command, "started": "2026-01-02T03:04:05Z"})
    record.add([Score("miou", "identity", 50.0, axes={"fraction": 1}, direction="higher")])
    if status != "running":
        record.finish(status, {})
    return record.path


def call(*words):
    return CliRunner().invoke(app, ["records", *words])


def test_ls_shows_every_record(here):
    path = write("pixels:16")
    write("pixels:8", "failed", limit=3)
    text = call("ls").output.splitlines()
    assert text[0].split() == ["id", "status", "backbone", "protocol", "dataset", "scores", "started"]
    row = next(line for line in text if line.startswith(path.stem)).split()
    assert row == [path.stem, "complete", "pixels:16", "incontext/hummingbird", "scenes", "val", "1", "2026-01-02T03:04:05Z"]
    assert len(text) == 3


def test_ls_by_status_and_as_json(here):
    write("pixels:16")
    failed = write("pixels:8", "failed", limit=3)
    [row] = json.loads(call("ls", "--status", "failed", "--json").output)
    assert (row["id"], row["status"], row["dataset"], row["scores"]) == (failed.stem, "failed", "scenes val (limit 3)", 1)
    assert "did you mean 'failed'" in str(call("ls", "--status", "faild").exception)


def test_ls_goes_on_beside_a_broken_record(here):
    write("pixels:16")
    (here / "results" / "records" / "broken.json").write_text("[]")
    done = call("ls")
    assert done.exit_code == 0
    assert "left out: the record results/records/broken.json is []" in done.stderr
    assert len(done.stdout.splitlines()) == 2


def test_ls_without_records(here):
    assert call("ls").output == "no record in results\n"
    assert call("ls", "--json").output == "[]\n"


def test_a_run_whose_process_is_gone_has_stopped(here):
    path = write("pixels:16", "running")
    assert json.loads(call("ls", "--json").output)[0]["status"] == "running"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    content = json.loads(path.read_text())
    content["run"]["owner"]["pid"] = ended.pid
    path.write_text(json.dumps(content))
    assert json.loads(call("ls", "--status", "stopped", "--json").output)[0]["id"] == path.stem


def test_rm_removes_a_record_by_its_beginning_and_its_pictures(here):
    path, other = write("pixels:16"), write("pixels:8")
    for one in (path, other):
        (here / "results" / "pictures" / one.stem).mkdir(parents=True)
        (here / "results" / "pictures" / one.stem / "a.png").write_text("")
    assert path.stem[:6] != other.stem[:6]
    done = call("rm", path.stem[:6])
    assert done.output == f"removed {path.stem} from results\n"
    assert [one.name for one in (here / "results" / "pictures").iterdir()] == [other.stem]
    assert list(path.parent.glob("*.json")) == [other]


@pytest.mark.parametrize(("ids", "message"), [(["zz"], "no record 'zz'"), ([""], "no record ''"), ([], "name the records")])
def test_rm_of_what_is_not_there_removes_nothing(here, ids, message):
    path = write("pixels:16")
    assert message in str(call("rm", *ids).exception)
    assert path.is_file()


def test_rm_wants_more_of_an_id_that_two_share(here):
    write("pixels:16")
    for name in ("same1.json", "same2.json"):
        (here / "results" / "records" / name).write_text("{}")
    assert "'same' is the beginning of same1, same2; give more of it" in str(call("rm", "same").exception)
    assert call("rm", "same1").exit_code == 0


def test_rm_of_all_failed_ones(here):
    kept, *lost = write("a"), write("b", "failed"), write("c", "failed")
    assert call("rm", "--failed").exit_code == 0
    assert list(kept.parent.glob("*.json")) == [kept]
    assert lost
    assert call("rm", "--failed").output == "no failed record in results\n"


def test_a_record_that_is_being_written_stays(here):
    path = write("pixels:16", "running")
    assert f"is being written by process {os.getpid()}" in str(call("rm", path.stem).exception)
    assert path.is_file()


def test_rm_of_a_file_with_a_wicked_name_touches_nothing_else(here):
    write("pixels:16")
    (here / "results" / "records" / "...json").write_text("{}")
    (here / "results" / "pictures").mkdir()
    assert call("rm", "..").exit_code == 0
    assert sorted(one.name for one in (here / "results").iterdir()) == ["pictures", "records"]


def said(capsys, results="results"):
    capsys.readouterr()
    leaderboard(Path(results))
    return capsys.readouterr().err.splitlines()


def test_failed_runs_are_one_line(here, capsys):
    write("whole")
    write("a", "failed")
    assert said(capsys) == ["1 failed run is left out: `densebench records ls --status failed`"]
    write("b", "failed")
    assert said(capsys) == ["2 failed runs are left out: `densebench records ls --status failed`"]
    call("rm", "--failed")
    assert said(capsys) == []


def test_the_line_names_another_results_folder(here, capsys):
    write("whole", results="my results")
    write("a", "failed", results="my results")
    command = said(capsys, "my results")[0].split("`")[1]
    assert CliRunner().invoke(app, shlex.split(command)[1:]).output.count("failed") == 1


@pytest.mark.parametrize(
    "gone",
    [
        {"name": "./mine.py"},
        {"name": "ckpt:runs/gone"},
        {"name": "a", "protocol": "./proto.py"},
        {"name": "a", "protocol": "uninstalled"},
        {"name": "a", "dataset": "folder:nowhere"},
        {"name": "a", "dataset": "folder:nowhere?seed=1"},
        {"name": "a", "dataset": "toy", "command": "densebench eval --dataset ./toy.py"},
        {"name": "a", "command": "densebench eval --protocol kmeans,./proto.py"},
        {"name": "a", "limit": 3},
    ],
    ids=str,
)
def test_no_line_for_a_failed_run_that_nobody_can_repeat_or_that_no_table_shows(here, capsys, gone):
    write("whole")
    write(gone.pop("name"), "failed", **gone)
    assert said(capsys) == []


def test_a_failed_run_whose_files_are_there_is_said(here, capsys):
    write("whole")
    for name in ("mine.py", "toy.py", "proto.py"):
        (here / name).write_text("")
    command = "densebench eval --dataset=./toy.py --backbone ./mine.py"
    write("./mine.py", "failed", protocol="./proto.py", dataset="toy", command=command)
    assert len(said(capsys)) == 1


def test_a_failed_run_on_a_folder_with_keys_behind_its_name_is_said(here, capsys):
    write("whole")
    (here / "photos").mkdir()
    write("a", "failed", dataset="folder:photos?seed=1")
    assert len(said(capsys)) == 1


def test_records_help_imports_nothing_heavy(here):
    code = "import sys; from densebench.cli import app; app(['records', '--help'], standalone_mode=False); "
    code += "print([name for name in ('torch', 'numpy', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("[]")


def test_unknown_id_raises_one_line(here):
    with pytest.raises(UserError, match="records ls"):
        app(["records", "rm", "zzzz"], standalone_mode=False)
