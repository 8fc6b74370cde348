"""Costs of records as columns of tables."""

import pandas as pd
from made_records import write

from densebench import leaderboard

RUN = {
    "device": "NVIDIA H200", "seconds": {"total": 90.0, "features": 30.0}, "images_per_second": {"features": 1234.56},
    "tflop_per_second": {"search": 321.9}, "host_memory_mb": 2048, "device_memory_mb": 10 * 1024, "energy_joules": 45_600.0,
}  # fmt: skip
VALUES = {(8, 0): 10.0, (8, 1): 11.0, (1, None): 20.0}


def add(folder, name, **run):
    write(folder, name, VALUES).finish("complete", run)


def row(table, name):
    return table.cells.set_index("backbone").loc[name]


def test_costs_are_columns_in_units_of_people(tmp_path):
    add(tmp_path, "a", **RUN, scored_points=3)
    costs = row(leaderboard(tmp_path, costs=True).tables[0], "a")
    shown = {"device": "NVIDIA H200", "minutes": "1.50", "images/s": "1235", "search TFLOP/s": "322"}
    shown |= {"host GiB": "2.0", "GPU GiB": "10.0", "kJ": "45.6"}
    assert {name: costs[name] for name in shown} == shown


def test_tables_without_costs_stay_as_they_were(tmp_path):
    add(tmp_path, "a", **RUN, scored_points=3)
    assert "device" not in leaderboard(tmp_path).tables[0].cells
    assert "seconds" not in leaderboard(tmp_path).scores


def test_a_run_that_scored_only_a_part_does_not_tell_what_the_record_cost(tmp_path):
    add(tmp_path, "a", **RUN, scored_points=3)
    add(tmp_path, "part", **RUN, scored_points=2)
    add(tmp_path, "old", **RUN)
    table = leaderboard(tmp_path, costs=True).tables[0]
    assert row(table, "part")["minutes"] == row(table, "old")["minutes"] == ""
    assert row(table, "a")["minutes"] == "1.50"


def test_records_without_costs_are_counted_in_one_line(tmp_path, capsys):
    add(tmp_path, "a", **RUN, scored_points=3)
    leaderboard(tmp_path, costs=True)
    assert "cost" not in capsys.readouterr().err
    add(tmp_path, "old", **RUN)
    leaderboard(tmp_path)
    assert "cost" not in capsys.readouterr().err
    leaderboard(tmp_path, costs=True)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("1 of 2 records do not say what they cost") and "--rerun" in line


def test_seconds_of_a_short_run_are_not_rounded_to_nothing(tmp_path):
    add(tmp_path, "a", **{**RUN, "seconds": {"total": 2.0}}, scored_points=3)
    assert row(leaderboard(tmp_path, costs=True).tables[0], "a")["minutes"] == "0.03"


def test_a_column_in_which_nothing_stands_is_left_out(tmp_path):
    add(tmp_path, "a", **{**RUN, "energy_joules": None, "device_memory_mb": None}, scored_points=3)
    columns = list(leaderboard(tmp_path, costs=True).tables[0].cells)
    assert not {"kJ", "GPU GiB"} & set(columns)
    assert columns[-1] == "host GiB"


def test_costs_are_numbers_in_the_frame(tmp_path):
    add(tmp_path, "a", **RUN, scored_points=3)
    scores = leaderboard(tmp_path, costs=True).scores
    assert set(scores.images_per_second) == {1234.56}
    assert pd.api.types.is_numeric_dtype(scores.seconds)


def test_no_cost_is_marked_as_the_best(tmp_path):
    add(tmp_path, "a", **RUN, scored_points=3)
    table = leaderboard(tmp_path, costs=True).tables[0]
    assert list(table.best) == list(table.cells)
    assert not table.best[["minutes", "images/s", "kJ"]].any().any()
