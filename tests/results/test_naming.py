"""What tables call backbones: one name each, the same in every table of a page."""

from __future__ import annotations

import pytest
from made_records import header, miou, write

from densebench.errors import UserError
from densebench.results.leaderboard import leaderboard
from densebench.results.record import open_or_create


def add(results, name, started="", *, weights="w1", **more):
    head = header("timm:vit", digest=weights, **more)
    head["backbone"] |= {"name": name} if name else {}
    record = open_or_create(results, head)
    record.add([miou(10.0, fraction=1, seed=None)])
    record.finish("complete", {"started": started} if started else {})


def names(results, **chosen):
    return sorted({name for table in leaderboard(results, **chosen).all_tables for name in table.cells.backbone})


def test_the_name_that_was_given_last_is_the_name_in_every_table(tmp_path):
    add(tmp_path, "first name", "2026-01-01T00:00:00Z")
    add(tmp_path, "second name", "2026-03-01T00:00:00Z", dataset="voc")
    add(tmp_path, None, "2026-04-01T00:00:00Z", dataset="camvid")
    add(tmp_path, "z", dataset="camvid", settings={"neighbours": 3})
    assert names(tmp_path) == ["second name"]
    assert {*leaderboard(tmp_path).scores["name"]} == {"first name", "second name", "timm:vit", "z"}  # records say what they said


def test_a_name_of_two_backbones_says_what_tells_them_apart_everywhere(tmp_path):
    for layer in ("8", "last"):
        add(tmp_path, "ViT", layer=layer, weights=f"w{layer}")
    add(tmp_path, "ViT", layer="8", weights="w8", dataset="voc")
    assert names(tmp_path) == ["ViT (layer 8)", "ViT (layer last)"]
    assert names(tmp_path, dataset="voc") == ["ViT (layer 8)"]


@pytest.mark.parametrize("chosen", ["second name", "first name", "timm:vit", "sec*"])
def test_rows_are_chosen_by_every_name_that_a_record_gives(tmp_path, chosen):
    add(tmp_path, "first name", "2026-01-01T00:00:00Z")
    add(tmp_path, "second name", "2026-03-01T00:00:00Z", dataset="voc")
    assert len(leaderboard(tmp_path, backbone=chosen).tables) == 2


def test_rows_are_chosen_by_the_name_that_tells_them_apart(tmp_path):
    for stride in (14, 16):
        add(tmp_path, "ViT", stride=stride)
    [table] = leaderboard(tmp_path, backbone="ViT (stride 14)").tables
    assert table.cells.backbone.tolist() == ["ViT (stride 14)"]
    with pytest.raises(UserError, match="no backbone|unknown backbone|did you mean"):
        leaderboard(tmp_path, backbone="ViT (stride 15)")


def test_a_given_name_that_looks_like_one_told_apart_is_not_mistaken_for_it(tmp_path):
    for layer in ("8", "last"):
        add(tmp_path, "ViT", layer=layer)
    add(tmp_path, "ViT (layer 8)", weights="w2")
    assert len(names(tmp_path)) == 3


def test_an_axis_called_label_names_nobody(tmp_path):
    record = open_or_create(tmp_path, header("a"))
    record.add([miou(10.0, label="other name")])
    [table] = leaderboard(tmp_path).tables
    assert table.cells.backbone.tolist() == ["a"]


def test_a_backbone_with_and_without_a_finer_grid_is_two_rows_and_a_column_says_which(tmp_path):
    how = {"name": "guided", "factor": 2}
    write(tmp_path, "plain", {(1, None): 40.0}, digest="one")
    write(tmp_path, "fine", {(1, None): 42.0}, digest="one", stride=8, upsample="guided:2", upsampler=how)
    write(tmp_path, "biased", {(1, None): 41.0}, digest="one", stride=8, upsample="guided:2", upsampler=how, debias=20)
    [table] = leaderboard(tmp_path).tables
    assert list(zip(table.cells["backbone"], table.cells["upsampled by"], table.cells["debiased by"], strict=True)) == [
        ("fine", "guided:2", "none"),
        ("biased", "guided:2", "20"),
        ("plain", "none", "none"),
    ]


def test_one_name_of_several_is_told_apart_by_the_upsampler(tmp_path):
    write(tmp_path, "net", {(1, None): 40.0}, digest="one")
    write(tmp_path, "net", {(1, None): 42.0}, digest="one", stride=8, upsample="guided:2", upsampler={"name": "guided"})
    [table] = leaderboard(tmp_path).tables
    assert set(table.cells["backbone"]) == {"net", "net (upsampled by guided:2)"}
