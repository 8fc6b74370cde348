"""The page of the leaderboard and of the report, as text: what it shows of a table, and that no name can do any harm."""

from __future__ import annotations

import itertools
import re

import pandas as pd
import pytest
from made_pages import HOSTILE, made, measured
from made_records import miou, write
from read_page import Page

from densebench.results.html import addresses, page
from densebench.results.leaderboard import leaderboard
from densebench.results.tables import Block, Section, Table


@pytest.fixture(scope="module")
def text():
    return made({"record0": "records/record0.json"})


@pytest.fixture(scope="module")
def parsed(text):
    return Page(text)


def one(table, **more):
    return Page(page("A page", "", [Section("voc val", [Block(table, **more)])]))


def sorted_first(shown):
    """The direction in which a click sorts first, by the headings of the columns."""
    headings = [each for each in shown.tags("th") if "data-first" in each]
    return dict(zip([name for name in shown.cells if name], [each["data-first"] for each in headings], strict=False))


def test_no_name_becomes_markup(text, parsed):
    assert "<b>bold" not in text
    assert [attributes for tag, attributes in parsed.found if tag == "b"] == []
    assert len(parsed.tags("script")) == 1  # a parser knows none but the page's own
    assert HOSTILE in parsed.cells
    assert HOSTILE in parsed.of("data-backbone")


def test_a_colour_that_is_none_stands_in_no_style(parsed):
    assert [each for each in parsed.of("style") if "background" in each] == ["background:#00ff00", "background:#aa00ff"]


