"""Shapes become label maps: the rule for pixels by hand, by loops and beside pycocotools."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.bridges.torchvision.masks import decode
from densebench.datasets.folders.shapes import Drawing, Ellipse, Polygons, Runs, turned

IDS = {"a": 1, "b": 2, "c": 3}


def paint(*shapes, width=6, height=5, outside=0, smaller_on_top=False):
    return Drawing((width, height), shapes, smaller_on_top).paint(IDS, outside)


def polygon(label, *ring):
    return label, Polygons((ring,))


def test_a_box_on_the_grid_covers_exactly_its_pixels():
    assert paint(polygon("a", 1, 1, 4, 1, 4, 3, 1, 3)).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_a_left_edge_through_centres_counts_and_a_right_one_does_not():
    assert paint(polygon("a", 1.5, 0.5, 3.5, 0.5, 3.5, 2.5, 1.5, 2.5))[:3].tolist() == [
        [0, 1, 1, 0, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_a_triangle():
    assert paint(polygon("a", 0, 0, 4, 0, 0, 4)).tolist() == [
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_what_reaches_out_of_the_image_is_cut_off():
    assert (paint(polygon("a", -9, -9, 99, -9, 99, 99, -9, 99)) == 1).all()
    assert not paint(polygon("a", 7, 1, 9, 1, 9, 3)).any()


def test_a_disc_of_radius_one_and_a_half():
    assert paint(("a", Ellipse(2.5, 2.5, 1.5, 1.5))).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 1, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 0],
    ]


def test_a_turned_ellipse_is_its_transpose():
    upright = paint(("a", Ellipse(3, 3, 2.9, 1.2)), width=6, height=6)
    assert (paint(("a", Ellipse(3, 3, 2.9, 1.2, 90.0)), width=6, height=6) == upright.T).all()
    assert upright.sum() == 12


def test_a_turned_box_covers_the_box_of_the_swapped_sides():
    assert (
        paint(("a", turned((1, 2, 5, 4), 90.0)), width=6, height=6) == paint(polygon("a", 2, 1, 4, 1, 4, 5, 2, 5), height=6)
    ).all()


@pytest.mark.parametrize("outline", [Ellipse(4.5, 4.5, 4, 0.8, 45.0), turned((0.5, 4, 8.5, 5), 45.0)])
def test_what_is_turned_clockwise_goes_down_on_the_right(outline):
    painted = paint(("a", outline), width=9, height=9)
    assert painted[6, 6] == painted[2, 2] == 1
    assert painted[2, 6] == painted[6, 2] == 0


@pytest.mark.parametrize(("by_column", "rows"), [(False, [[0, 1, 1], [0, 0, 1]]), (True, [[0, 1, 0], [1, 0, 1]])])
def test_runs_go_along_rows_or_down_columns(by_column, rows):
    runs = Runs(2, 1, 3, 2, (1, 2, 2, 1), by_column)
    expected = np.zeros((5, 6), int)
    expected[1:3, 2:5] = rows
    assert (paint(("a", runs)) == expected).all()


def test_runs_that_begin_inside_are_cut_off_on_the_right_side():
    assert paint(("a", Runs(-1, 0, 3, 1, (1, 1, 1))), ("b", Runs(0, -2, 1, 4, (3, 1))))[:3, :3].tolist() == [
        [1, 0, 0],
        [2, 0, 0],
        [0, 0, 0],
    ]


def test_runs_are_cut_off_at_the_image():
    assert paint(("a", Runs(-1, -1, 3, 3, (0, 9))))[:3, :3].tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_the_later_shape_is_on_top_or_the_smaller_one():
    small, large = polygon("a", 1, 1, 2, 1, 2, 2, 1, 2), polygon("b", 0, 0, 4, 0, 4, 4, 0, 4)
    assert paint(small, large)[1, 1] == 2
    assert paint(small, large, smaller_on_top=True)[1, 1] == 1
    assert paint(large, small)[1, 1] == 1


def test_whatever_is_painted_otherwise_has_another_identity():
    small, large = polygon("a", 1, 1, 2, 1, 2, 2, 1, 2), polygon("b", 0, 0, 4, 0, 4, 4, 0, 4)
    relabelled = ("c", small[1])
    lists = [(small, large), (large, small), (relabelled, large)]
    drawings = [Drawing((6, 5), shapes, on_top) for shapes in lists for on_top in (False, True)] + [Drawing((5, 6), lists[0])]
    assert len({json.dumps(drawing.identity()) for drawing in drawings}) == 7


def test_of_equal_shapes_the_later_one_is_on_top():
    one = (1, 1, 2, 1, 2, 2, 1, 2)
    assert paint(polygon("a", *one), polygon("b", *one), smaller_on_top=True)[1, 1] == 2


def test_outside_all_shapes():
    assert (paint(outside=255) == 255).all()


def test_parts_of_one_object_are_joined_and_do_not_cut_one_another():
    parts = Polygons(((0, 0, 3, 0, 3, 3, 0, 3), (1, 1, 5, 1, 5, 2, 1, 2)))
    assert paint(("a", parts)).sum() == 9 + 2


def enclosed(ring, x, y):
    """Count the edges to the left of a point, one by one."""
    count = 0
    for (xa, ya), (xb, yb) in zip(ring, ring[1:] + ring[:1], strict=True):
        if (ya <= y) != (yb <= y) and xa + (y - ya) / (yb - ya) * (xb - xa) <= x:
            count += 1
    return count % 2


points = st.tuples(st.integers(-8, 40), st.integers(-8, 40)).map(lambda pair: (pair[0] / 3, pair[1] / 3 + 0.01))


@settings(max_examples=40, deadline=None)
@given(st.lists(points, min_size=3, max_size=9))
def test_polygons_by_loops(ring):
    found = paint(polygon("a", *(value for point in ring for value in point)), width=12, height=11)
    assert found.tolist() == [[enclosed(ring, x + 0.5, y + 0.5) for x in range(12)] for y in range(11)]


@settings(max_examples=40, deadline=None)
@given(points, st.lists(points, min_size=4, max_size=4, unique=True))
def test_polygons_that_share_edges_leave_no_gap(middle, corners):
    corners.sort(key=lambda corner: math.atan2(corner[1] - middle[1], corner[0] - middle[0]))
    whole = paint(polygon("a", *(value for corner in corners for value in corner)), width=12, height=11)
    total = np.zeros_like(whole)
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        total ^= paint(polygon("a", *middle, *start, *end), width=12, height=11)
    assert (total == whole).all()


def test_pycocotools_differs_only_along_the_edges():
    random = np.random.default_rng(0)
    for _ in range(20):
        angles = np.sort(random.uniform(0, 2 * np.pi, 8))
        ring = np.stack([40 + 30 * np.cos(angles), 35 + 25 * np.sin(angles)], axis=1).ravel().tolist()
        ours = paint(polygon("a", *ring), width=80, height=70).astype(bool)
        theirs = decode([[ring]], 70, 80, "x")[0].astype(bool)
        inner = ours[1:-1, 1:-1] & ours[:-2, 1:-1] & ours[2:, 1:-1] & ours[1:-1, :-2] & ours[1:-1, 2:]
        outer = ours[1:-1, 1:-1] | ours[:-2, 1:-1] | ours[2:, 1:-1] | ours[1:-1, :-2] | ours[1:-1, 2:]
        assert (inner <= theirs[1:-1, 1:-1]).all()
        assert (theirs[1:-1, 1:-1] <= outer).all()
