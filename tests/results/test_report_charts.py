"""Plots inside of pages: points stand where their values are, names are texts, and nothing in them is markup."""

from __future__ import annotations

import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from densebench.results.charts import COLOURS, HEIGHT, Line, Spot, curves, scatter

NAN = float("nan")
EVIL = "<script>alert('\"&')</script>"


def parsed(markup):
    return ElementTree.fromstring(str(markup))


def all_of(plot, tag):
    return plot.findall(f".//{{http://www.w3.org/2000/svg}}{tag}")


def texts(plot):
    return [(each.itertext(), float(each.get("x")), float(each.get("y"))) for each in all_of(plot, "text")]


def placed(plot, name):
    return next((x, y) for parts, x, y in texts(plot) if name in list(parts))


def circles(plot):
    return [(float(each.get("cx")), float(each.get("cy"))) for each in all_of(plot, "circle")]


def spots(*points):
    return [Spot(f"b{i}", x, y, y - 1, y + 1, i == 0) for i, (x, y) in enumerate(points)]


def test_points_stand_where_their_values_are():
    plot = parsed(scatter(spots((1.0, 10.0), (2.0, 30.0), (4.0, 20.0)), "cost", "mIoU", "seen", factors=True)[0])
    (x1, y1), (x2, y2), (x3, y3) = circles(plot)
    assert x2 - x1 == pytest.approx(x3 - x2, abs=0.11)  # each twice the one before
    assert y1 - y3 == pytest.approx(y3 - y2, abs=0.11)  # 10, 20, 30 upwards
    plain = circles(parsed(scatter(spots((1.0, 10.0), (2.0, 30.0), (4.0, 20.0)), "cost", "mIoU", "seen", factors=False)[0]))
    assert plain[2][0] - plain[1][0] == pytest.approx(2 * (plain[1][0] - plain[0][0]), abs=0.21)


def test_intervals_are_lines_from_end_to_end():
    plot = parsed(
        scatter(
            [Spot("a", 1.0, 10.0, 5.0, 20.0), Spot("b", 2.0, 5.0, NAN, NAN), Spot("c", 3.0, 20.0, NAN, NAN)],
            "x",
            "y",
            "s",
            factors=False,
        )[0]
    )
    x, _ = circles(plot)[0]
    [bar] = [
        each
        for each in all_of(plot, "line")
        if each.get("x1") == each.get("x2") == f"{x:.1f}" and float(each.get("y1")) < HEIGHT - 46
    ]
    heights = {round(y, 1) for _, y in circles(plot)[1:]}
    assert {float(bar.get("y1")), float(bar.get("y2"))} == heights


def test_names_cover_neither_points_nor_each_other_and_those_without_room_are_counted():
    crowd = spots(*((1 + 0.001 * i, 50.0) for i in range(40)), (2.0, 60.0))
    markup, unnamed = scatter(crowd, "x", "y", "s", factors=False)
    names = [place for parts, *place in texts(parsed(markup)) if re.fullmatch(r"b\d+", "".join(parts))]
    assert 0 < unnamed == len(crowd) - len(names)
    assert len({*map(tuple, names)}) == len(names)
    assert str(markup).count("<title>") == len(crowd)


def test_names_at_the_ends_of_curves_are_apart_and_in_order():
    lines = [Line(f"b{i}", [1, 2], [0.0, 50 + i / 10], [NAN] * 2, [NAN] * 2, False) for i in range(10)]
    plot = parsed(curves(lines, "x", "y", "s", [(1, "one"), (2, "two")], factors=False))
    heights = [placed(plot, f"b{i}")[1] for i in range(10)]
    assert all(above - below >= 14.9 for above, below in pairwise(heights))
    assert min(heights) > 0 and max(heights) < HEIGHT


def test_a_band_has_the_ends_of_the_interval_and_a_bar_those_of_the_deviation():
    banded = Line("a", [1, 2], [10.0, 20.0], [5.0, 15.0], [15.0, 25.0], True)
    barred = Line("b", [1, 2], [8.0, 9.0], [7.0, NAN], [9.0, NAN], False)
    plot = parsed(curves([banded, barred], "x", "y", "s", [], factors=False))
    [band] = all_of(plot, "polygon")
    corners = [tuple(map(float, each.split(","))) for each in band.get("points").split()]
    assert len(corners) == 4
    assert corners[0][1] == pytest.approx(corners[2][1])  # 15 is the upper end of the first and the lower one of the second
    assert sum(each.get("d").count("V") for each in all_of(plot, "path")) == 1


@pytest.mark.parametrize("name", [EVIL, "x" * 500, "名前 ✓", "a]]>b"])
def test_any_name_is_harmless(name):
    line = Line(name, [1, 2], [1.0, 2.0], [NAN] * 2, [NAN] * 2, False)
    for markup in (
        curves([line], name, name, name, [(1, name)], factors=False),
        scatter([Spot(name, 1, 1, 0, 2)], name, name, name, factors=True)[0],
    ):
        plot = parsed(markup)
        assert "<script" not in str(markup)
        assert name in {each.get("aria-label") for each in plot.iter()}


def test_equal_values_have_a_plot():
    assert len(circles(parsed(scatter(spots((1.0, 0.0), (1.0, 0.0)), "x", "y", "s", factors=True)[0]))) == 2


@pytest.mark.parametrize("paper", ["#ffffff", "#12171e"])
def test_colours_of_lines_stand_out_on_light_and_on_dark_paper(paper):
    def luminance(colour):
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for colour in COLOURS:
        low, high = sorted((luminance(colour), luminance(paper)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour
