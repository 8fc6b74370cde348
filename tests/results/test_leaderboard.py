"""Leaderboards: which records enter, what stands in rows and columns, and what captions say."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from made_records import header, miou, write

import densebench
from densebench.errors import UserError
from densebench.results.leaderboard import leaderboard, render
from densebench.results.record import open_or_create


def test_mean_and_spread_by_hand(tmp_path):
    write(tmp_path, "a", {(1, None): 61.24, (8, 0): 50.0, (8, 1): 54.0, (64, 0): 20.0})
    [table] = leaderboard(tmp_path).tables
    assert list(table.cells.columns) == ["rank", "backbone", "width", "stride", "1/64", "1/8", "1/1", "95 % at 1/1"]
    row = table.cells.iloc[0]
    assert (row["1/64"], row["1/8"], row["1/1"]) == ("20.0", "52.0 ± 2.8", "61.2")  # sqrt(8) over n - 1 = 1
    assert "identity mIoU" in table.caption


def test_rows_stand_by_value_and_the_best_are_marked(tmp_path):
    write(tmp_path, "worse", {(1, None): 40.0, (8, 0): 39.0})
    write(tmp_path, "better", {(1, None): 60.0, (8, 0): 30.0})
    [table] = leaderboard(tmp_path).tables
    assert table.cells["backbone"].tolist() == ["better", "worse"]
    assert table.cells["rank"].tolist() == ["1", "2"]
    assert table.best["1/1"].tolist() == [True, False]
    assert table.best["1/8"].tolist() == [False, True]


def test_rows_stand_by_rank_and_then_by_value(tmp_path):
    steps = np.linspace(-3, 3, 1000)
    write(tmp_path, "middle", {(1, None): 9.0}, replicates=9 + 0 * steps)
    write(tmp_path, "unsure", {(1, None): 8.5}, replicates=8.5 + steps)
    write(tmp_path, "best", {(1, None): 10.0}, replicates=10 + 0 * steps)
    [table] = leaderboard(tmp_path).tables
    assert table.cells[["rank", "backbone"]].to_numpy().tolist() == [["1", "best"], ["1", "unsure"], ["2", "middle"]]
    assert table.best["1/1"].tolist() == [True, False, False]


def test_limited_records_never_enter(tmp_path):
    write(tmp_path, "quick", {(1, None): 99.0}, limit=10)
    with pytest.raises(UserError, match="no record of a whole run"):
        leaderboard(tmp_path)
    write(tmp_path, "whole", {(1, None): 10.0})
    [table] = leaderboard(tmp_path).tables
    assert table.cells["backbone"].tolist() == ["whole"]


def test_groups_are_kept_apart(tmp_path):
    write(tmp_path, "a", {(1, None): 10.0})
    write(tmp_path, "b", {(1, None): 20.0}, settings={"neighbours": [50]})
    write(tmp_path, "a", {(1, None): 30.0}, dataset="voc")
    tables = leaderboard(tmp_path).tables
    assert [len(table.cells) for table in tables] == [1, 1, 1]
    assert len({table.caption for table in tables}) == 3


def test_what_is_missing_is_blank(tmp_path):
    write(tmp_path, "half", {(1, None): 10.0})
    write(tmp_path, "whole", {(1, None): 20.0, (8, 0): 15.0})
    [table] = leaderboard(tmp_path).tables
    assert table.cells.set_index("backbone").loc["half", "1/8"] == ""


def test_a_broken_record_is_left_out_and_said(tmp_path, capsys):
    write(tmp_path, "a", {(1, None): 10.0})
    (tmp_path / "records" / "broken.json").write_text("{")
    assert len(leaderboard(tmp_path).tables) == 1
    assert "broken.json" in capsys.readouterr().err


def test_failed_runs_are_left_out_until_they_are_resumed(tmp_path):
    write(tmp_path, "whole", {(1, None): 10.0})
    failed = write(tmp_path, "failed", {(1, None): 90.0}, status="failed")
    [table] = leaderboard(tmp_path).tables
    assert table.cells["backbone"].tolist() == ["whole"]
    failed.start({})
    assert leaderboard(tmp_path).tables[0].cells["backbone"].tolist() == ["failed", "whole"]


def test_a_run_that_died_before_its_headline_is_no_table(tmp_path):
    record = open_or_create(tmp_path, header("a"))
    record.add([miou(3.0, "hungarian", fraction=1, seed=None)])
    with pytest.raises(UserError, match="no record of a whole run"):
        leaderboard(tmp_path)
    write(tmp_path, "b", {(1, None): 10.0}, dataset="voc")
    assert len(leaderboard(tmp_path).tables) == 1


def test_without_a_common_column_what_is_missing_has_no_rank(tmp_path):
    write(tmp_path, "whole", {(1, None): 10.0})
    write(tmp_path, "eighth", {(8, 0): 90.0})
    write(tmp_path, "other", {(8, 0): 80.0})
    [table] = leaderboard(tmp_path).tables
    assert table.cells["backbone"].tolist()[0] == "whole"
    assert sorted(table.cells["rank"]) == ["", "", "1"]
    assert not table.best["1/1"].any()  # there is nothing that "whole" is better than


def test_ranks_go_by_the_largest_memory_that_all_have(tmp_path):
    write(tmp_path, "first", {(1, None): 10.0, (8, 0): 20.0, (64, 0): 1.0})
    write(tmp_path, "second", {(8, 0): 15.0, (64, 0): 2.0})
    [table] = leaderboard(tmp_path).tables
    assert table.cells[["rank", "backbone"]].to_numpy().tolist() == [["1", "first"], ["2", "second"]]
    assert table.cells.columns[-1] == "95 % at 1/8"


def test_other_axes_are_columns_and_only_seeds_are_averaged(tmp_path):
    record = open_or_create(tmp_path, header("a", dataset="voc"))
    for k, seed, value in ((300, 0, 50.0), (300, 1, 54.0), (21, 0, 10.0), (21, 1, 12.0), (500, 0, 60.0)):
        record.add([miou(value, seed=seed, K=k)])
    board = leaderboard(tmp_path)
    row = board.tables[0].cells.iloc[0]
    assert list(row.index[-4:]) == ["K 21", "K 300", "K 500", "95 % at K 500"]
    assert row[["K 21", "K 300", "K 500"]].tolist() == ["11.0 ± 1.4", "52.0 ± 2.8", "60.0"]
    assert sorted(row["K"] for row in csv.DictReader(io.StringIO(render(board, "csv")))) == ["21", "21", "300", "300", "500"]


def test_two_axes_cross(tmp_path):
    record = open_or_create(tmp_path, header("a", dataset="voc"))
    for fraction in (1, 8):
        for k in (500, 21):
            record.add([miou(k / 10 + fraction, fraction=fraction, seed=0, K=k)])
    row = leaderboard(tmp_path).tables[0].cells.iloc[0]
    assert list(row.index[-5:-1]) == ["1/8, K 21", "1/8, K 500", "1/1, K 21", "1/1, K 500"]
    assert row.tolist()[-5:-1] == ["10.1", "58.0", "3.1", "51.0"]


def test_equal_names_are_told_apart_by_their_weights(tmp_path):
    for weights, value in (("1" * 64, 3.0), ("2" * 64, 4.0)):
        write(tmp_path, "random:vit", {(1, None): value}, digest=weights)
    [table] = leaderboard(tmp_path).tables
    assert table.cells["backbone"].tolist() == ["random:vit (weights 22222222)", "random:vit (weights 11111111)"]


@pytest.mark.parametrize(
    ("second", "said"),
    [
        ({(8, 0): 1.0, (8, 1): 2.0}, "over 2 to 3 subsets"),
        ({(8, 0): 1.0}, "over 3 subsets"),
        ({(1, None): 1.0}, "over 3 subsets"),
    ],
)
def test_the_caption_counts_subsets(tmp_path, second, said):
    write(tmp_path, "a", {(8, 0): 1.0, (8, 1): 2.0, (8, 2): 3.0, (1, None): 4.0})
    write(tmp_path, "b", second)
    assert said in leaderboard(tmp_path).tables[0].caption


def test_a_caption_without_subsets_speaks_of_none(tmp_path):
    write(tmp_path, "a", {(1, None): 4.0})
    caption = leaderboard(tmp_path).tables[0].caption
    assert "identity mIoU in %, group " in caption
    assert "deviation" not in caption


def test_the_interval_is_of_the_mean_over_seeds(tmp_path):
    record = open_or_create(tmp_path, header("a"))
    for seed, offset in ((0, 0.0), (1, 10.0)):
        replicates = np.linspace(20, 60, 41) + offset  # their mean runs from 25 to 65: 2.5 % of it is 26
        record.add([miou(40.0, bootstrap=replicates, fraction=8, seed=seed)])
    assert leaderboard(tmp_path).tables[0].cells.iloc[0]["95 % at 1/8"] == "26.0 to 64.0"


def test_replicates_without_a_number_have_no_interval(tmp_path):
    nothing = np.full(10, np.nan)
    write(tmp_path, "a", {(1, None): 1.0}, replicates=nothing)
    write(tmp_path, "b", {(1, None): 2.0}, replicates=nothing)
    [table] = leaderboard(tmp_path).tables
    assert table.cells["rank"].tolist() == ["1", "2"]
    assert table.cells["95 % at 1/1"].tolist() == ["", ""]


@pytest.mark.parametrize("setting", ["image_size", "crop_size", "short_side"])
def test_the_caption_gives_the_side_of_the_images(tmp_path, setting):
    write(tmp_path, "a", {(1, None): 4.0}, settings={setting: 224})
    assert ", 224 px: identity mIoU" in leaderboard(tmp_path).tables[0].caption


def test_the_caption_says_what_was_cut_short_and_what_was_chosen(tmp_path):
    settings = {"comparable": False, "iterations": 30, "validations": 3, "chosen_with_labels": ["cut"]}
    write(tmp_path, "a", {(1, None): 4.0}, settings=settings)
    remark = "30 iterations (not comparable with published runs), the best of 3 validations on the scored split, "
    assert f"{remark}cut chosen with labels, group " in leaderboard(tmp_path).tables[0].caption


def test_the_public_name_is_the_function(tmp_path):
    with pytest.raises(UserError, match="holds no record"):
        densebench.leaderboard(tmp_path)
