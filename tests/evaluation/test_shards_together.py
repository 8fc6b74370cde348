"""A shard that two processes score together: of the record it is what one process would have scored."""

from __future__ import annotations

import json

import pytest
import together

from densebench.results.merging import merge

WORDS = ["-m", "densebench", "eval", "--dataset", "scenes", "--backbone", "random:test_vit", "--limit", "9", "--device", "cpu"]
SWEPT = ["--protocol", "incontext", "--augment-epochs", "0", "--fractions", "1,2", "--seeds", "2", "--memory-size", "none"]
pytestmark = pytest.mark.slow


def score(folder, processes, words, results):
    """Run `densebench eval` in a folder, all of whose runs share a cache; what is told."""
    ends = together.run([*WORDS, *words, "--results", results], processes, folder)
    assert [end.status for end in ends] == [0] * processes, ends
    return ends[0].err


def only(folder):
    """The only record of a results folder, without how it was run."""
    [path] = (folder / "records").glob("*.json")
    return json.dumps({name: value for name, value in json.loads(path.read_text()).items() if name != "run"})


def test_shards_of_one_and_of_two_processes_make_the_record_of_one_run(tmp_path):
    score(tmp_path, 1, SWEPT, "one")
    for index in (1, 2, 3):
        score(tmp_path, 2 if index == 2 else 1, [*SWEPT, "--shard", f"{index}/3"], "shards")
        shards = list((tmp_path / "shards").glob("shards/*/*.json"))
        assert len(shards) == index
    assert merge(tmp_path / "shards", into=tmp_path / "merged").problems == []
    assert only(tmp_path / "one") == only(tmp_path / "merged")


def test_two_processes_divide_the_extraction_of_a_shard(tmp_path):
    words = ["--protocol", "incontext", "--augment-epochs", "0", "--fractions", "1"]
    told = [score(tmp_path, 2, [*words, "--shard", f"{index}/2"], "shards") for index in (1, 2)]
    assert "shard 1/2 extracted the features of" in told[0] and "shard 2/2" in told[1]
    assert not [*(tmp_path / "shards" / "records").glob("*.json")]
    stored = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")}
    score(tmp_path, 1, words, "shards")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*.safetensors")} == stored
    (other := tmp_path / "other").mkdir()
    score(other, 1, words, "one")
    assert only(other / "one") == only(tmp_path / "shards")
