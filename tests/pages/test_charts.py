"""Charts as inline SVG: where points lie, what the axes say, and what names may hold."""

import math
import re
from xml.etree import ElementTree

import pytest

from densebench.pages.axes import Axis, fitting, nice_step, number
from densebench.pages.charts import Series, line_chart_svg


def chart(*series, **given):
    """Return the text of a chart, which must be well-formed."""
    text = str(line_chart_svg(series, **{"title": "Loss", "along": "epoch", **given}))
    ElementTree.fromstring(text)
    return text


def heights(text):
    """Return the heights of the markers, px from the top, in order."""
    return [float(y) for y in re.findall(r'translate\([\d.]+,([\d.]+)\)"><title>', text)]


def test_a_larger_value_lies_higher():
    low, middle, high = heights(chart(Series("loss", [0, 1, 2], [1.0, 2.0, 3.0])))
    assert low > middle > high
    assert low - middle == pytest.approx(middle - high, abs=0.11)


def test_on_a_logarithmic_axis_factors_are_equally_far_apart():
    first, second, third = heights(chart(Series("loss", [0, 1, 2], [1.0, 10.0, 100.0]), log_y=True))
    assert first - second == pytest.approx(second - third, abs=0.11)


def test_a_value_that_is_not_finite_is_a_gap():
    text = chart(Series("loss", [0, 1, 2, 3, 4], [1.0, 2.0, math.nan, 3.0, 4.0]))
    [line] = re.findall(r'<path d="([^"]+)" fill="none" stroke="currentColor" stroke-width', text)
    assert line.count("M") == 2
    assert len(heights(text)) == 4


@pytest.mark.parametrize("values", [[], [math.nan], [math.inf], [3.0], [0.0, 0.0], [1e30, -1e30], [5e-324, 1.0]])
@pytest.mark.parametrize("log", [False, True])
def test_any_values_give_a_chart(values, log):
    assert "nan" not in chart(Series("loss", list(range(1, len(values) + 1)), values), log_x=log, log_y=log)


def test_names_are_escaped():
    text = chart(Series("<script>alert(1)</script>", [1], [2]), Series('"&', [1], [2]), title="</svg><b>", description="<i>")
    assert "<script>" not in text
    assert "</svg><b>" not in text
    assert "&lt;script&gt;" in text


def test_an_interval_is_a_band_along_a_line_and_a_bar_at_a_point():
    given = {"x": [1, 2], "y": [2, 3], "low": [1, 2], "high": [3, 4]}
    assert 'opacity=".16"' in chart(Series("a", **given))
    assert chart(Series("a", **given, line=False)).count("h8M") == 2


def test_every_one_of_twenty_series_looks_different():
    text = chart(*(Series(f"s{index}", [1, 2], [index, index]) for index in range(20)))
    legend = re.findall(r"<li>(.*?</svg>)", text)
    assert len(set(legend)) == 20


def test_one_series_needs_no_legend():
    assert "legend" not in chart(Series("a", [1], [2]))


def test_ticks_are_round_and_cover_the_range():
    ticks = Axis(0.0, 97.0, 0, 100).ticks(5)
    assert [text for _, text in ticks] == ["0", "20", "40", "60", "80"]
    assert [text for _, text in Axis(0, 60_000, 0, 100).ticks(3)] == ["0", "20k", "40k", "60k"]
    assert [text for _, text in Axis(1, 1e6, 0, 100, log=True).ticks(4)][:2] == ["1", "10"]


@pytest.mark.parametrize(("rough", "step"), [(0.9, 1), (1.1, 2), (3, 5), (0.06, 0.1), (700, 1000)])
def test_a_step_is_1_2_or_5_times_a_power_of_ten(rough, step):
    assert nice_step(rough) == pytest.approx(step)


@pytest.mark.parametrize(("value", "text"), [(0.05, "0.05"), (20_000, "20k"), (1_500_000, "1.5M"), (1e-6, "1e-6"), (0, "0")])
def test_numbers_are_short(value, text):
    assert number(value) == text


def test_the_range_of_one_value_has_it_in_the_middle():
    low, high = fitting([4.0])
    assert low < 4 < high


def test_given_limits_are_kept():
    assert fitting([0.2, 0.4], limits=(0.0, 1.0)) == (0.0, 1.0)
