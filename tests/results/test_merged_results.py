"""Results folders merged into one: nothing lost, contradictions named, and the same again when it is done twice."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time

import pytest
from made_records import header, miou, write

import densebench
from densebench.errors import UserError
from densebench.results import record as records
from densebench.results.merging import merge

ONE, TWO = {(1, 0): 40.0}, {(1, 1): 50.0}


def values(folder):
    """Return {id: {(fraction, seed): headline}} of the records of a folder."""
    found = {}
    for path in (folder / "records").glob("*.json"):
        record = records.read(path)
        headline = record["protocol"]["headline"]
        shown = [score for score in record["scores"] if headline.items() <= score.items()]
        found[record["id"]] = {(score["fraction"], score["seed"]): score["value"] for score in shown}
    return found


def content(folder):
    """Return every file of a folder with its time of writing."""
    return {
        path.relative_to(folder): (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*.*") if path.is_file()
    }


def test_records_of_all_folders_are_there(tmp_path):
    one, two = write(tmp_path / "A", "one", ONE), write(tmp_path / "B", "two", TWO)
    done = merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C")
    assert values(tmp_path / "C") == {one.id: ONE, two.id: TWO}
    assert sorted(done.new) == sorted([one.id, two.id]) and done.problems == []
    assert records.read(tmp_path / "C" / "records" / f"{one.id}.json") == one.json()


def test_points_of_one_record_are_united(tmp_path):
    record = write(tmp_path / "A", "one", ONE)
    write(tmp_path / "B", "one", {**ONE, **TWO})
    write(tmp_path / "C", "one", {(8, 0): 30.0}, status="failed")
    done = merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C")
    assert values(tmp_path / "C") == {record.id: {**ONE, **TWO, (8, 0): 30.0}}
    assert done.grown == [record.id]
    assert records.read(tmp_path / "C" / "records" / f"{record.id}.json")["status"] == "complete"


def test_scores_stand_in_the_order_of_one_run(tmp_path):
    write(tmp_path / "A", "one", {(1, 1): 1.0, (8, 0): 2.0})
    write(tmp_path / "B", "one", {(1, 0): 3.0, (64, 0): 4.0})
    whole = write(tmp_path / "one", "one", {(1, 0): 3.0, (1, 1): 1.0, (8, 0): 2.0, (64, 0): 4.0})
    merge(tmp_path / "B", tmp_path / "A", into=tmp_path / "C")
    assert records.read(tmp_path / "C" / "records" / f"{whole.id}.json")["scores"] == whole.json()["scores"]


def test_the_folder_may_be_one_of_the_folders(tmp_path):
    one, two = write(tmp_path / "A", "one", ONE), write(tmp_path / "B", "two", TWO)
    merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "A")
    assert values(tmp_path / "A") == {one.id: ONE, two.id: TWO}


def test_merging_twice_changes_nothing(tmp_path):
    record = write(tmp_path / "A", "one", ONE)
    write(tmp_path / "B", "one", TWO)
    merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C")
    before = content(tmp_path / "C")
    done = merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C")
    assert content(tmp_path / "C") == before and done.same == [record.id]


def test_a_contradiction_names_everything_and_leaves_the_record_alone(tmp_path):
    record = write(tmp_path / "A", "one", ONE)
    write(tmp_path / "B", "one", {(1, 0): 40.5, **TWO})
    write(tmp_path / "B", "two", TWO)
    write(tmp_path / "C", "one", ONE)
    before = (tmp_path / "C" / "records" / f"{record.id}.json").read_bytes()
    done = merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C")
    assert (tmp_path / "C" / "records" / f"{record.id}.json").read_bytes() == before
    assert len(values(tmp_path / "C")) == 2  # the other record is merged
    [line] = done.problems
    for word in (record.id, "miou identity", "seed 0", "40.0", "40.5", str(tmp_path / "C"), str(tmp_path / "B"), "--prefer"):
        assert word in line


@pytest.mark.parametrize(("folder", "value"), [("A", 40.0), ("B", 40.5)])
def test_a_preferred_folder_decides(tmp_path, folder, value):
    record = write(tmp_path / "A", "one", ONE)
    write(tmp_path / "B", "one", {(1, 0): 40.5, **TWO})
    for _ in range(2):
        done = merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C", prefer=tmp_path / folder)
        assert done.problems == [] and values(tmp_path / "C") == {record.id: {(1, 0): value, **TWO}}
    assert done.same == [record.id]


def test_a_preferred_folder_says_nothing_of_what_it_does_not_hold(tmp_path):
    write(tmp_path / "A", "one", {(1, 7): 1.0})
    write(tmp_path / "B", "one", ONE)
    write(tmp_path / "C", "one", {(1, 0): 40.5})
    done = merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C", prefer=tmp_path / "A")
    assert "40.0" in done.problems[0] and "40.5" in done.problems[0]


def test_an_equal_value_with_another_interval_is_a_contradiction(tmp_path):
    write(tmp_path / "A", "one", ONE, replicates=(40.0, 41.0))
    write(tmp_path / "B", "one", ONE, replicates=(40.0, 42.0))
    [line] = merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C").problems
    assert "with a bootstrap of its own" in line


def test_details_may_differ_and_are_kept(tmp_path):
    for folder, details in (("A", {"recall": 1.0}), ("B", {"recall": 0.5})):
        records.open_or_create(tmp_path / folder, header("one")).add([densebench.results.score.Score(
            "miou", "identity", 40.0, direction="higher", details=details)])  # fmt: skip
    done = merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C")
    assert done.problems == [] and "the details of 1 scores differ" in done.notices[0]
    [path] = (tmp_path / "C" / "records").glob("*.json")
    assert records.read(path)["scores"][0]["details"] == {"recall": 1.0}


def test_the_facts_of_the_run_with_more_points_stay(tmp_path):
    few, many = write(tmp_path / "A", "one", ONE), write(tmp_path / "B", "one", {**ONE, **TWO})
    few.finish("complete", {"command": "few"})
    many.finish("complete", {"command": "many"})
    merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C")
    assert records.read(tmp_path / "C" / "records" / f"{few.id}.json")["run"] == {"command": "many"}


def test_a_name_in_tables_is_kept(tmp_path):
    write(tmp_path / "A", "one", {**ONE, **TWO})
    record = records.open_or_create(tmp_path / "B", {**header("one"), "backbone": {**header("one")["backbone"], "name": "ViT"}})
    record.add([miou(30.0, fraction=8, seed=0)])
    merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C")
    assert records.read(tmp_path / "C" / "records" / f"{record.id}.json")["backbone"]["name"] == "ViT"


@pytest.mark.parametrize("source", ["A", "C"])
def test_a_record_that_is_being_written_is_left_out(tmp_path, source):
    write(tmp_path / "A", "two", TWO)
    write(tmp_path / "A", "one", ONE)
    write(tmp_path / "C", "one", {(1, 3): 1.0})
    record = records.open_or_create(tmp_path / source, header("one"))
    record.start({})
    before = (tmp_path / "C" / "records" / f"{record.id}.json").read_bytes()
    done = merge(tmp_path / "A", into=tmp_path / "C")
    assert f"is being written in {tmp_path / source} by process {os.getpid()}" in done.problems[0]
    assert (tmp_path / "C" / "records" / f"{record.id}.json").read_bytes() == before and len(done.new) == 1


def test_a_record_that_was_complete_before_a_killed_run_is_complete(tmp_path):
    record = write(tmp_path / "A", "one", ONE)
    record.start({"command": "later"})
    path = tmp_path / "A" / "records" / f"{record.id}.json"
    path.write_text(path.read_text().replace(f'"pid": {os.getpid()}', '"pid": 999999999'))
    merge(tmp_path / "A", into=tmp_path / "C")
    merged = records.read(tmp_path / "C" / "records" / f"{record.id}.json")
    assert merged["status"] == "complete" and merged["run"] == {"command": "later"}


def test_broken_records_are_named_and_the_others_merged(tmp_path):
    record = write(tmp_path / "A", "one", ONE)
    write(tmp_path / "C", "two", TWO)
    (tmp_path / "A" / "records" / "abcd.json").write_text("{")
    (tmp_path / "C" / "records" / f"{record.id}.json").write_text("{}")
    done = merge(tmp_path / "A", into=tmp_path / "C")
    assert "abcd.json is not JSON" in done.problems[0] and f"C/records/{record.id}.json" in done.problems[1]
    assert (tmp_path / "C" / "records" / f"{record.id}.json").read_text() == "{}"


def test_scores_that_do_not_go_together_are_named(tmp_path):
    write(tmp_path / "A", "one", ONE, replicates=(1.0, 2.0))
    write(tmp_path / "B", "one", TWO, replicates=(1.0, 2.0, 3.0))
    [line] = merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C").problems
    assert "bootstrap of 3 values where others have 2" in line and not list((tmp_path / "C" / "records").glob("*.json"))


def test_pictures_come_along_and_those_that_are_there_stay(tmp_path):
    record = write(tmp_path / "A", "one", ONE)
    for folder, name, text in (("A", "new.png", "new"), ("A", "old.png", "other"), ("C", "old.png", "old"), ("A", "x.html", "")):
        (tmp_path / folder / "pictures" / record.id).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "pictures" / record.id / name).write_text(text)
    (tmp_path / "A" / "pictures" / record.id / "link.png").symlink_to(tmp_path / "A" / "records" / f"{record.id}.json")
    done = merge(tmp_path / "A", into=tmp_path / "C")
    found = {path.name: path.read_text() for path in (tmp_path / "C" / "pictures" / record.id).iterdir()}
    assert found == {"new.png": "new", "old.png": "old"}
    assert "old.png" in done.notices[0]


def test_wrong_folders_are_one_line(tmp_path):
    write(tmp_path / "A", "one", ONE)
    with pytest.raises(UserError, match="nowhere has no folder called records"):
        merge(tmp_path / "A", tmp_path / "nowhere", into=tmp_path / "C")
    with pytest.raises(UserError, match="--prefer .*B is none of the folders"):
        merge(tmp_path / "A", into=tmp_path / "C", prefer=tmp_path / "B")
    with pytest.raises(UserError, match="no results folder is given"):
        merge(into=tmp_path / "C")
    assert not (tmp_path / "C").exists()


def merge_slowly(folder, started):
    write_text = densebench.results.merging.write_text

    def slow(path, text):
        write_text(path, text)
        started.set()
        time.sleep(0.05)

    densebench.results.merging.write_text = slow
    merge(folder / "A", into=folder / "C")


@pytest.mark.slow
def test_kill_9_leaves_whole_records_and_another_merge_continues(tmp_path):
    for number in range(30):
        write(tmp_path / "A", f"backbone {number}", ONE)
    context = multiprocessing.get_context("forkserver")
    started = context.Event()
    process = context.Process(target=merge_slowly, args=(tmp_path, started))
    process.start()
    assert started.wait(60)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert 1 <= len(values(tmp_path / "C")) < 30
    merge(tmp_path / "A", into=tmp_path / "C")
    assert values(tmp_path / "C") == values(tmp_path / "A")
    assert json.dumps(sorted(path.name for path in (tmp_path / "C" / "records").glob(".*.part"))) == "[]"


def test_rehearsals_stay_apart_from_real_records(tmp_path):
    rehearsed = write(tmp_path / "A", "one", ONE)
    rehearsed.finish("complete", {"rehearsal": True})
    write(tmp_path / "B", "two", TWO)
    done = merge(tmp_path / "A", tmp_path / "B", into=tmp_path / "C")
    assert len(done.new) == 1 and f"1 record of a rehearsal left in {tmp_path / 'A'}" in done.notices[0]
    assert merge(tmp_path / "A", into=tmp_path / "rehearsal").new == [rehearsed.id]


def test_a_real_record_does_not_grow_one_of_a_rehearsal(tmp_path):
    write(tmp_path / "C", "one", ONE).finish("complete", {"rehearsal": True})
    record = write(tmp_path / "A", "one", TWO)
    [line] = merge(tmp_path / "A", into=tmp_path / "C").problems
    assert "is of a rehearsal" in line and values(tmp_path / "C") == {record.id: ONE}
