"""Figures of a log, as lines of a chart."""

import numpy as np
import pytest

from densebench.training.logged import Figure, read_logged


def figure(values, every=1):
    return Figure("loss", np.arange(1, len(values) + 1) * every, np.array(values, float))


def parts(series):
    return [list(each) for each in (series.x, series.y, series.low, series.high)]


def written(folder, text):
    (folder / "log.csv").write_text(text)
    return read_logged(folder / "log.csv")


def test_a_short_line_is_what_was_logged():
    line = figure([3, 2, np.inf, 1], every=2).line(4, "loss")
    assert parts(line) == [[0.5, 1.0, 1.5, 2.0], [3, 2, np.inf, 1], [], []]


def test_a_long_line_is_means_of_stretches_with_their_range():
    values = [float(index % 7) for index in range(1000)]
    values[500] = 99.0
    line = figure(values).line(10, "loss", most=100)
    stretches = [values[start : start + 10] for start in range(0, 1000, 10)]
    assert line.x == pytest.approx([(start + 10) / 10 for start in range(0, 1000, 10)])
    assert line.y == pytest.approx([sum(each) / 10 for each in stretches])
    assert (line.low, line.high) == ([min(each) for each in stretches], [max(each) for each in stretches])


@pytest.mark.parametrize("length", [101, 150, 997])
def test_a_long_line_keeps_every_value_once(length):
    line = figure(range(length)).line(1, "loss", most=100)
    assert len(line.x) == 100
    assert line.low[0] == 0
    assert all(low == high + 1 for high, low in zip(line.high, line.low[1:], strict=False))
    assert line.high[-1] == length - 1


def test_means_by_epoch_end_where_the_epoch_ends():
    line = figure([0.1, 0.3, 0.5, np.inf, 0.8, 1.0], every=4).by_epoch(8, "ratio")
    assert np.allclose(parts(line), [[1, 2, 3], [0.2, 0.5, 0.9], [0.1, 0.5, 0.8], [0.3, 0.5, 1.0]])


def test_many_epochs_are_taken_together():
    line = figure([1, 2, 3, 4, 5]).by_epoch(1, "ratio", most=2)
    assert parts(line)[:2] == [[3, 6], [2, 4.5]]


def test_nothing_finite_is_an_empty_line():
    assert parts(figure([np.inf, -np.inf]).by_epoch(1, "ratio")) == [[], [], [], []]


def test_rows_that_were_logged_again_are_in_the_order_of_steps(tmp_path):
    (tmp_path / "log.csv").write_text("step,epoch,loss\n2,2,5\n1,1,7\n")
    logged = read_logged(tmp_path / "log.csv")
    assert logged.figures["loss"].values.tolist() == [7, 5]
    assert (logged.step, logged.per_epoch) == (2, 1)


def test_a_step_of_hundreds_of_digits_is_left_out(tmp_path):
    log = written(tmp_path, f"step,loss\n1,3.5\n{'9' * 400},2.5\n4,1.5\n")
    assert log.figures["loss"].steps.tolist() == [1, 4]


def test_an_epoch_that_no_training_has_says_nothing_of_the_steps_of_an_epoch(tmp_path):
    assert written(tmp_path, "step,epoch\n4,2\n6,1e308\n").per_epoch == 2
    assert written(tmp_path, "step,epoch\n6,1e-308\n").per_epoch is None
