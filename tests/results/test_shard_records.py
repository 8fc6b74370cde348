"""Shards as files: which ones make a record, and what is said of lost, doubled, unfinished and foreign ones."""

from __future__ import annotations

import json
import os

import pytest
from made_records import header, miou

from densebench.results import record as records
from densebench.results.merging import merge
from densebench.results.shards import Shard, ShardRecord

POINTS = [(("fraction", 1), ("seed", seed)) for seed in range(5)]
COMMAND = "densebench eval --protocol incontext --dataset scenes --shard"


def write(folder, index, of=2, *, points=POINTS, status="complete", offset=0.0, name="vit", held=None):
    """Write a shard whose scores follow from the seed; `held`: how many of its points it holds."""
    shard = ShardRecord(folder, header(name), Shard(index, of), points).open()
    shard.start({"command": f"{COMMAND} {index}/{of}", "started": f"2026-01-0{index}T00:00:00Z"})
    own = shard.own(points)
    for point in own[:held]:
        axes = dict(point)
        shard.add([miou(10.0 * axes["seed"] + offset, bootstrap=(1.0, 2.0), **axes)])
    shard.finish(status, {"seconds": {"total": 1.5}, "scored_points": len(own), "host_memory_mb": 100 * index}, own)
    return shard


def only(folder):
    [path] = (folder / "records").glob("*.json")
    return records.read(path)


def test_shards_of_several_folders_make_one_record(tmp_path):
    for index in (1, 2, 3):
        write(tmp_path / str(index), index, 3)
    done = merge(*(tmp_path / str(index) for index in (3, 1, 2)), into=tmp_path / "C")
    record = only(tmp_path / "C")
    assert done.problems == [] and [score["value"] for score in record["scores"]] == [0.0, 10.0, 20.0, 30.0, 40.0]
    assert record["status"] == "complete" and "shard" not in record
    assert record["run"]["command"] == "densebench eval --protocol incontext --dataset scenes"
    facts = {name: record["run"][name] for name in ("started", "seconds", "scored_points", "host_memory_mb")}
    assert facts == {
        "started": "2026-01-01T00:00:00Z", "seconds": {"total": 4.5}, "scored_points": 5, "host_memory_mb": 300,
    }  # fmt: skip


def test_shards_in_the_folder_itself_count(tmp_path):
    write(tmp_path / "A", 1)
    write(tmp_path / "C", 2)
    assert merge(tmp_path / "A", into=tmp_path / "C").problems == [] and only(tmp_path / "C")["scores"]


def test_shards_and_a_record_of_the_same_scores_are_one(tmp_path):
    for index in (1, 2):
        write(tmp_path / "A", index)
    for _ in range(2):
        done = merge(tmp_path / "A", into=tmp_path / "A")
    assert done.problems == [] and done.same == [only(tmp_path / "A")["id"]]


def test_shards_that_contradict_a_record_are_named(tmp_path):
    record = records.open_or_create(tmp_path / "A", header("vit"))
    record.add([miou(99.0, bootstrap=(1.0, 2.0), **dict(POINTS[0]))])
    for index in (1, 2):
        write(tmp_path / "A", index)
    [line] = merge(tmp_path / "A", into=tmp_path / "A").problems
    assert "99.0" in line and "the shards in" in line and len(only(tmp_path / "A")["scores"]) == 1


@pytest.mark.parametrize(
    ("there", "said"), [((1, 2, 4), "3 of 4 shards are here; missing: 3/4"), ((2,), "missing: 1/4, 3/4, 4/4")]
)
def test_lost_shards_are_named_with_the_command(tmp_path, there, said):
    for index in there:
        shard = write(tmp_path, index, 4)
    [line] = merge(tmp_path, into=tmp_path).problems
    lost = said.rpartition("missing: ")[2].split(",")[0]
    assert line.startswith(f"record {shard.id} (incontext/hummingbird, scenes, vit): ") and said in line
    assert f"run `{COMMAND} {lost}`" in line and not list((tmp_path / "records").glob("*.json"))


