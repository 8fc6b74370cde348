"""Records: identity, continuation, and that nothing is lost by kills or by two writers."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from made_records import BACKBONE, DATASET, PROTOCOL

from densebench.errors import UserError
from densebench.results import record as records
from densebench.results.score import Score, decode, encode

HEADER = {
    "backbone": {
        **BACKBONE,
        "spec": "random:vit",
        "digest": "d" * 64,
        "arch": "vit",
        "dim": 4,
        "stride": 16,
        "layer": "last",
        "pos_embed": "plain",
    },
    "protocol": {
        **PROTOCOL,
        "name": "incontext",
        "preset": "hummingbird",
        "version": 1,
        "settings": {"neighbours": [30], "temperature": 0.02},
        "headline": {"metric": "miou", "variant": "identity"},
    },
    "dataset": {**DATASET, "name": "scenes", "split": "val", "images": 64, "digest": "abc", "limit": None},
}


def changed(part, **values):
    return {**HEADER, part: {**HEADER[part], **values}}


def score(value=50.0, fraction=8, seed=0, variant="identity", metric="miou", **more):
    return Score(metric, variant, value, axes={"fraction": fraction, "seed": seed}, direction="higher", **more)


def test_a_score_survives_the_file(tmp_path):
    record = records.open_or_create(tmp_path, HEADER)
    given = score(51.25, ci95=(50.0, 52.5), per_class={"sky": 60.0, "gap": None}, bootstrap=(50.5, 52.0), details={"images": 3})
    record.add([given])
    kept = record.json()
    assert kept["schema"] == 2
    assert kept["status"] == "running"
    [found] = kept["scores"]
    assert found["value"] == 51.25
    assert (found["fraction"], found["seed"]) == (8, 0)
    assert found["per_class"] == {"sky": 60.0, "gap": None}
    assert decode(found["bootstrap"]).tolist() == [50.5, 52.0]
    assert {"python", "torch", "timm", "system", "cpu"} <= set(kept["environment"])
    assert {"densebench", "commit", "dirty"} == set(kept["code"])


def test_what_makes_a_group_and_what_makes_a_record():
    group, own = records.group_of(HEADER), records.identity_of(HEADER)
    assert len(group) == len(own) == 8
    same_number = [changed("protocol", preset="mine"), changed("dataset", images=3), changed("protocol", headline={})]
    assert all(records.group_of(header) == group for header in same_number)
    other_number = [
        changed("protocol", settings={"neighbours": [30], "temperature": 0.07}),
        changed("protocol", version=2),
        changed("dataset", name="voc"),
        changed("dataset", split="train"),
        changed("dataset", digest="abd"),
        changed("protocol", code="c"),
        changed("dataset", code="c"),
    ]
    assert len({records.group_of(header) for header in [HEADER, *other_number]}) == 8
    others = [changed("backbone", **{name: "x"}) for name in ("digest", "arch", "layer", "pos_embed", "kind", "code")]
    others += [changed("backbone", **{name: 8}) for name in ("dim", "stride", "mean", "std")]
    others.append(changed("dataset", limit=3))
    assert {records.group_of(header) for header in others} == {group}
    assert len({own, *map(records.identity_of, others)}) == 12
    labels = {"spec": "timm:vit elsewhere.pth", "name": "mine", "params": 3, "origin": "dino"}
    assert records.identity_of(changed("backbone", **labels)) == own


def test_a_record_takes_a_name_later_and_is_not_relabelled(tmp_path):
    records.open_or_create(tmp_path, HEADER)
    again = records.open_or_create(tmp_path, changed("backbone", spec="timm:vit elsewhere.pth", origin="dino", name="mine"))
    assert again.json()["backbone"] == {**HEADER["backbone"], "name": "mine"}


def test_a_record_of_an_older_schema_is_to_be_scored_again(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"schema": 1, "results": []}')
    with pytest.raises(UserError, match=r"x\.json has schema 1, this version reads 2; score again and remove it"):
        records.read(path)


def test_a_second_run_continues_and_replaces(tmp_path):
    records.open_or_create(tmp_path, HEADER).add([score(50.0), score(40.0, seed=1)])
    again = records.open_or_create(tmp_path, HEADER)
    again.add([score(55.0)])
    assert [(s["seed"], s["value"]) for s in again.json()["scores"]] == [(0, 55.0), (1, 40.0)]
    assert records.open_or_create(tmp_path, HEADER, rerun=True).json()["scores"] == []


def test_a_point_is_known_once_its_headline_is_there(tmp_path):
    record = records.open_or_create(tmp_path, HEADER)
    record.add([score(variant="hungarian")])
    assert record.points() == set()
    record.add([score()])
    assert record.points() == {(("fraction", 8), ("seed", 0))}


def test_scores_stand_in_one_order(tmp_path):
    scores = [
        score(fraction=f, seed=s, variant=v) for f, s in ((64, 0), (8, 10), (8, 2), (1, None)) for v in ("identity", "hungarian")
    ]
    for number, order in enumerate((scores, scores[::-1])):
        record = records.open_or_create(tmp_path / str(number), HEADER)
        for one in order:
            record.add([one])
    first, second = (records.open_or_create(tmp_path / name, HEADER).json()["scores"] for name in "01")
    assert first == second
    assert [(s["fraction"], s["seed"]) for s in first[::2]] == [(1, None), (8, 2), (8, 10), (64, 0)]


def test_start_and_finish(tmp_path):
    record = records.open_or_create(tmp_path, HEADER)
    record.start({"command": "densebench eval", "device": "cpu"})
    record.finish("complete", {"seconds": {"total": 1.5}})
    kept = record.json()
    assert kept["status"] == "complete"
    assert kept["run"] == {"command": "densebench eval", "device": "cpu", "seconds": {"total": 1.5}}


def _write(folder, offset):
    record = records.open_or_create(folder, HEADER)
    for seed in range(offset, offset + 50):
        record.add([score(seed=seed)])


def test_two_writers_lose_nothing(tmp_path):
    context = multiprocessing.get_context("forkserver")
    writers = [context.Process(target=_write, args=(tmp_path, offset)) for offset in (0, 50)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [s["seed"] for s in records.open_or_create(tmp_path, HEADER).json()["scores"]] == list(range(100))


def _write_for_ever(folder):
    record = records.open_or_create(folder, HEADER)
    for seed in range(100_000):
        record.add([score(seed=seed, bootstrap=(1.0,) * 1000)])


def test_kill_9_leaves_a_whole_record(tmp_path):
    writer = multiprocessing.get_context("forkserver").Process(target=_write_for_ever, args=(tmp_path,))
    writer.start()
    path = tmp_path / "records" / f"{records.identity_of(HEADER)}.json"
    deadline = time.monotonic() + 30
    while (not path.exists() or len(records.read(path)["scores"]) < 20) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    seeds = [s["seed"] for s in records.read(path)["scores"]]
    assert len(seeds) >= 20
    assert seeds == list(range(len(seeds)))
    records.open_or_create(tmp_path, HEADER).add([score(seed=7, value=1.0)])  # the lock is free


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("[]", "it should be a valid dictionary"), ('{"schema": 2}', "lacks id"), ("\xff", "is not JSON")],
)
def test_broken_records_are_named(tmp_path, text, message):
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=message) as caught:
        records.read(path)
    assert str(path) in str(caught.value)


def test_a_record_of_the_future_is_refused(tmp_path):
    record = records.open_or_create(tmp_path, HEADER)
    record.path.write_text(json.dumps({**record.json(), "schema": 3}))
    with pytest.raises(UserError, match="upgrade densebench"):
        records.read(record.path)


def test_a_record_of_the_future_is_not_called_broken(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"schema": 3, "results": []}')
    with pytest.raises(UserError, match="upgrade densebench"):
        records.read(path)


def _with_score(**values):
    return lambda record: record["scores"][0].update(values)


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda record: record.update(schema="1"), "schema '1'"),
        (lambda record: record.update(status="done"), "status 'done': it should be 'running', 'complete' or 'failed'"),
        (lambda record: record.update(dataset={}), "lacks dataset.name, .*dataset.limit"),
        (lambda record: record["dataset"].pop("limit"), "lacks dataset.limit;"),
        (lambda record: record["protocol"].pop("headline"), "lacks protocol.headline;"),
        (lambda record: record["protocol"].update(preset=7), "has protocol.preset 7: it should be a valid string"),
        (lambda record: record["backbone"].update(spec=None), "has backbone.spec None: it should be a valid string"),
        (lambda record: record.update(scores={}), "has scores {}: it should be a valid list"),
        (lambda record: record["scores"][0].pop("value"), "lacks scores.0.value;"),
        (_with_score(value="50"), "has scores.0.value '50': it should be a valid number"),
        (_with_score(value=100.5), "has scores.0.value 100.5: % should be from 0 to 100"),
        (_with_score(value=float("nan")), "has scores.0.value nan: it should be a finite number"),
        (_with_score(ci95=[-1.0, 50.0]), "has scores.0.ci95 -1.0: % should be from 0 to 100"),
    ],
)
def test_flaws_are_named(tmp_path, break_it, message):
    record = records.open_or_create(tmp_path, HEADER)
    record.add([score(ci95=(49.0, 51.0)), Score("seconds", "mean", 250.0, unit="s", direction="lower", digits=0)])
    content = record.json()
    break_it(content)
    record.path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        records.read(record.path)
    assert str(record.path) in str(caught.value)


def test_a_copy_is_not_a_second_record(tmp_path):
    record = records.open_or_create(tmp_path, HEADER)
    copy = record.path.with_name("copy.json")
    shutil.copy(record.path, copy)
    with pytest.raises(UserError, match=f"copy.json has the id {record.id}"):
        records.read(copy)


def test_an_axis_cannot_hide_a_value():
    with pytest.raises(ValueError, match="cannot be called unit, value"):
        Score("miou", "identity", 1.0, axes={"fraction": 1, "value": 3, "unit": 4}, direction="higher")


def _in_threads(*jobs):
    """Run jobs at once and return what they raise."""
    caught = []

    def guarded(job):
        try:
            job()
        except Exception as error:
            caught.append(error)

    threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return caught


def test_many_may_probe_a_folder_at_once(tmp_path):
    def probe():
        for _ in range(100):
            records.check_writable(tmp_path)

    assert _in_threads(*[probe] * 4) == []
    assert [path.name for path in (tmp_path / "records").iterdir()] == [".lock"]


def test_a_rerun_beside_another_writer_breaks_nothing(tmp_path):
    record = records.open_or_create(tmp_path, HEADER)

    def write():
        for seed in range(300):
            record.add([score(seed=seed % 5)])

    def empty():
        for _ in range(300):
            records.open_or_create(tmp_path, HEADER, rerun=True)

    assert _in_threads(write, empty) == []


def test_a_lock_that_cannot_be_had_is_told_first(tmp_path):
    (tmp_path / "records" / ".lock").mkdir(parents=True)
    with pytest.raises(UserError, match="cannot write in .*records.*choose another folder"):
        records.check_writable(tmp_path)


def test_a_folder_that_cannot_be_written_is_told_first(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write in .*choose another folder"):
        records.check_writable(tmp_path / "file" / "results")


def test_code_without_git(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    records.code.cache_clear()
    assert records.code()["commit"] is None
    records.code.cache_clear()


def test_only_changed_sources_make_a_checkout_dirty(tmp_path, monkeypatch):
    if shutil.which("git") is None:
        pytest.skip("no git")
    for name in ("densebench/records.py", "evals/incontext.py", "tests/test_a.py", "results/a.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1\n")
    as_someone = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false"]
    for words in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "all"]):
        subprocess.run([*as_someone, *words], check=True)
    monkeypatch.setattr(records, "__file__", str(tmp_path / "densebench" / "records.py"))
    changes = [("results/b.json", False), ("results/a.json", False), ("tests/test_a.py", False), ("evals/incontext.py", True)]
    for name, dirty in changes:
        (tmp_path / name).write_text("2\n")
        found = records.code.__wrapped__()
        assert len(found["commit"]) == 40
        assert found["dirty"] is dirty, name


def test_replicates_are_float32():
    values = np.linspace(0, 100, 7)
    np.testing.assert_array_equal(decode(encode(values)), values.astype(np.float32))


def test_records_name_no_absolute_path(tmp_path):
    record = records.open_or_create(tmp_path, HEADER)
    record.start({})
    text = Path(record.path).read_text()
    assert str(tmp_path) not in text
    assert str(Path(records.__file__).parent) not in text
