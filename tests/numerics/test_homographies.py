"""Homographies: what they do to points and pictures, how they are drawn and measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from densebench.numerics import homographies as h

RANGES = {"jitter": 0.1, "rotation": 45.0, "scale": 1.4, "overlap": 0.5}


def drawn(seed, height=96, width=128, **changed):
    return h.sample_homography(np.random.default_rng(seed), height, width, **{**RANGES, **changed})


def shift(x, y):
    return np.array([[1.0, 0, x], [0, 1, y], [0, 0, 1]])


def turned(degrees, scale=1.0):
    c, s = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1.0]])


def test_corners_go_where_they_are_told():
    moved = np.array([[3.0, 5], [90, 2], [80, 70], [-4, 64]])
    assert np.allclose(h.apply(h.from_corners(h.corners(60, 90), moved), h.corners(60, 90)), moved)


def test_a_point_by_hand():
    perspective = np.array([[1.0, 0, 0], [0, 1, 0], [0.01, 0, 1]])
    assert np.allclose(h.apply(perspective, np.array([[100.0, 40]])), [[50, 20]])


def test_without_ranges_the_homography_is_the_identity():
    assert np.array_equal(drawn(0, jitter=0.0, rotation=0.0, scale=1.0), np.eye(3))


def test_the_seed_decides_the_homography():
    assert np.array_equal(drawn(3), drawn(3)) and not np.allclose(drawn(3), drawn(4))


def test_draws_are_convex_keep_the_overlap_and_stay_in_their_ranges():
    measured = []
    for seed in range(60):
        found = drawn(seed)
        assert h.is_convex(h.apply(found, h.corners(96, 128)))
        assert h.overlap_of(found, 96, 128) >= 0.5
        measured.append(h.measures(found, 96, 128))
    angles, scales, tilts = np.array(measured).T
    assert angles.max() > 30 and scales.min() < 0.85 and scales.max() > 1.15
    assert (tilts >= 1).all() and tilts.max() < 10


def test_a_rotation_without_jitter_is_within_its_limit():
    angles = [h.measures(drawn(seed, jitter=0.0, scale=1.0, rotation=20.0), 96, 128)[0] for seed in range(40)]
    assert 15 < max(angles) <= 20


def test_ranges_that_leave_no_overlap_are_refused(monkeypatch):
    monkeypatch.setattr(h, "TRIES", 20)
    with pytest.raises(h.NoHomographyError, match="0.99"):
        drawn(0, rotation=0.0, scale=1.0, jitter=0.4, overlap=0.99)


@pytest.mark.parametrize(
    ("quad", "convex"),
    [
        ([[0, 0], [4, 0], [4, 4], [0, 4]], True),
        ([[0, 0], [4, 0], [1, 1], [0, 4]], False),
        ([[0, 0], [4, 4], [4, 0], [0, 4]], False),
        ([[0, 0], [0, 4], [4, 4], [4, 0]], False),
        ([[0, 0], [2, 0], [4, 0], [0, 4]], False),
    ],
    ids=["square", "dent", "crossed", "mirrored", "flat"],
)
def test_convex_by_hand(quad, convex):
    assert h.is_convex(np.array(quad, float)) is convex


def test_area_and_clipping_by_hand():
    diamond = np.array([[5.0, -5], [15, 5], [5, 15], [-5, 5]])
    assert h.area(diamond) == 200
    assert h.area(h.clipped(diamond, 10, 10)) == pytest.approx(100)
    assert h.area(h.clipped(diamond + 40, 10, 10)) == 0


def test_overlap_by_hand_and_of_the_inverse():
    assert h.overlap_of(shift(32, 0), 96, 128) == pytest.approx(0.75)
    half = turned(0, 0.5)
    assert h.overlap_of(half, 96, 128) == pytest.approx(0.25)
    for seed in range(5):
        found = drawn(seed)
        assert h.overlap_of(found, 96, 128) == pytest.approx(h.overlap_of(np.linalg.inv(found), 96, 128))


def test_overlap_is_the_share_of_points_that_stay_inside():
    found = drawn(11)
    y, x = np.mgrid[0:96, 0:128] + 0.5
    points = np.stack([x.ravel(), y.ravel()], 1)
    shares = []
    for each in (found, np.linalg.inv(found)):
        moved = h.apply(each, points)
        shares.append(((moved > 0) & (moved < [128, 96])).all(1).mean())
    assert min(shares) == pytest.approx(h.overlap_of(found, 96, 128), abs=0.005)


def test_measures_by_hand():
    assert h.measures(np.eye(3), 96, 128) == (0, 1, 1)
    angle, scale, tilt = h.measures(turned(-30, 1.25), 96, 128)
    assert (angle, scale, tilt) == pytest.approx((30, 1.25, 1))
    perspective = np.array([[1.0, 0, 0], [0, 1, 0], [0.01, 0, 1]])
    assert h.measures(perspective, 100, 100)[2] == pytest.approx(2**1.5)  # the area of a spot shrinks as the cube of 1 + x / 100


def test_the_jacobian_is_the_derivative():
    found, step = drawn(5), 1e-5
    points = np.array([[40.0, 30], [40 + step, 30], [40, 30 + step]])
    moved = h.apply(found, points)
    assert np.allclose(h.jacobian(found, 40.0, 30.0), ((moved[1:] - moved[0]) / step).T, atol=1e-4)


@pytest.mark.parametrize("shape", [(37, 53), (224, 224), (1, 5), (7, 1)])
def test_the_identity_changes_no_bit(shape):
    for image in (torch.rand(3, *shape), (torch.rand(3, *shape) > 0.5).float()):  # black beside white shows the least rounding
        assert torch.equal(h.warp(image, np.eye(3)), image)


def test_a_shift_by_whole_pixels_copies_values_exactly():
    image = torch.rand(3, 40, 48)
    warped = h.warp(image, shift(16, -8), fill=0.25)
    assert torch.equal(warped[:, :32, 16:], image[:, 8:, :32])
    assert (warped[:, :, :16] == 0.25).all() and (warped[:, 32:] == 0.25).all()


def test_a_quarter_turn_turns_the_picture():
    image = torch.rand(3, 20, 20)
    quarter = shift(20, 0) @ turned(90)
    assert torch.allclose(h.warp(image, quarter), image.rot90(-1, (1, 2)), atol=1e-6)


def test_a_quarter_turn_about_the_centre_of_a_wide_picture_is_exact():
    image = torch.rand(3, 12, 20)
    about_centre = np.array([[0.0, -1, 16], [1, 0, -4], [0, 0, 1]])  # x right and y down: the picture turns clockwise
    square = torch.zeros(3, 20, 20)
    square[:, 4:16] = image
    assert torch.equal(h.warp(image, about_centre), square.rot90(-1, (1, 2))[:, 4:16])


def naive_warp(image, homography, fill):
    """Each pixel by loops: the inverse, four neighbours, weights; the border's pixels reach to the edge."""
    channels, height, width = image.shape
    inverse, result = np.linalg.inv(homography), np.full(image.shape, fill)
    for row in range(height):
        for column in range(width):
            x, y, w = inverse @ [column + 0.5, row + 0.5, 1]
            x, y = x / w, y / w
            if not (0 <= x <= width and 0 <= y <= height):
                continue
            x, y = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
            left, top = min(int(x), width - 2), min(int(y), height - 2)
            a, b = x - left, y - top
            for c in range(channels):
                part = image[c, top : top + 2, left : left + 2]
                upper, lower = part[0, 0] * (1 - a) + part[0, 1] * a, part[1, 0] * (1 - a) + part[1, 1] * a
                result[c, row, column] = upper * (1 - b) + lower * b
    return result


def test_a_warp_is_what_loops_give():
    image = np.random.default_rng(0).random((2, 18, 23))
    found = drawn(2, 18, 23)
    assert np.allclose(h.warp(torch.from_numpy(image), found, 0.5).numpy(), naive_warp(image, found, 0.5))


def test_warping_back_gives_a_smooth_picture_again():
    y, x = np.mgrid[0:96, 0:128] / 128
    image = torch.from_numpy(np.stack([x, y, x * y]))
    found = drawn(8)
    back = h.warp(h.warp(image, found, -1.0), np.linalg.inv(found), -1.0)
    seen = back.amin(0) > 0.02
    assert seen.float().mean() > 0.4
    assert (back - image).abs()[:, seen].max() < 0.02