def test_headings_are_in_order(parsed):
    levels = [int(tag[1]) for tag, _ in parsed.found if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_no_identifier_stands_twice_and_every_link_on_the_page_leads_somewhere(parsed):
    identifiers = parsed.of("id")
    assert len(identifiers) == len(set(identifiers))
    assert {link[1:] for link in parsed.of("href") if link.startswith("#")} <= set(identifiers)


def test_every_heading_of_a_column_has_a_scope_and_every_picture_an_alt(parsed):
    assert all(each.get("scope") in ("col", "row", "colgroup") for each in parsed.tags("th"))
    assert all(each.get("alt") for each in parsed.tags("img"))


def test_rows_are_named_by_their_backbones():
    rows = [each for each in one(measured()).tags("th") if each.get("scope") == "row"]
    assert len(rows) == 5


def test_an_empty_column_is_left_out_and_named():
    shown = one(measured())
    assert "positions" not in shown.cells
    assert any("left out: positions" in data for _, data in shown.texts)


def test_numbers_carry_what_they_are_sorted_by():
    assert one(measured()).of("data-value") == ["9.04", "10", "9", "-2.5"]


def test_what_follows_a_number_has_the_width_of_the_longest():
    shown = one(measured())
    assert f"--spread:{len(' ± 10.5')}ch" in shown.of("style")
    assert [data for tag, data in shown.texts if tag == "span" and "±" in data] == [" ± 1.0", " ± 10.5"]


def test_a_footnote_stands_apart_from_its_number():
    cells = pd.DataFrame({"method": ["a", "b"], "backbone": ["x", "y"], "1/1": ["10.0 [a,b]", "9.0"]})
    shown = one(Table("a table", cells, cells.map(lambda _: False)))
    assert ("td", "10.0") in shown.texts and ("span", " [a,b]") in shown.texts
    assert "10.0 [a,b]" in shown.cells
    assert [each["class"] for each in shown.tags("th") if each.get("scope") == "row"] == ["text names"] * 2  # the methods


def test_intervals_are_drawn_on_one_scale():
    bars = [each for each in one(measured()).of("style") if "--low" in each]
    # From -2.5, the least value of all, to 11: 8 is (8 + 2.5) / 13.5 of the way.
    assert bars == ["--low:77.8;--high:92.6;--at:85.5", "--low:85.2;--high:100.0;--at:92.6"]


def test_a_click_sorts_the_best_first():
    table = measured()
    assert {"rank": "ascending", "1/1": "descending", "minutes": "ascending"}.items() <= sorted_first(one(table)).items()
    cells = pd.DataFrame({"backbone": ["a", "b"], "1/1": ["1", "2"]})
    lower = Table("plain rmse in m, lower is better", cells, cells.map(lambda _: False))
    assert sorted_first(one(lower))["1/1"] == "ascending"


def test_scores_stand_before_what_a_backbone_is_and_costs():
    cells = [cell for cell in one(measured()).cells if cell in ("rank", "backbone", "1/8", "1/1", "width", "minutes", "record")]
    assert cells == ["rank", "backbone", "1/8", "1/1", "width", "minutes", "record"]


def test_records_are_links_where_they_lie_beside_the_page(parsed):
    assert parsed.of("href").count("records/record0.json") == 6  # in the row and at the command, in three tables
    assert not any("record1.json" in link for link in parsed.of("href"))


def test_a_row_without_a_file_of_its_record_leads_to_its_command(parsed):
    assert "#table-abc-row-1" in parsed.of("href")
    assert ("code", "densebench eval --backbone '1'") in parsed.texts


def test_only_records_below_the_folder_of_the_page_have_an_address(tmp_path):
    inside = write(tmp_path / "in it" / "results", "a", {(1, None): 10.0})
    outside = write(tmp_path / "other", "b", {(1, None): 10.0})
    folders = [tmp_path / "in it" / "results", tmp_path / "other"]
    assert addresses(folders, tmp_path / "in it" / "page.html") == {inside.id: f"results/records/{inside.id}.json"}
    assert set(addresses(folders, tmp_path / "page.html")) == {inside.id, outside.id}
    assert addresses(folders, tmp_path / "page.html")[inside.id].startswith("in%20it/")
    assert addresses(folders, None) == {}


def test_a_leaderboard_knows_what_lies_beside_its_file(tmp_path):
    record = write(tmp_path, "a", {(1, None): 10.0})
    board = leaderboard(tmp_path)
    assert f"records/{record.id}.json" in Page(board.render("html", beside=tmp_path / "page.html")).of("href")
    assert f"records/{record.id}.json" not in Page(board.render("html")).of("href")


def test_choices_stand_in_the_order_of_their_numbers():
    cells = pd.DataFrame({"backbone": ["vit 10", "CroC", "vit 9", "a long name"], "1/1": ["1", "2", "3", "4"]})
    shown = one(Table("a table", cells, cells.map(lambda _: False), identities=("a", "b", "c", "d")))
    assert [each["value"] for each in shown.tags("input") if each.get("name") == "backbone"] == [
        "a long name", "CroC", "vit 9", "vit 10",
    ]  # fmt: skip


def test_many_notes_are_folded():
    shown = one(measured())
    assert ("summary", "3 more notes") in shown.texts
    assert {"first note", "fifth note"} <= {data for tag, data in shown.texts if tag == "p"}


def test_tables_of_one_title_are_told_apart_by_their_groups():
    text = page("A page", "", [Section("voc val", [Block(measured()), Block(measured(of="other"))])])
    titles = [data for tag, data in Page(text).texts if tag == "h3"]
    assert titles == ["incontext/plain, group abc", "incontext/plain, group other"]


def test_facts_say_what_the_caption_says(tmp_path):
    record = write(tmp_path, "a", {(1, None): 10.0, (8, 0): 5.0, (8, 1): 6.0}, settings={"image_size": 224})
    record.add([miou(7.0, fraction=8, seed=2)])
    [table] = leaderboard(tmp_path).tables
    facts = dict(table.about.facts)
    assert facts["protocol"] == "incontext/hummingbird, version 1"
    assert facts["images"] == "64 images" and facts["size"] == "224 px" and facts["score"] == "identity mIoU in %"
    assert facts["±"] == "standard deviation over 3 subsets"
    assert facts["group"] in table.caption
    assert table.about.title == "incontext/hummingbird on scenes val, 224 px"
