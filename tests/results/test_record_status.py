"""The status of a record: a run never takes away what another process, or an earlier run, has finished."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from made_records import header

from densebench import evaluate
from densebench.results import record as records
from densebench.results.score import Score

HEADER = header("random:vit")


def point(fraction):
    return (("fraction", fraction),)


def score(fraction):
    return Score("miou", "identity", 50.0, axes={"fraction": fraction}, direction="higher")


def begin(folder, **more):
    """A run of its own on the one record of a folder."""
    run = records.open_or_create(folder, HEADER, **more)
    run.start({"command": "densebench eval"})
    return run


def state(run):
    record = run.json()
    return record["status"], [score["fraction"] for score in record["scores"]]


def test_a_process_that_fails_leaves_the_record_complete_that_another_finished(tmp_path):
    first, second = begin(tmp_path), begin(tmp_path)
    first.add([score(1)])
    first.finish("complete", {}, [point(1)])
    second.finish("failed", {})
    assert state(first) == ("complete", [1])


def test_a_failure_is_not_said_of_a_run_that_has_begun_since(tmp_path):
    first = begin(tmp_path)
    second = begin(tmp_path)
    first.finish("failed", {})
    assert state(second) == ("running", [])
    second.finish("failed", {})
    assert state(second) == ("failed", [])


def test_an_older_complete_record_stays_complete_when_more_points_fail(tmp_path):
    first = begin(tmp_path)
    first.add([score(1)])
    first.finish("complete", {}, [point(1)])
    more = begin(tmp_path)
    assert state(more) == ("running", [1])
    more.add([score(8)])
    more.finish("failed", {})
    assert state(more) == ("complete", [1, 8])


def test_a_run_that_is_killed_on_a_complete_record_and_then_fails_leaves_it_complete(tmp_path):
    first = begin(tmp_path)
    first.finish("complete", {})
    begin(tmp_path)  # and no word of it any more
    begin(tmp_path).finish("failed", {})
    assert state(first) == ("complete", [])


def test_a_record_that_grows_has_not_failed(tmp_path):
    first, second = begin(tmp_path), begin(tmp_path)
    second.finish("failed", {})
    first.add([score(1)])
    assert state(first) == ("running", [1])


def test_a_run_whose_scores_were_taken_away_is_not_complete(tmp_path):
    first = begin(tmp_path)
    first.add([score(1)])
    begin(tmp_path, rerun=True)
    first.add([score(8)])
    first.finish("complete", {}, [point(1), point(8)])
    assert state(first) == ("running", [8])


def test_a_rerun_that_fails_has_failed(tmp_path):
    first = begin(tmp_path)
    first.finish("complete", {})
    begin(tmp_path, rerun=True).finish("failed", {})
    assert state(first) == ("failed", [])


def test_a_finished_record_names_no_process(tmp_path):
    first = begin(tmp_path)
    assert set(first.json()["run"]["owner"]) == {"id", "pid", "host"}
    first.finish("complete", {"seconds": {}})
    assert first.json()["run"] == {"command": "densebench eval", "seconds": {}}


PLUG_IN = '''"""Shares of the images as scores."""
from dataclasses import dataclass

from densebench.evaluation.option_groups import FewShot
from densebench.results.score import Score


@dataclass(frozen=True)
class Mine(FewShot):
    version = 1
    presets = {"one": {}}

    def run(self, backbone, dataset, run):
        for point in self.points(dataset):
            if point in run.known:
                continue
            if dict(point)["fraction"] == 2:
                raise KeyboardInterrupt
            yield Score("miou", "identity", 50.0, axes=dict(point), direction="higher")
'''


def test_ctrl_c_leaves_an_older_complete_record_complete(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(PLUG_IN)
    asked = ("pixels:16", "./mine.py", "scenes")
    [record] = evaluate(*asked, limit=4, fractions="1").records
    assert record["status"] == "complete"
    with pytest.raises(KeyboardInterrupt):
        evaluate(*asked, limit=4, fractions="1,4,2", seeds="1")
    [path] = (tmp_path / "results" / "records").glob("*.json")
    kept = records.read(path)
    assert kept["status"] == "complete"
    assert [score["fraction"] for score in kept["scores"]] == [1, 4]


def test_what_a_killed_run_left_is_taken_over(tmp_path):
    """Its process is gone, so the one that closes the record may write into it: that its pictures are drawn, say."""
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    killed = begin(tmp_path)
    killed.add([score(1)])
    content = killed.json()
    content["run"]["owner"]["pid"] = dead.pid
    killed.path.write_text(json.dumps(content))
    record = records.open_or_create(tmp_path, HEADER)
    record.finish("complete", {"drawn": 4})
    after = record.json()
    assert (after["status"], after["run"]["drawn"], "owner" in after["run"]) == ("complete", 4, False)


def test_a_read_only_record_reads_and_changes_nothing(tmp_path):
    writer = begin(tmp_path)
    writer.add([score(1)])
    before = writer.path.read_bytes()
    reader = records.Record(tmp_path, HEADER, read_only=True)
    assert reader.points() == {point(1)}
    reader.start({"command": "another"})
    reader.add([score(8)])
    reader.finish("failed", {})
    assert writer.path.read_bytes() == before
