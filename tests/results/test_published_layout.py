"""The papers' tables in their own layout: every number stands in one cell, and none is lost."""

from __future__ import annotations

import pytest
from published_records import numbers

from densebench.results.against import against
from densebench.results.published import load_published
from densebench.results.published import settings as items_of
from densebench.results.published.layout import Row, layouts
from densebench.results.published.references import of_reference, references

NUMBERS = load_published()


@pytest.mark.parametrize("reference", references(NUMBERS))
def test_every_number_of_a_table_stands_in_one_cell(reference):
    expected = of_reference(NUMBERS, reference)
    rows, columns, layout = shown(reference)
    assert sorted(number.value for number in layout.numbers.values()) == sorted(expected.value)
    placed = {
        (*row[:5], items_of.plain(column.protocol), column.dataset, column.metric, number.setting): number.value
        for (row, column), number in layout.numbers.items()
    }
    keys = [*Row._fields[:5], "protocol", "dataset", "metric", "setting"]
    plain = expected.assign(protocol=expected.protocol.map(items_of.plain))
    assert placed == {tuple(line[key] for key in keys): line["value"] for line in plain.to_dict("records")}
    assert len(placed) == len(expected)
    assert len(set(columns)) == len(columns) and len(set(layout.rows)) == len(rows)


@pytest.mark.parametrize("paper", ["cribo", "neco"])
def test_the_tables_of_a_paper_show_each_number_once(paper):
    board, expected = against([], paper), of_reference(NUMBERS, paper)
    assert len(board.tables) == len(expected.table.unique())
    texts = []
    for table in board.tables:
        names = [name for name, group in zip(table.cells, table.groups, strict=True) if group]
        texts += [text.partition(" [")[0] for text in table.cells[names].to_numpy().flatten() if text]
        assert not table.cells[[name for name in table.cells if name not in names]].duplicated().any()
    assert sorted(texts) == sorted(expected.value) == sorted(board.comparison.published)


def shown(reference):
    [layout] = layouts(of_reference(NUMBERS, reference))
    columns = [(column.dataset, name) for column, name in zip(layout.columns, layout.headings(), strict=True)]
    return [f"{row.method} {row.backbone}" for row in layout.rows], columns, layout


def test_fractions_stand_under_their_data_set():
    rows, columns, _ = shown("neco:8")
    fractions = ["1/128", "1/64", "1/8", "1/1"]
    assert columns == [(dataset, fraction) for dataset in ("ade20k", "voc") for fraction in fractions]
    assert (rows[:2], rows[-1]) == (["DINO ViT-S/16", "SelfPatch ViT-S/16"], "NeCo ViT-B/14")


def test_metrics_are_columns_in_the_papers_order_even_where_the_first_row_lacks_some():
    rows, columns, _ = shown("flsl:2")
    assert columns == [("coco", f"ap_{name}") for name in ("bbox", "bbox_small", "bbox_medium", "bbox_large", "mask")]
    assert rows[0] == "None ViT-B/16"


def test_an_ablated_value_makes_a_row():
    _, columns, layout = shown("cribo:4")
    assert [dataset for dataset, _ in columns] == ["voc", "ade20k"]
    assert dict(layout.rows[1].items) == {"lambda_pos": "0.0", "L_ci": "yes"}
    assert {"K": "64", "L_ci": "yes"} in [dict(row.items) for row in layout.rows]
    assert layout.shared() == (("fraction", "1/1"),)


def test_a_remark_on_a_column_makes_no_row():
    rows, columns, layout = shown("neco:10")
    assert len(rows) == 5 and len(layout.numbers) == 15
    assert columns[1] == ("coco", "pretraining time, batch=64, 8 RTX A6000, hours")


def test_rows_and_columns_stand_as_the_file_has_them(tmp_path):
    rows = [
        {"paper": "mine", "method": method, "setting": f"fraction=1/{share}", "value": "1"}
        for method, share in (("B", 8), ("A", 8), ("A", 1), ("C", 128))
    ]
    [layout] = layouts(of_reference(load_published(numbers(tmp_path / "mine.csv", *rows)), "mine:99"))
    assert [row.method for row in layout.rows] == ["B", "A", "C"]
    assert layout.headings() == ["1/8", "1/1", "1/128"]


@pytest.mark.parametrize(
    ("printed", "value", "is_same"),
    [
        ("1/128", 128, True),
        ("1/8", 128, False),
        ("300", 300, True),
        ("2.0", 2, True),
        ("0.03", 0.03, True),
        ("0.03", 0.031, False),
        ("1.02M", 1_024_000, True),
        ("1.02M", 1_026_000, False),
        ("102k", 102_400, True),
        ("10.24M", 10_240_000, True),
        ("100x100", 100, True),
        ("100x200", 100, False),
        ("all", "All", True),
        ("inf", 1, False),
        ("none", None, True),
        ("1", True, False),
    ],
)
def test_what_a_paper_prints_is_read_as_a_value(printed, value, is_same):
    assert items_of.same(printed, value) is is_same


def test_items_of_a_setting():
    assert items_of.items("bootstrap=none;aggregate=avg over K in 4,8; S in 25k;8 RTX A6000;fraction=1/1") == {
        "bootstrap": "none", "aggregate": "avg over K in 4,8", "S in 25k": "", "8 RTX A6000": "", "fraction": "1/1",
    }  # fmt: skip
    assert items_of.items("") == {}
