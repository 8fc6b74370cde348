"""Which records a leaderboard shows: those of several folders, each once, and those that filters choose."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from made_records import header, miou, write
from PIL import Image

from densebench.errors import UserError
from densebench.pictures.canvas import save
from densebench.results.leaderboard import leaderboard
from densebench.results.record import open_or_create
from densebench.results.report import report


@pytest.fixture
def board(tmp_path):
    """Records of three backbones on two data sets by two protocols."""
    for name, value in (("vit_small", 30.0), ("vit_base", 40.0), ("pixels:16", 10.0)):
        write(tmp_path, name, {(1, None): value})
        write(tmp_path, name, {(1, None): value + 1}, dataset="voc")
        write(tmp_path, name, {(1, None): value + 2}, protocol="kmeans", preset="croc")
    return lambda **filters: leaderboard(tmp_path, **filters)


def shown(board):
    return [(table.caption.split(" v1 on ")[0], table.caption.split(" v1 on ")[1].split()[0]) for table in board.tables]


def test_a_string_and_a_list_name_folders_too(tmp_path):
    write(tmp_path, "a", {(1, None): 10.0})
    boards = [leaderboard(results) for results in (tmp_path, str(tmp_path), [tmp_path], (str(tmp_path), tmp_path))]
    assert {board.render() for board in boards} == {boards[0].render()}


def test_records_of_several_folders_stand_in_one_table(tmp_path):
    write(tmp_path / "one", "a", {(1, None): 10.0})
    write(tmp_path / "two", "b", {(1, None): 20.0})
    [table] = leaderboard([tmp_path / "one", tmp_path / "two"]).tables
    assert table.cells[["rank", "backbone"]].to_numpy().tolist() == [["1", "b"], ["2", "a"]]


def test_a_record_in_two_folders_counts_once(tmp_path, capsys):
    write(tmp_path / "one", "a", {(1, None): 10.0})
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    board = leaderboard([tmp_path / "one", tmp_path / "two"])
    assert board.render("csv") == leaderboard(tmp_path / "one").render("csv")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("order", [("few", "many"), ("many", "few")])
def test_the_record_that_has_all_scores_of_the_other_is_shown(tmp_path, capsys, order):
    write(tmp_path / "few", "a", {(1, None): 10.0})
    write(tmp_path / "many", "a", {(1, None): 10.0, (8, 0): 5.0})
    [table] = leaderboard([tmp_path / name for name in order]).tables
    assert table.cells.loc[0, "1/8"] == "5.0"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("order", [("old", "new"), ("new", "old")])
def test_of_different_scores_the_newer_are_shown_and_both_files_named(tmp_path, capsys, order):
    for folder, value, start in (("old", 10.0, "2026-01-01T00:00:00"), ("new", 20.0, "2026-01-02T00:00:00")):
        record = write(tmp_path / folder, "a", {(1, None): value})
        record.finish("complete", {"started": start})
    [table] = leaderboard([tmp_path / name for name in order]).tables
    assert table.cells.loc[0, "1/1"] == "20.0"
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{tmp_path / 'new'}/records/")
    assert f"{tmp_path / 'old'}/records/" in line
    assert "newer" in line


def test_a_complete_record_goes_before_a_newer_one_that_failed(tmp_path, capsys):
    write(tmp_path / "whole", "a", {(1, None): 10.0}).finish("complete", {"started": "2026-01-01T00:00:00"})
    failed = open_or_create(tmp_path / "cut", header("a"))
    failed.add([miou(99.0, fraction=1, seed=None)])
    failed.finish("failed", {"started": "2026-01-02T00:00:00"})
    [table] = leaderboard([tmp_path / "cut", tmp_path / "whole"]).tables
    assert table.cells.loc[0, "1/1"] == "10.0"
    assert "complete" in capsys.readouterr().err


def test_a_folder_that_holds_no_records_is_an_error_beside_another(tmp_path):
    write(tmp_path, "a", {(1, None): 10.0})
    with pytest.raises(UserError, match="nowhere holds no folder records"):
        leaderboard([tmp_path, "nowhere"])
    with pytest.raises(UserError, match="no results folder is given"):
        leaderboard([])


def test_a_report_has_the_pictures_of_every_folder(tmp_path):
    for folder, name in (("one", "a"), ("two", "b")):
        record = write(tmp_path / folder, name, {(1, None): 10.0})
        (tmp_path / folder / "pictures" / record.id).mkdir(parents=True)
        save(Image.new("RGB", (2, 2)), tmp_path / folder / "pictures" / record.id / "first.png", description="image, truth")
    page = report([tmp_path / "one", tmp_path / "two"])
    assert all(f'alt="{name}: image, truth of first"' in page for name in "ab")


def test_data_sets_and_protocols_choose_tables_and_change_none(board):
    whole = board()
    assert shown(board(dataset="voc")) == [("incontext/hummingbird", "voc")]
    assert shown(board(protocol="kmeans")) == shown(board(protocol="kmeans/croc")) == [("kmeans/croc", "scenes")]
    assert shown(board(dataset=["voc", "sc*"], protocol=["incontext"])) == [
        ("incontext/hummingbird", "scenes"),
        ("incontext/hummingbird", "voc"),
    ]
    text = board(dataset="voc").render()
    assert text.strip() in whole.render()


def test_profiles_are_those_of_the_data_sets_that_are_shown(board):
    assert [table.of for table in board(dataset="scenes").profiles] == ["scenes val"]
    assert board(dataset="voc").profiles == []


def test_backbones_choose_rows_whose_ranks_stay(board):
    filtered = board(dataset="voc", backbone="vit_small")
    [table] = filtered.tables
    assert table.cells[["rank", "backbone"]].to_numpy().tolist() == [["2", "vit_small"]]
    assert not table.best.to_numpy().any()
    assert table.caption.endswith(", 1 of 3 backbones shown, ranked among all")
    assert set(filtered.scores["name"]) == {"vit_small"}


def test_backbones_choose_rows_of_profiles(board):
    [profile] = board(backbone=["vit*"]).profiles
    assert profile.cells["backbone"].tolist() == ["vit_base", "vit_small"]
    assert profile.caption.endswith(", 2 of 3 backbones shown")


def test_a_filter_that_keeps_every_row_leaves_the_caption(board):
    assert board(backbone="*").render() == board().render()


def test_a_backbone_is_named_by_its_name_or_its_spec(tmp_path):
    head = header("timm:vit")
    head["backbone"]["name"] = "Mine, [first]"
    record = open_or_create(tmp_path, head)
    record.add([miou(10.0, fraction=1, seed=None)])
    record.finish("complete", {})
    for name in ("Mine, [first]", "timm:vit", "Mine*"):
        assert len(leaderboard(tmp_path, backbone=name).tables) == 1


def test_ranks_of_a_filtered_table_come_from_all_replicates(tmp_path):
    steps = np.linspace(-3, 3, 1000)
    write(tmp_path, "middle", {(1, None): 9.0}, replicates=9 + 0 * steps)
    write(tmp_path, "unsure", {(1, None): 8.5}, replicates=8.5 + steps)
    write(tmp_path, "best", {(1, None): 10.0}, replicates=10 + 0 * steps)
    [table] = leaderboard(tmp_path, backbone=["unsure", "middle"]).tables
    assert table.cells[["rank", "backbone"]].to_numpy().tolist() == [["1", "unsure"], ["2", "middle"]]


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"dataset": "vok"}, "unknown data set 'vok': did you mean 'voc'?"),
        ({"protocol": ["kmeans", "kmean"]}, "unknown protocol 'kmean': did you mean 'kmeans'?"),
        ({"backbone": "vit_smal"}, "unknown backbone 'vit_smal': did you mean 'vit_small'?"),
        ({"backbone": "resnet*"}, "unknown backbone 'resnet*': the records are of 'pixels:16', 'vit_base', 'vit_small'"),
        ({"dataset": "voc", "protocol": "kmeans"}, "no record is of kmeans on voc; there are incontext/hummingbird on voc"),
    ],
)
def test_a_name_that_no_record_has_is_one_line(board, filters, message):
    with pytest.raises(UserError) as error:
        board(**filters)
    assert str(error.value).startswith(message)
