"""Contact sheets: pictures in a grid with names, a title and a note; and line charts."""

from __future__ import annotations

import numpy as np
from PIL import Image

from densebench.pictures.curves import line_chart
from densebench.pictures.sheet import WIDEST, sheet

RED, BLUE = (255, 0, 0), (0, 0, 255)


def box(colour, width=80, height=40):
    return Image.new("RGB", (width, height), colour)


def area(picture, colour):
    return int((np.asarray(picture) == colour).all(axis=2).sum())


def bounds(picture, colour):
    """The first and last row and column of a colour."""
    rows, columns = np.nonzero((np.asarray(picture) == colour).all(axis=2))
    return rows.min(), rows.max(), columns.min(), columns.max()


def test_all_pictures_are_there_in_rows_and_columns():
    made = sheet([("", [box(RED), box(BLUE)]), ("", [box(BLUE), box(RED)])], [])
    assert area(made, RED) == area(made, BLUE) == 2 * 80 * 40
    made = sheet([("", [box(RED), box(BLUE)])], [])
    assert bounds(made, RED)[:2] == bounds(made, BLUE)[:2]
    assert bounds(made, RED)[3] < bounds(made, BLUE)[2]
    made = sheet([("", [box(RED)]), ("", [box(BLUE)])], [])
    assert bounds(made, RED)[1] < bounds(made, BLUE)[0]
    assert bounds(made, RED)[2:] == bounds(made, BLUE)[2:]


def test_names_title_and_note_take_room_of_their_own():
    pictures = [("", [box(RED), box(BLUE)])]
    plain = sheet(pictures, [])
    for named in (sheet(pictures, ["one", "two"]), sheet(pictures, [], "Figure 3"), sheet([("row", pictures[0][1])], [])):
        assert named.height > plain.height
        assert area(named, RED) == area(named, BLUE) == 80 * 40
    assert sheet(pictures, [], note="one\ntwo").height > sheet(pictures, [], note="one").height > plain.height


def test_a_column_is_as_wide_as_its_name():
    made = sheet([("", [box(RED, 10), box(BLUE, 10)])], ["a name that is much wider than the picture", "b"])
    assert bounds(made, BLUE)[2] - bounds(made, RED)[2] > 100


def test_a_row_that_is_too_wide_is_reduced():
    made = sheet([("", [box(RED, WIDEST), box(BLUE, WIDEST)]), ("", [box(RED, 80)])], [])
    assert made.width <= WIDEST + 50
    assert bounds(made, BLUE)[3] - bounds(made, BLUE)[2] + 1 == WIDEST // 2


def test_a_chart_of_two_lines_differs_from_one_of_one():
    line = ([1.0, 2.0], [0.1, 0.4])
    one, two = line_chart({"a": line}, "epoch", "ratio"), line_chart({"a": line, "b": ([1.0, 2.0], [0.4, 0.1])}, "epoch", "ratio")
    assert one.size == two.size
    assert np.asarray(one).tobytes() != np.asarray(two).tobytes()
