"""Quality against cost: which backbones stand in which plot, and which of them are on the front."""

from __future__ import annotations

import numpy as np
import pandas as pd
from made_records import write

from densebench.results.leaderboard import leaderboard
from densebench.results.tradeoff import on_front, plots


def add(folder, name, value, *, device=None, speed=None, params=None):
    record = write(folder, name, {(8, 0): 1.0, (1, None): value}, replicates=value + np.linspace(-1, 1, 100), params=params)
    run = {"device": device, "scored_points": 2, "images_per_second": {"features": speed} if speed else {}} if device else {}
    record.finish("complete", run)


def drawn(folder):
    board = leaderboard(folder, costs=True)
    [table] = board.tables
    return plots(table, board.scores[board.scores.headline])


def test_the_front_is_what_no_other_beats_in_both():
    cost, quality = pd.Series([1.0, 2.0, 3.0, 2.0, 3.0]), pd.Series([3.0, 2.0, 1.0, 1.0, 1.0])
    assert on_front(cost, quality) == [True, True, True, False, True]


def test_speeds_of_different_devices_never_share_a_plot(tmp_path):
    for name, value, device in (("a", 10.0, "chip 1"), ("b", 20.0, "chip 1"), ("c", 30.0, "chip 2"), ("d", 40.0, "chip 2")):
        add(tmp_path, name, value, device=device, speed=100 - value)
    first, second = drawn(tmp_path)
    assert {first[2].split(" on ")[-1].split(",")[0], second[2].split(" on ")[-1].split(",")[0]} == {"chip 1", "chip 2"}
    for _, plot, caption in (first, second):
        assert caption.startswith("2 backbones")
        assert str(plot).count("<circle") == 2


def test_one_backbone_of_a_device_is_no_plot(tmp_path):
    add(tmp_path, "a", 10.0, device="chip 1", speed=5.0)
    add(tmp_path, "b", 20.0, device="chip 2", speed=5.0)
    assert drawn(tmp_path) == []


def test_parameters_are_the_cost_where_more_backbones_have_them(tmp_path):
    for index, name in enumerate("abc"):
        add(tmp_path, name, 10.0 + index, params=(index + 1) * 1_000_000, device="chip", speed=7.0 if index else None)
    titles = [title for title, _, _ in drawn(tmp_path)]
    assert titles == ["Quality against speed", "Quality against parameters"]
    add(tmp_path, "a", 10.0, params=1_000_000, device="chip", speed=7.0)
    assert [title for title, _, _ in drawn(tmp_path)] == ["Quality against speed"]


def test_fewer_parameters_and_more_images_a_second_are_better(tmp_path):
    add(tmp_path, "small", 10.0, params=1_000_000, device="chip", speed=10.0)
    add(tmp_path, "large", 20.0, params=9_000_000, device="chip", speed=5.0)
    add(tmp_path, "none", 5.0, params=9_000_000, device="chip", speed=5.0)
    add(tmp_path, "unmeasured", 9.0, params=2_000_000)
    (_, speed, of_speed), (_, params, of_params) = drawn(tmp_path)
    assert "large; small" in of_speed and "small; large" in of_params
    assert str(speed).count("var(--accent, #0a78c2); stroke: ") == str(params).count("var(--accent, #0a78c2); stroke: ") == 2


def test_what_was_not_measured_at_the_last_point_has_no_place(tmp_path):
    add(tmp_path, "a", 10.0, params=1_000_000)
    add(tmp_path, "b", 20.0, params=2_000_000)
    write(tmp_path, "c", {(64, 0): 1.0}, params=3_000_000)
    [(_, plot, _)] = drawn(tmp_path)
    assert str(plot).count("<circle") == 2
