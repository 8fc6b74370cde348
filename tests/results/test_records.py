"""Records: what they hold, what makes a group and a record, and how they are continued."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from made_records import header

from densebench.errors import UserError
from densebench.results import record as records
from densebench.results.score import Score, decode, encode

HEADER = header("random:vit", digest="d" * 64, settings={"neighbours": [30], "temperature": 0.02})


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


def test_a_copy_is_not_a_second_record(tmp_path):
    record = records.open_or_create(tmp_path, HEADER)
    copy = record.path.with_name("copy.json")
    shutil.copy(record.path, copy)
    with pytest.raises(UserError, match=f"copy.json has the id {record.id}"):
        records.read(copy)


def test_an_axis_cannot_hide_a_value():
    with pytest.raises(ValueError, match="cannot be called unit, value"):
        Score("miou", "identity", 1.0, axes={"fraction": 1, "value": 3, "unit": 4}, direction="higher")


def test_replicates_are_float32():
    values = np.linspace(0, 100, 7)
    np.testing.assert_array_equal(decode(encode(values)), values.astype(np.float32))


def test_records_name_no_absolute_path(tmp_path):
    record = records.open_or_create(tmp_path, HEADER)
    record.start({})
    text = Path(record.path).read_text()
    assert str(tmp_path) not in text
    assert str(Path(records.__file__).parent) not in text
