"""`densebench merge` and `eval --shard` as commands."""

from __future__ import annotations

import pytest
from command_line import LIGHT, call, measured, record, run
from made_records import write

FAST = ["--dataset", "scenes", "--backbone", "pixels:16", "--image-size", 64, "--limit", 4, "--device", "cpu", "--workers", 0]
SWEPT = [*FAST, "--clusters", "3,4", "--seeds", 2, "--pca", "none"]


@pytest.mark.slow
def test_shards_are_scored_and_merged(tmp_path):
    for folder in ("one", "many"):
        (tmp_path / folder).mkdir()
    call("eval", "--protocol", "kmeans", *SWEPT, folder=tmp_path / "one")
    for index in (1, 2):
        done = call("eval", "--protocol", "kmeans", *SWEPT, "--shard", f"{index}/2", folder=tmp_path / "many")
        assert done.status == 0 and f", shard {index}/2\n" in done.out
    done = call("merge", "results", "--into", "results", folder=tmp_path / "many")
    assert (done.status, done.out) == (0, "results: 1 new record, 0 changed, 0 as they were\n")
    assert measured(record(tmp_path / "one")) == measured(record(tmp_path / "many"))


def test_a_contradiction_has_status_2_and_the_rest_is_merged(tmp_path):
    write(tmp_path / "A", "one", {(1, 0): 1.0})
    write(tmp_path / "B", "one", {(1, 0): 2.0})
    write(tmp_path / "B", "two", {(1, 0): 2.0})
    done = call("merge", "A", "B", "--into", "C", folder=tmp_path)
    assert done.status == 2 and done.out == "C: 1 new record, 0 changed, 0 as they were\n"
    assert "left out: record" in done.err and "1.0 in A and 2.0 in B" in done.err
    assert call("merge", "A", "B", "--into", "C", "--prefer", "B", folder=tmp_path).status == 0


def test_wrong_input_is_one_line(tmp_path):
    assert "nowhere has no folder called records" in call("merge", "nowhere", "--into", "C", folder=tmp_path).error
    done = call("eval", "--protocol", "kmeans", *SWEPT, "--shard", "5/4", folder=tmp_path)
    assert "--shard 5/4: give i/n" in done.error and not (tmp_path / "results").exists()


def test_the_help_is_light(tmp_path):
    assert run("merge", "--help", folder=tmp_path, before=LIGHT).out.splitlines()[-1] == "LIGHT"
