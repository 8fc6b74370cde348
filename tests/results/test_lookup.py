"""A record found by its file, its id, the beginning of its id, or its backbone; and what is said where it is not found."""

from __future__ import annotations

import json
import shutil

import pytest
from made_records import header, write

from densebench.errors import UserError
from densebench.results import record as records
from densebench.results.lookup import lookup


@pytest.fixture
def three(tmp_path):
    """Three records in one folder, two of them of one backbone."""
    first = write(tmp_path, "pixels:16", {(1, None): 5.0})
    second = write(tmp_path, "random:vit", {(1, None): 7.0}, settings={"side": 2})
    third = write(tmp_path, "random:vit", {(1, None): 9.0}, dataset="voc")
    return tmp_path, first, second, third


def test_by_id_its_beginning_and_its_file(three):
    results, first, _, _ = three
    for name in (first.id, first.id[:7], first.path, str(first.path)):
        assert lookup(name, results) == (first.path, first.json())


def test_by_the_file_of_a_copy(three, tmp_path):
    _, first, _, _ = three
    copy = tmp_path / "sent to me.txt"
    shutil.copy(first.path, copy)
    assert lookup(copy)[1]["id"] == first.id


@pytest.mark.parametrize("name", ["pixels:16", "Raw pixels", "raw PIXELS"])
def test_by_the_backbone(tmp_path, name):
    head = header("pixels:16")
    head["backbone"]["name"] = "Raw pixels"
    named = records.open_or_create(tmp_path, head)
    write(tmp_path, "random:vit", {})
    assert lookup(name, tmp_path)[1]["id"] == named.id


def test_a_name_goes_before_the_beginning_of_an_id(three):
    results, first, _, _ = three
    other = write(results, first.id[:2], {})
    assert lookup(first.id[:2], results)[1]["id"] == other.id


def test_a_backbone_of_several_records_is_not_guessed(three):
    results, _, second, third = three
    with pytest.raises(UserError, match="stands for 2 records") as raised:
        lookup("random:vit", results)
    assert f"{second.id} (random:vit, incontext/hummingbird on scenes)" in str(raised.value)
    assert f"{third.id} (random:vit, incontext/hummingbird on voc)" in str(raised.value)


def test_the_beginning_of_several_ids_is_not_guessed(tmp_path):
    ids = [write(tmp_path, f"pixels:{size}", {}).id for size in range(17)]
    letter = next(one[0] for one in ids if sum(each[0] == one[0] for each in ids) > 1)
    with pytest.raises(UserError, match="give an id"):
        lookup(letter, tmp_path)


def test_an_unknown_name_is_corrected(three):
    results, _, _, _ = three
    with pytest.raises(UserError, match="unknown record 'pixel:16': did you mean 'pixels:16'"):
        lookup("pixel:16", results)


def test_several_folders_are_searched_and_one_record_in_two_is_not_guessed(three, tmp_path):
    results, first, _, _ = three
    only_there = write(tmp_path / "more", "pixels:8", {})
    assert lookup("pixels:8", [results, tmp_path / "more"])[0] == only_there.path
    again = write(tmp_path / "more", "pixels:16", {(1, None): 6.0})
    with pytest.raises(UserError, match="give the path of one") as raised:
        lookup(first.id, [results, tmp_path / "more"])
    assert str(again.path) in str(raised.value)


@pytest.mark.parametrize(
    "name", ["", "a" * 5000, "nul\0", "missing.json", "<script>"], ids=["empty", "long", "nul", "file", "html"]
)
def test_odd_names_give_a_line(three, name):
    with pytest.raises(UserError):
        lookup(name, three[0])


def test_a_folder_without_records_gives_a_line(tmp_path):
    with pytest.raises(UserError, match="there are no records; give --results DIR"):
        lookup("pixels:16", tmp_path)


@pytest.mark.parametrize(
    ("change", "said"), [({"schema": 1}, "has schema 1"), ({"schema": 9}, "upgrade"), ({"scores": 3}, "scores")]
)
def test_a_record_of_another_schema_or_shape_gives_a_line(three, change, said):
    results, first, _, _ = three
    first.path.write_text(json.dumps({**first.json(), **change}))
    for name in (first.id, first.path):
        with pytest.raises(UserError, match=said):
            lookup(name, results)


def test_a_broken_record_hides_no_other(three):
    results, first, second, third = three
    second.path.write_text("{")
    assert lookup(third.id[:7], results)[1]["id"] == third.id
    assert lookup("pixels:16", results)[1]["id"] == first.id
    assert lookup("random:vit", results)[1]["id"] == third.id
