"""What differs between two records, and whether their numbers may be compared: each reason, each conclusion, odd records."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from made_records import header, miou, write
from rich.cells import cell_len

from densebench.results import record as records
from densebench.results.differing import diff
from densebench.results.score import Score
from densebench.results.sheet import text

DRAWS = np.random.default_rng(0).normal(0, 1, 400)


def pair(tmp_path, by, *, first=None, second=None):
    """Two records of backbones A1 and B1; the draws of B lie `by` below those of A, draw by draw within a tenth."""
    a = write(tmp_path, "A1", {(1, None): 50.0}, replicates=(50 + DRAWS).tolist(), **(first or {}))
    near = 50 - by + DRAWS + np.random.default_rng(1).normal(0, 0.1, 400)
    b = write(tmp_path, "B1", {(1, None): 50.0 - by}, replicates=near.tolist(), **(second or {}))
    return diff(a.json(), b.json())


@pytest.mark.parametrize(
    ("by", "said"), [(1.0, "A is separably better"), (-1.0, "B is separably better"), (0.05, "they are not separable")]
)
def test_numbers_of_one_group_are_compared_in_pairs(tmp_path, by, said):
    found = pair(tmp_path, by)
    [compared] = found.compared
    assert compared.difference == pytest.approx(by)
    low, high = compared.ends
    assert low == pytest.approx(by - 0.2, abs=0.05)  # unpaired it would be 2.8 wide on each side
    assert high == pytest.approx(by + 0.2, abs=0.05)
    assert found.sentence.startswith("The numbers of A and B may be compared: at 1/1, A - B is ")
    assert found.sentence.endswith(f"so {said}.")
    assert not found.reasons


def test_where_lower_is_better_the_lower_one_is(tmp_path):
    both = []
    for name, value in (("A1", 3.0), ("B1", 2.0)):
        record = write(tmp_path, name, {}, headline=("error", "plain"))
        draws = tuple(value + DRAWS / 10)
        record.add([Score("error", "plain", value, "px", bootstrap=draws, direction="lower", digits=1)])
        both.append(record.json())
    assert diff(*both).sentence.endswith("A - B is +1.00 (1.00 to 1.00) error in px, lower is better, so B is separably better.")


def test_without_draws_nothing_is_called_separable(tmp_path):
    a, b = (write(tmp_path, name, {(1, None): value}).json() for name, value in (("A1", 5.0), ("B1", 50.0)))
    assert diff(a, b).sentence.endswith("A - B is -45.00 mIoU in %, so no interval tells whether they are separable.")


def test_the_point_with_the_most_data_that_both_have_decides(tmp_path):
    a = write(tmp_path, "A1", {(64, 0): 1.0, (8, 0): 10.0, (8, 1): 14.0, (1, None): 20.0}).json()
    b = write(tmp_path, "B1", {(64, 0): 2.0, (8, 0): 11.0}).json()
    assert "at 1/8, A - B is +1.00 mIoU" in diff(a, b).sentence
    c = write(tmp_path, "C1", {(128, 0): 11.0}).json()
    assert diff(a, c).sentence.endswith("may be compared, but there is no point at which both have a score.")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"settings": {"side": 2}}, "side is none in A and 2 in B"),
        ({"settings": dict.fromkeys("abcde", 1)}, "a is none in A and 1 in B, b is .*, c is .*, and 2 more settings differ"),
        ({"protocol": "kmeans"}, "the protocols are incontext and kmeans"),
        ({"dataset": "voc"}, "the data sets are scenes and voc"),
        ({"limit": 3}, r"B is cut to 3 images \(--limit\)"),
        ({"status": "failed"}, "the run of B failed"),
    ],
)
def test_each_reason_against_a_comparison_is_named(tmp_path, more, said):
    found = pair(tmp_path, 1.0, second=more)
    assert found.compared == []
    assert len(found.reasons) == 1
    assert found.sentence.startswith("The numbers of A and B may not be compared: ")
    assert found.json()["scores"] == []
    assert re.search(said, found.sentence)


def changed(tmp_path, part, **values):
    """The difference of a record to one that has another value in a part and, where that decides, another group."""
    a = write(tmp_path, "A1", {(1, None): 5.0}).json()
    head = header("B1")
    head[part] |= values
    record = records.open_or_create(tmp_path, head)
    record.add([miou(6.0, fraction=1, seed=None)])
    record.finish("complete", {})
    return diff(a, record.json())


@pytest.mark.parametrize(
    ("part", "values", "said"),
    [
        ("protocol", {"version": 2}, "the versions of incontext are 1 and 2"),
        ("protocol", {"code": "ab"}, "the protocol's own code differs"),
        ("dataset", {"split": "test"}, "the splits of scenes are val and test"),
        ("dataset", {"digest": "def"}, "the images or labels of scenes val differ"),
        ("dataset", {"digest": "def", "images": 1200}, "the images or labels of scenes val differ, 64 in A and 1,200 in B"),
        ("dataset", {"code": "ab"}, "the data set's own code differs"),
    ],
)
def test_what_makes_another_group_is_named(tmp_path, part, values, said):
    assert changed(tmp_path, part, **values).reasons == [said]


@pytest.mark.parametrize(("part", "values"), [("protocol", {"preset": "other"}), ("backbone", {"dim": 9})])
def test_what_makes_no_other_group_keeps_numbers_comparable(tmp_path, part, values):
    assert changed(tmp_path, part, **values).reasons == []


def test_a_rehearsal_is_named(tmp_path):
    a, b = (write(tmp_path, name, {(1, None): 5.0}).json() for name in ("A1", "B1"))
    a["run"]["rehearsal"] = True
    assert diff(a, b).reasons == ["A was made in a rehearsal of a table (--set)"]


def test_groups_that_differ_for_no_visible_reason_are_not_compared(tmp_path):
    a, b = (write(tmp_path, name, {(1, None): 5.0}).json() for name in ("A1", "B1"))
    b["group"] = "ffff"
    assert diff(a, b).reasons == [f"their groups are {a['group']} and ffff"]


def test_a_run_that_goes_on_is_noted_and_compared(tmp_path):
    found = pair(tmp_path, 1.0, second={"status": "running"})
    assert "A is separably better" in found.sentence
    assert "note on B  its run was killed" in str(found) or "note on B  a run is writing it" in str(found)


def test_classes_that_differ_most_are_listed(tmp_path):
    both = []
    for name, shift in (("A1", 0.0), ("B1", 1.0)):
        record = write(tmp_path, name, {})
        classes = {f"class {number}": number * (1 + shift) for number in range(13)} | {"absent": None}
        record.add([Score("miou", "identity", 5.0, per_class=classes, direction="higher")])
        both.append(record.json())
    lines = str(diff(*both)).split("Classes that differ most at value: identity mIoU in %\n")[1].splitlines()
    assert lines[1].split() == ["class", "12", "12.0", "24.0", "-12.0"]
    assert lines[10].split() == ["class", "3", "3.0", "6.0", "-3.0"]
    assert lines[11].strip() == "and 2 more"


def test_one_limit_for_both_compares_with_each_other_alone(tmp_path):
    found = pair(tmp_path, 1.0, first={"limit": 3}, second={"limit": 3})
    assert "may be compared with each other alone, both being cut to 3 images (--limit): at 1/1" in found.sentence


def test_a_part_of_a_split_is_no_published_number(tmp_path):
    a, b = (write(tmp_path, name, {(1, None): 5.0}).json() for name in ("A1", "B1"))
    for record in (a, b):
        record["dataset"]["official_images"] = 640
    assert "though not with published numbers (64 of 640 images)" in diff(a, b).sentence


def test_environment_and_code_do_not_forbid_a_comparison_and_are_listed(tmp_path):
    a, b = (write(tmp_path, name, {(1, None): 5.0}).json() for name in ("A1", "A1"))
    b["environment"] |= {"torch": "9.9", "cpu": "another"}
    b["code"] |= {"commit": "f" * 40}
    b["run"] = {"device": "cuda", "runtime": {"batch_size": 3}}
    found = diff(a, b)
    assert {part for part, rows in found.parts.items() if rows} == {"code", "packages", "machine"}
    assert ("torch", a["environment"]["torch"], "9.9") in found.parts["packages"]
    assert [name for name, _, _ in found.parts["machine"]] == ["device", "cpu", "batch_size"]
    assert found.sentence == "A and B are two versions of one record: their scores are equal at every point that both have."


def test_two_versions_of_one_record_differ_by_so_much(tmp_path):
    a, b = (write(tmp_path / name, "mine", {(1, None): value}).json() for name, value in (("x", 5.0), ("y", 5.25)))
    assert "their scores differ by up to 0.25 (at 1/1)" in diff(a, b).sentence


def test_names_of_a_backbone_are_apart_from_what_decides(tmp_path):
    found = pair(tmp_path, 1.0)
    assert [row[0] for row in found.parts["names"]] == ["spec"]
    assert [row[0] for row in found.parts["backbone"]] == ["digest"]


def test_records_are_found_by_name_and_the_sentence_stands_last(tmp_path):
    pair(tmp_path, 1.0)
    lines = str(diff("A1", "B1", tmp_path)).splitlines()
    assert lines[-2] == "May their numbers be compared?"
    assert lines[-1].strip() == diff("A1", "B1", tmp_path).sentence


def test_differences_are_shown_only_where_they_may_be_compared(tmp_path):
    assert "A - B" in str(pair(tmp_path / "x", 1.0))
    shown = str(pair(tmp_path / "y", 1.0, second={"dataset": "voc"}))
    assert "A - B" not in shown
    assert "49.00" in shown


def test_json_is_the_same_answer(tmp_path):
    values = json.loads(json.dumps(pair(tmp_path, 1.0).json(), allow_nan=False))
    assert values["comparable"] is True
    [score] = values["scores"]
    assert score["better"] == "a"
    assert score["low"] < score["difference"] < score["high"]
    assert values["differences"]["names"] == [{"name": "spec", "a": "A1", "b": "B1"}]


@pytest.mark.parametrize("width", [40, 60, 100])
def test_no_line_is_wider_than_the_terminal(tmp_path, width):
    nasty = "a <b>'\"\x1b[31m\n[bold]of[/bold] 视觉 " + "long" * 40
    a = write(tmp_path, nasty, {(1, 0): 5.0, (8, 0): 4.0}, settings={nasty: nasty, "list": list(range(60))}).json()
    b = write(tmp_path, "B1", {(1, 0): 5.0}, protocol=nasty, headline=("error", nasty)).json()
    shown = text(diff(a, b).sections(), width)
    assert max(map(cell_len, shown.splitlines())) <= width
    assert "\x1b" not in shown


@pytest.mark.parametrize("by", [1.0, 0.05])
def test_the_other_way_round_the_difference_has_the_other_sign_and_the_same_interval(tmp_path, by):
    a = write(tmp_path, "A1", {(1, None): 50.0}, replicates=(50 + DRAWS).tolist()).json()
    b = write(tmp_path, "B1", {(1, None): 50.0 - by}, replicates=(50 - by + DRAWS * 0.9).tolist()).json()
    [there], [back] = diff(a, b).compared, diff(b, a).compared
    assert back.difference == pytest.approx(-there.difference)
    assert back.ends == pytest.approx(tuple(-end for end in reversed(there.ends)))
