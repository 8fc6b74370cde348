"""Baselines without features: shown beside every table and by `densebench eval`, never as a row of their own."""

from __future__ import annotations

from dataclasses import replace

from made_records import header, miou

from densebench.results import record as records
from densebench.results.baselines import MARK, baselines_of, in_words
from densebench.results.leaderboard import leaderboard
from densebench.results.summary import summary


def guess(value, variant="same place", **axes):
    return replace(miou(value, variant, **axes), details=dict(MARK))


def write(folder, name, points, more=()):
    record = records.open_or_create(folder, header(name))
    for axes, guessed, value in points:
        record.add([*(guess(each, variant, **axes) for variant, each in guessed.items()), *more, miou(value, **axes)])
    record.finish("complete", {})
    return record.json()


def test_eval_prints_the_guess_beside_the_value(tmp_path):
    record = write(tmp_path, "a", [({"alpha": 0.1}, {"same place": 34.44, "random patch": 2.0}, 50.0)])
    assert summary(record).splitlines()[1] == "  alpha 0.1  50.00 (without features: random patch 2.00, same place 34.44)"


def test_values_stand_under_one_another(tmp_path):
    record = write(tmp_path, "a", [({"alpha": 0.05}, {}, 9.0), ({"alpha": 0.1}, {}, 50.0)])
    assert summary(record).splitlines()[1:] == ["  alpha 0.05   9.00", "  alpha 0.1   50.00"]


def test_captions_give_the_guess_for_each_column(tmp_path):
    write(tmp_path, "a", [({"alpha": 0.05}, {"same place": 12.0}, 30.0), ({"alpha": 0.1}, {"same place": 34.44}, 50.0)])
    [table] = leaderboard(tmp_path).tables
    assert "without features at alpha 0.05, alpha 0.1: same place 12.0 / 34.4, group" in table.caption
    assert table.cells.backbone.tolist() == ["a"]
    assert ("without features", "same place 12.0 / 34.4") in table.about.facts


def test_captions_of_wide_tables_give_the_column_that_ranks_go_by(tmp_path):
    write(tmp_path, "a", [({"alpha": alpha}, {"same place": 10.0 * alpha}, 30.0) for alpha in range(1, 9)])
    [table] = leaderboard(tmp_path).tables
    assert "without features: same place 80.0, group" in table.caption


def test_a_guess_that_differs_between_records_is_a_range(tmp_path):
    write(tmp_path, "a", [({}, {"random patch": 2.0}, 30.0)])
    write(tmp_path, "b", [({}, {"random patch": 2.5}, 40.0)])
    [table] = leaderboard(tmp_path).tables
    assert "without features: random patch 2.0 to 2.5" in table.caption


def test_records_without_baselines_say_nothing(tmp_path):
    record = write(tmp_path, "a", [({}, {}, 30.0)])
    assert "without features" not in summary(record) + leaderboard(tmp_path).tables[0].caption


def test_scores_of_other_metrics_and_unmarked_ones_are_no_baselines(tmp_path):
    record = write(tmp_path, "a", [({}, {}, 30.0)], more=[replace(guess(1.0), metric="other"), miou(2.0, "matched")])
    assert baselines_of(record) == {}


def test_seeds_are_averaged(tmp_path):
    record = write(tmp_path, "a", [({"seed": seed}, {"random": 1.0 + seed}, 30.0) for seed in (0, 1)])
    assert baselines_of(record) == {(): {"random": 1.5}}


def test_a_column_without_the_guess_is_a_dash():
    assert in_words({"centre": [[], [3.0]]}, 1, ["a", "b"]) == "without features at a, b: centre - / 3.0"
