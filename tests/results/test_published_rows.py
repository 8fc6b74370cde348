"""Which row of a paper's table is a measured backbone's."""

from __future__ import annotations

import pytest
from published_records import numbers, record

from densebench.errors import UserError
from densebench.results.against import against

TWO = [
    {"pretrain_data": "COCO", "pretrain_epochs": "300", "value": "30.0"},
    {"pretrain_data": "IN1K", "pretrain_epochs": "800", "value": "40.0"},
]
ABLATION = [
    {"method": "CrIBo", "protocol": "incontext-hummingbird (ablation)", "setting": f"{setting};fraction=1/1", "value": value}
    for setting, value in (("lambda_pos=1.0;L_ci=no", "1.0"), ("lambda_pos=1.0;L_ci=yes", "2.0"), ("K=21;L_ci=yes", "3.0"))
]


def measured(tmp_path, published, name, rows=None):
    """The published numbers beside which a backbone stands, and the table."""
    board = against([record(name)], "neco:99", rows, numbers(tmp_path / "mine.csv", *published))
    beside = board.comparison[board.comparison.measured.notna() & board.comparison.in_paper.astype(bool)]
    return beside.published.tolist(), board.tables[0]


@pytest.mark.parametrize(
    ("published", "name", "values"),
    [
        (TWO, "DINO ViT-S/16, COCO", ["30.0"]),
        (TWO, "dino vit-s/16, in1k, 800 epochs", ["40.0"]),
        (TWO, "DINO ViT-S/16, 800 epochs", ["40.0"]),
        (TWO, "DINO ViT-S/16, ADE20K", []),
        (TWO, "DINO ViT-B/16, COCO", []),
        ([{}], "DINO ViT-S/16", ["1.0"]),
        ([{}], "DINO ViT-S/16, COCO", []),
        (ABLATION, "CrIBo ViT-S/16, lambda_pos=1, L_ci=yes", ["2.0"]),
        (ABLATION, "CrIBo ViT-S/16, K=21", ["3.0"]),
    ],
)
def test_a_name_says_the_row(tmp_path, published, name, values):
    found, table = measured(tmp_path, [{"value": "1.0", **row} for row in published], name)
    assert found == values
    assert (f"{name} (not in the paper)" in table.cells.method.tolist()) == (not values)


def test_rows_that_compete_are_named_and_none_is_taken(tmp_path, capsys):
    found, table = measured(tmp_path, TWO, "DINO ViT-S/16")
    assert found == []
    assert table.cells.method.tolist() == ["DINO", "DINO", "DINO ViT-S/16 (not in the paper)"]
    assert table.cells["voc 1/1"].tolist() == ["30.0", "40.0", "- | 48.0 | -"]
    notice = capsys.readouterr().err
    assert "DINO ViT-S/16, COCO, 300 epochs; DINO ViT-S/16, IN1K, 800 epochs" in notice and "`row`" in notice


@pytest.mark.parametrize(
    ("published", "row", "values"),
    [
        (TWO, {"method": "DINO", "pretrain_data": "IN1K"}, ["40.0"]),
        (TWO, {"method": "DINO", "pretrain_epochs": 300}, ["30.0"]),
        ([{"value": "1.0"}], {"method": "DINO", "backbone": "ViT-S/16", "pretrain_data": "IN1K"}, ["1.0"]),
        ([{"value": "1.0"}, TWO[1]], {"method": "DINO", "pretrain_data": "IN1K"}, ["40.0"]),
        (ABLATION, {"setting": "lambda_pos=1;L_ci=yes"}, ["2.0"]),
        (ABLATION, {"setting": "L_ci=no"}, ["1.0"]),
        (ABLATION, {"setting": "L_ci=yes; K=21; fraction=1/1"}, ["3.0"]),
        (ABLATION, {"setting": "L_ci=yes"}, []),
        (ABLATION, [{"setting": "K=21"}, {"setting": "lambda_pos=1;L_ci=yes"}], ["2.0", "3.0"]),
        (TWO, {"method": "MAE"}, []),
    ],
)
def test_columns_say_the_row(tmp_path, published, row, values):
    assert measured(tmp_path, published, "mine", {"mine": row})[0] == values


def test_another_name_than_the_papers_is_a_footnote(tmp_path):
    _, table = measured(tmp_path, [{"value": "1.0"}], "mine", {"mine": {"method": "DINO"}})
    assert table.cells.method[0] == "DINO [a]" and "[a] measured: mine" in table.notes


@pytest.mark.parametrize(
    ("name", "rows"),
    [("DINO ViT-S/16, IN1K, 100 epochs", None), ("mine", {"mine": {"pretrain_data": "IN1K", "pretrain_epochs": 100}})],
)
def test_other_epochs_stand_with_a_footnote(tmp_path, name, rows):
    found, table = measured(tmp_path, TWO, name, rows)
    assert found == ["40.0"]
    assert any(note.endswith("pretrained for 100 epochs, the paper's for 800") for note in table.notes)


def test_a_row_that_fits_nothing_is_said(tmp_path, capsys):
    measured(tmp_path, TWO, "mine", {"mine": {"method": "MAE"}})
    assert "no row of the paper is that of mine: {'method': 'MAE'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [({"metod": "DINO"}, "did you mean 'method'"), ("DINO", "give columns and their values"), ([], "give columns")],
)
def test_a_row_that_is_none(tmp_path, row, message):
    with pytest.raises(UserError, match=message):
        measured(tmp_path, TWO, "mine", {"mine": row})


def test_a_backbone_of_one_table_of_several_is_no_stranger_in_the_others(tmp_path):
    rows = [{"table": "Table 99a", "value": "1.0"}, {"table": "Table 99b", "method": "MAE", "value": "2.0"}]
    first, second = against([record()], "neco:99", published=numbers(tmp_path / "mine.csv", *rows)).tables
    assert first.cells["voc 1/1"].tolist() == ["1.0 | 48.0 | +47.0 !"]
    assert second.cells["voc 1/1"].tolist() == ["2.0"]


def test_backbones_without_a_comparable_number_are_named_below(tmp_path):
    rest = [record("a", changed={"image_size": 224}), record("b", changed={"image_size": 224}), record("c")]
    table = against([record(), *rest], "neco:99", published=numbers(tmp_path / "mine.csv", {"value": "47.9"})).tables[0]
    assert table.cells.method.tolist() == ["DINO", "c (not in the paper)"]
    assert table.notes[-1] == "Not in the paper and not shown: a, b: measured with image_size=224 (the preset: 512)."
