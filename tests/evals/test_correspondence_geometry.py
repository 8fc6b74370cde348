"""Where keypoints and patches lie: the numbers that the public codes give, by hand."""

from __future__ import annotations

import numpy as np
import pytest
from toy_pairs import pair

from densebench.evals.correspondence.geometry import (
    POSITIONS,
    candidates_of,
    cells_of,
    in_frame,
    in_image,
    patches_in,
    positions_of,
)
from densebench.evals.correspondence.guesses import box_centre, same_place
from densebench.evals.correspondence.pairs import errors, length_of
from densebench.features.padded_views import PaddedView


def placed(width, height, stride, size, fit):
    placement = PaddedView(stride, size, fit).placement(width, height)
    return placement, tuple(side // stride for side in placement.view)


def point(*values):
    return np.array([values], float)


def test_probe3d_predicts_the_corner_of_the_right_patch():
    """A truth at the centre (28, 36) of patch (3, 4) of 8 px in 80 px: an error of .0707, and of .1414 where the box is half."""
    placement, grid = placed(80, 80, 8, 80, "square-corner")
    predicted = positions_of(point(3, 4), placement, grid, "corner")
    assert predicted.tolist() == [[24, 32]]
    error = errors(predicted, point(28, 36), (80, 80), "box")
    assert error == pytest.approx(np.hypot(4, 4), abs=1e-12) == pytest.approx(5.657, abs=1e-3)
    assert error / 80 == pytest.approx(0.0707, abs=1e-4)
    half = length_of(pair(target_box=(0, 0, 40, 20)), (80, 80), "box")
    assert error / half == pytest.approx(0.1414, abs=1e-4) and error > 0.10 * half


def test_sd_dino_puts_a_patch_half_a_pixel_before_its_centre():
    placement, grid = placed(840, 840, 14, 840, "square-centre")
    predicted = positions_of(point(1, 1), placement, grid, "centre-minus-half")
    assert predicted.tolist() == [[20.5, 20.5]]
    assert errors(predicted, point(20, 20), (840, 840), "box") == pytest.approx(0.7071, abs=1e-4)


def test_sd_dino_moves_points_by_the_padding():
    placement, grid = placed(500, 375, 14, 840, "square-centre")
    assert in_frame(point(100, 50), placement).tolist() == [[168, 189]]
    assert cells_of(point(168, 189), placement, grid, "containing").tolist() == [[12, 13]]


def test_a_point_on_the_edge_of_two_patches_is_in_the_second():
    """In float64, 60 / 840 x 168 is a little less than 12."""
    placement, grid = placed(840, 840, 14, 840, "square-centre")
    edges = np.stack([np.arange(0, 840, 14.0)] * 2, axis=1)
    assert cells_of(edges, placement, grid, "containing")[:, 0].tolist() == list(range(60))


def test_probe3d_truncates_twice():
    placement, _ = placed(500, 375, 16, 800, "square-corner")
    assert in_frame(point(100.9, 33.5), placement, "truncated").tolist() == [[160, 52]]  # 52.8
    assert in_frame(point(500, 375), placement, "truncated").tolist() == [[800, 600]]


@pytest.mark.parametrize(("fit", "expected"), [("squash", [21, 21]), ("longer-side", [21, 13]), ("square-corner", [21, 14])])
def test_truncated_points_are_scaled_as_the_image_is(fit, expected):
    """30 x 64 / 90 and 20 x 64 / 60 are 21.3, 20 x 64 / 90 is 14.2, and 19 x 43 / 61 is 13.4."""
    placement, _ = placed(90, 61 if fit == "longer-side" else 60, 8, 64, fit)
    y = 19.9 if fit == "longer-side" else 20.9
    assert in_frame(point(30.7, y), placement, "truncated").tolist() == [expected]


def test_a_whole_product_is_not_truncated_to_the_one_below():
    placement, _ = placed(300, 200, 16, 800, "square-corner")
    points = np.stack([np.arange(0, 300, 3.0)] * 2, axis=1)
    assert in_frame(points, placement, "truncated")[:, 0].tolist() == [8 * third for third in range(100)]


def test_probe3d_does_not_undo_what_fills_the_frame_up():
    """800 px become 812 at 14 px, 58 patches: a column stands for 800 / 58 px."""
    placement, grid = placed(800, 800, 14, 800, "square-corner")
    assert placement.view == (812, 812) and placement.offset == (6, 6) and grid == (58, 58)
    assert positions_of(point(29, 57), placement, grid, "corner")[0] == pytest.approx([400, 57 * 800 / 58])
    assert cells_of(point(0, 800), placement, grid, "bilinear-corners").tolist() == [[0, 57]]


@pytest.mark.parametrize(("x", "bias"), [(8, -1), (112, -8), (216, -15)])
def test_a_perfect_matcher_of_an_image_with_itself_is_biased_under_probe3d(x, bias):
    """224 px at 16: the source is read at x / 224 x 13, and that column times 16 is x - x / 14; centres would be 8 px on."""
    placement, grid = placed(224, 224, 16, 224, "square-corner")
    cell = cells_of(point(x, x), placement, grid, "bilinear-corners")
    found = positions_of(cell, placement, grid, "corner") - x
    assert found[0, 0] == pytest.approx(-x / 14) and found[0, 0] == pytest.approx(bias, abs=0.6)


def test_insid3_rounds_half_to_even_and_stays_on_the_grid():
    placement, grid = placed(100, 50, 16, 768, "squash")
    scaled = in_frame(point(100 * 3.5 / 48, 50 * 2.5 / 48), placement)
    assert cells_of(scaled, placement, grid, "rounded").tolist() == [[4, 2]]
    assert cells_of(in_frame(point(100, 50), placement), placement, grid, "rounded").tolist() == [[47, 47]]
    assert positions_of(point(24, 12), placement, grid, "corner")[0] == pytest.approx([50, 12.5])


def test_clean_reads_and_writes_patch_centres():
    placement, grid = placed(100, 60, 14, 252, "longer-side")
    assert placement.frame == (252, 151) and placement.view == (252, 154) and grid == (18, 11)
    centres = positions_of(point(3, 4), placement, grid, "centre")
    assert centres[0] == pytest.approx([3.5 * 14 * 100 / 252, 4.5 * 14 * 60 / 151])
    assert cells_of(in_frame(centres, placement), placement, grid, "bilinear")[0] == pytest.approx([3, 4])


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("fit", ["longer-side", "square-corner", "square-centre", "squash"])
def test_frames_are_undone(fit, position):
    placement, _ = placed(90, 61, 8, 64, fit)
    points = np.array([[0.0, 0.0], [90, 61], [13.5, 40.25]])
    assert in_image(in_frame(points, placement), placement) == pytest.approx(points)


def test_what_fills_an_image_up_is_not_matched():
    placement, grid = placed(100, 60, 14, 250, "longer-side")  # 250 x 150 px in 252 x 154
    allowed = candidates_of(placement, grid, "inside")
    assert allowed.shape == (11, 18) and allowed.all()  # the last centres lie at 245 of 250 and at 147 of 150
    placement, grid = placed(100, 60, 14, 240, "longer-side")  # 240 x 144 in 252 x 154: centres at 245 and 147 lie outside
    allowed = candidates_of(placement, grid, "inside")
    assert allowed[:-1, :-1].all() and not allowed[-1].any() and not allowed[:, -1].any()
    assert candidates_of(placement, grid, "all").all()


def test_a_sliver_keeps_a_row():
    placement, grid = placed(1000, 10, 14, 252, "longer-side")
    assert candidates_of(placement, grid, "inside").sum(0).tolist() == [1] * 18


def test_patches_of_a_box_are_those_with_a_centre_in_it():
    placement, grid = placed(64, 64, 8, 64, "squash")
    found = patches_in((8.0, 16.0, 24.0, 41.0), placement, grid)
    assert np.argwhere(found).tolist() == [[row, column] for row in (2, 3, 4) for column in (1, 2)]
    assert patches_in(None, placement, grid).all() and patches_in((3.0, 3.0, 3.0, 3.0), placement, grid).sum() == 1


def test_points_outside_take_the_nearest_cell():
    placement, grid = placed(64, 64, 8, 64, "squash")
    for source in ("bilinear", "bilinear-corners", "containing", "rounded"):
        assert cells_of(point(-30, 500), placement, grid, source).tolist() == [[0, 7]]


def test_the_same_place_scales_each_axis():
    assert same_place(pair(source_points=((45, 30),)), (90, 60), (50, 80)).tolist() == [[25, 40]]


def test_the_centre_is_that_of_the_box_else_of_the_picture():
    assert box_centre(pair(target_box=(10, 20, 30, 60)), (50, 80)).tolist() == [[20, 40]]
    assert box_centre(pair(), (50, 80)).tolist() == [[25, 40]]


def test_lengths():
    boxed = pair(target_box=(10, 20, 30, 65))
    assert [length_of(boxed, (50, 80), name) for name in ("box", "picture", "square")] == [45, 80, 1]
    assert length_of(pair(), (50, 80), "box") == 80


def test_errors_on_a_square_weigh_both_axes_alike():
    assert errors(point(50, 0), point(0, 0), (50, 80), "square") == errors(point(0, 80), point(0, 0), (50, 80), "square") == 1


def test_what_fills_a_square_up_shifts_patches_by_its_half():
    """100 px in 112 at a stride of 14: the centre of the first patch lies at 7 - 6 px."""
    placement, grid = placed(100, 50, 14, 100, "square-corner")
    assert placement.offset == (6, 6) and positions_of(point(0, 2), placement, grid, "centre").tolist() == [[1, 29]]
    assert cells_of(point(1, 29), placement, grid, "bilinear").tolist() == [[0, 2]]
    assert cells_of(point(7.9, 8.1), placement, grid, "containing").tolist() == [[0, 1]]


def test_corners_scale_each_axis_to_its_own_last_cell():
    placement, grid = placed(64, 32, 8, 64, "longer-side")
    assert cells_of(point(32, 16), placement, grid, "bilinear-corners").tolist() == [[3.5, 1.5]]


def test_a_centre_on_the_far_edge_is_outside():
    placement, grid = placed(68, 68, 8, 68, "longer-side")
    assert np.argwhere(~candidates_of(placement, grid, "inside")[0]).tolist() == [[8]]


def test_patches_of_a_box_are_scaled_axis_by_axis():
    placement, grid = placed(128, 32, 8, 64, "squash")  # patches of 16 x 4 px
    assert np.argwhere(patches_in((16.0, 4.0, 48.0, 8.0), placement, grid)).tolist() == [[1, 1], [1, 2]]