def test_a_shard_that_is_there_twice_with_equal_scores_is_mentioned(tmp_path):
    write(tmp_path / "A", 1)
    write(tmp_path / "B", 1)
    write(tmp_path / "B", 2)
    done = merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C")
    assert done.problems == [] and only(tmp_path / "C")["scores"]
    assert f"shard 1/2 is in {tmp_path / 'A'} and in {tmp_path / 'B'}, with equal scores" in done.notices[0]


def test_a_shard_that_is_there_twice_with_other_scores_is_a_contradiction(tmp_path):
    write(tmp_path / "A", 1, offset=0.5)
    write(tmp_path / "B", 1)
    write(tmp_path / "B", 2)
    [line] = merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C").problems
    assert "shard 1/2 is there twice" in line and "0.5" in line and "0.0" in line and not list((tmp_path / "C").rglob("*.json"))
    merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C", prefer=tmp_path / "A")
    assert only(tmp_path / "C")["scores"][0]["value"] == 0.5


def test_a_whole_shard_stands_for_one_that_is_not_finished(tmp_path):
    write(tmp_path / "A", 1, held=1, status="failed")
    write(tmp_path / "B", 1)
    write(tmp_path / "B", 2)
    assert merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C").problems == []


def test_shards_of_different_numbers_are_an_error(tmp_path):
    for index, of in ((1, 2), (2, 2), (1, 3)):
        write(tmp_path, index, of)
    [line] = merge(tmp_path, into=tmp_path).problems
    assert "has shards of 2 and of 3" in line and "1-of-3.json" in line and not list((tmp_path / "records").glob("*.json"))


def test_a_shard_without_a_point_is_whole(tmp_path):
    for index in (1, 2, 3):
        write(tmp_path, index, 3, points=POINTS[:2])
    assert merge(tmp_path, into=tmp_path).problems == [] and len(only(tmp_path)["scores"]) == 2


def test_a_shard_of_more_points_than_before_is_not_complete(tmp_path):
    write(tmp_path, 2)
    write(tmp_path, 1, points=POINTS[:2])
    ShardRecord(tmp_path, header("vit"), Shard(1, 2), POINTS).open()
    [line] = merge(tmp_path, into=tmp_path).problems
    assert "1-of-2.json) is not finished: 1 of its 3 points are there" in line


def test_an_unfinished_shard_is_named(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2, held=1, status="failed")
    [line] = merge(tmp_path, into=tmp_path).problems
    assert "2-of-2.json) is not finished: 1 of its 2 points are there" in line and f"`{COMMAND} 2/2` resumes it" in line


def test_a_shard_that_is_being_written_is_named(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2).start({})
    [line] = merge(tmp_path, into=tmp_path).problems
    assert f"shard 2/2 is being written by process {os.getpid()}" in line


def test_shards_of_different_requests_do_not_go_together(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2, points=POINTS[:4])
    [line] = merge(tmp_path, into=tmp_path).problems
    assert "are of different requests (points)" in line and not list((tmp_path / "records").glob("*.json"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"shard": None}, "1-of-2.json"),
        ({"shard": {"index": 2, "of": 2, "points": []}}, "says that it is 2 of 2"),
        ({"shard": {"index": 1, "of": "two", "points": []}}, "of"),
        ({"id": "abcd1234"}, "is not of the record that its folder names"),
        ({"group": 7}, "group"),
    ],
)
def test_an_edited_shard_is_named_and_not_used(tmp_path, change, said):
    write(tmp_path, 2)
    shard = write(tmp_path, 1)
    shard.path.write_text(json.dumps({**shard.json(), **change}))
    first, second = merge(tmp_path, into=tmp_path).problems
    assert "1-of-2.json" in first and said in first and "missing: 1/2" in second


def test_another_header_under_the_same_id_is_not_used(tmp_path):
    write(tmp_path, 2)
    shard = write(tmp_path, 1)
    record = shard.json()
    record["dataset"]["digest"] = "other"
    shard.path.write_text(json.dumps(record))
    assert "is not of the record" in merge(tmp_path, into=tmp_path).problems[0]
