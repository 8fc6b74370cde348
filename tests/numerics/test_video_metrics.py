"""J, F and their statistics: cases worked out by hand, loops that restate the official evaluation, invariances.

Perazzi et al., CVPR 2016; Pont-Tuset et al., The 2017 DAVIS Challenge on Video Object Segmentation, 2017.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from densebench.numerics import video as vm
from densebench.numerics.bootstrap import bootstrap_mean_of_objects


def mask(*rows):
    return np.array([[character == "#" for character in row] for row in rows])


def blob(seed, shape=(23, 31), share=0.5):
    """A mask of smooth outline."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    field = sum(np.cos((a * y + b * x) / 7 + c) for a, b, c in rng.uniform(-1, 1, (4, 3)) * (3, 3, 6))
    return field > np.quantile(field, 1 - share)


def naive_boundary(seg):
    found = np.zeros(seg.shape, bool)
    h, w = seg.shape
    for i, j in itertools.product(range(h), range(w)):
        neighbours = []
        if i < h - 1 and j < w - 1:
            neighbours = [(i, j + 1), (i + 1, j), (i + 1, j + 1)]
        elif i == h - 1 and j < w - 1:
            neighbours = [(i, j + 1)]
        elif i < h - 1:
            neighbours = [(i + 1, j)]
        found[i, j] = any(seg[i, j] != seg[place] for place in neighbours)
    return found


def naive_dilation(points, radius):
    found = np.zeros_like(points)
    h, w = points.shape
    for i, j in np.argwhere(points):
        for y, x in itertools.product(range(i - radius, i + radius + 1), range(j - radius, j + radius + 1)):
            if 0 <= y < h and 0 <= x < w and (y - i) ** 2 + (x - j) ** 2 <= radius**2:
                found[y, x] = True
    return found


def naive_f(prediction, truth, tolerance):
    radius = int(np.ceil(tolerance * np.linalg.norm(prediction.shape)))
    own, there = naive_boundary(prediction), naive_boundary(truth)
    n_own, n_there = own.sum(), there.sum()
    if n_own == 0 and n_there > 0:
        precision, recall = 1, 0
    elif n_own > 0 and n_there == 0:
        precision, recall = 0, 1
    elif n_own == 0 and n_there == 0:
        precision, recall = 1, 1
    else:
        precision = (own & naive_dilation(there, radius)).sum() / n_own
        recall = (there & naive_dilation(own, radius)).sum() / n_there
    return 0 if precision + recall == 0 else 2 * precision * recall / (precision + recall)


def test_j_by_hand():
    truth = mask("##..", "##..")
    assert vm.jaccard(mask("##..", "...."), truth) == 0.5
    assert vm.jaccard(mask(".##.", ".##."), truth) == pytest.approx(2 / 6)
    assert vm.jaccard(truth, truth) == 1
    empty = np.zeros_like(truth)
    assert (vm.jaccard(empty, truth), vm.jaccard(truth, empty), vm.jaccard(empty, empty)) == (0, 0, 1)


def test_the_boundary_lies_before_the_change():
    found = vm.boundary_map(mask(".....", ".##..", ".##..", "....."))
    np.testing.assert_array_equal(found, mask("###..", "#.#..", "###..", "....."))


def test_the_last_row_and_column_look_one_way_only():
    np.testing.assert_array_equal(vm.boundary_map(mask("..", ".#")), mask("##", "#."))
    np.testing.assert_array_equal(vm.boundary_map(mask("...", "..#")), mask(".##", ".#."))
    np.testing.assert_array_equal(vm.boundary_map(mask("..", "..", "#.")), mask("..", "#.", "#."))
    assert not vm.boundary_map(np.ones((4, 5), bool)).any()


@pytest.mark.parametrize("seed", range(6))
def test_boundary_against_the_loop(seed):
    noisy = np.random.default_rng(seed).random((9, 14)) < 0.3
    for seg in (noisy, blob(seed), np.ascontiguousarray(blob(seed).T)):
        np.testing.assert_array_equal(vm.boundary_map(seg), naive_boundary(seg))


@pytest.mark.parametrize("seed", range(8))
def test_f_against_dilation_by_a_disk(seed):
    truth, prediction = blob(seed), blob(seed + 100, share=0.3)
    for tolerance in (0.008, 0.03, 0.05, 0.1):
        assert vm.boundary_f(prediction, truth, tolerance) == pytest.approx(naive_f(prediction, truth, tolerance), abs=1e-12)
    shifted = np.roll(truth, 1 + seed % 3, axis=seed % 2)
    assert 0 < vm.boundary_f(shifted, truth, 0.03) == pytest.approx(naive_f(shifted, truth, 0.03), abs=1e-12)


def test_precision_and_recall_are_not_exchanged():
    truth, more = mask("......", ".##...", ".##...", "......"), mask("......", ".##..#", ".##...", "......")
    own, there = naive_boundary(more), naive_boundary(truth)
    radius = math.ceil(0.008 * math.hypot(4, 6))
    near = (own & naive_dilation(there, radius)).sum()
    assert near < own.sum()
    expected = 2 * (near / own.sum()) / (1 + near / own.sum())
    assert vm.boundary_f(more, truth) == vm.boundary_f(truth, more) == pytest.approx(expected)


def test_f_without_a_boundary():
    square = mask("....", ".#..", "....")
    empty, full = np.zeros((3, 4), bool), np.ones((3, 4), bool)
    assert vm.boundary_f(empty, empty) == vm.boundary_f(full, empty) == vm.boundary_f(full, full) == 1
    assert vm.boundary_f(empty, square) == vm.boundary_f(square, empty) == 0


@pytest.mark.parametrize(("apart", "expected"), [(5, 1.0), (6, 0.0)])
def test_the_disk_has_the_published_radius(apart, expected):
    """480 x 100 px: ceil(0.008 x 490.3) = 4; 300 x 400: ceil(0.008 x 500) = 4, exactly; lines 4 apart match, 5 apart do not."""
    for shape in ((480, 100), (300, 400)):
        left, right = np.zeros((2, *shape), bool)
        left[:, :20], right[:, : 20 + apart - 1] = True, True
        assert vm.boundary_f(left, right) == expected


def test_the_neighbourhood_is_a_disk_and_no_square():
    shape = (300, 400)
    one, other = np.zeros((2, *shape), bool)
    one[:100, :100], other[:103, :103] = True, True  # corners are (3, 3) apart: 4.24 px, more than 4
    assert vm.boundary_f(one, other) == pytest.approx(naive_f(one, other, 0.008)) and vm.boundary_f(one, other) < 1


def official_statistics(values):
    """As the official code has it, 8-bit edges included."""
    edges = (np.round(np.linspace(1, len(values), 5) + 1e-10) - 1).astype(np.uint8)
    bins = [values[edges[i] : edges[i + 1] + 1] for i in range(4)]
    return np.nanmean(values), np.nanmean(values > 0.5), np.nanmean(bins[0]) - np.nanmean(bins[3])


def test_statistics_by_hand():
    """Nine frames: edges 0, 2, 4, 6, 8; the first bin is frames 0 to 2, the last 6 to 8."""
    values = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
    assert vm.statistics(values) == pytest.approx((0.5, 4 / 9, 0.8 - 0.2))
    assert vm.statistics(values[::-1].copy()).decay == pytest.approx(-0.6)
    assert vm.statistics(np.array([0.25])) == (0.25, 0, 0)


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 5, 6, 7, 8, 38, 41, 48, 102, 254, 255])
def test_statistics_against_the_official_ones(frames):
    values = np.random.default_rng(frames).random(frames)
    assert vm.statistics(values) == pytest.approx(official_statistics(values), abs=1e-12)


def test_bins_go_on_beyond_255_frames():
    values = np.concatenate([np.ones(200), np.zeros(200)])
    assert vm.statistics(values).decay == 1


def test_frames_without_a_value():
    values = np.array([1.0, np.nan, 0.6, 0.2])
    assert vm.statistics(values).mean == pytest.approx(0.6)
    assert vm.statistics(values).recall == 0.5


def test_objects_that_are_missing_disappear_or_never_were():
    truth = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 3], [0, 0, 0, 3]], np.uint8)
    prediction = np.array([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0], [2, 0, 0, 0]], np.uint8)
    scores = vm.object_scores(prediction, truth, 4)
    np.testing.assert_array_equal(scores, [[1, 1], [0, 0], [0, 0], [1, 1]])  # 2 is predicted alone, 3 is missed, 4 is in neither
    np.testing.assert_array_equal(vm.object_scores(prediction, truth, 1), [[1, 1]])


def test_scores_do_not_depend_on_orientation_where_they_should_not():
    truth, prediction = blob(1, (30, 40)).astype(np.uint8), blob(2, (30, 40)).astype(np.uint8)
    turned = vm.object_scores(np.ascontiguousarray(prediction.T), np.ascontiguousarray(truth.T), 1)
    np.testing.assert_allclose(turned, vm.object_scores(prediction, truth, 1), atol=1e-12)


def test_the_bootstrap_weighs_sequences_by_their_objects():
    sums, objects = np.array([3.0, 0.5, 4.0]), np.array([3, 1, 5])
    drawn = bootstrap_mean_of_objects(sums, objects, resamples=400)
    times = np.random.Generator(np.random.PCG64(0)).multinomial(3, [1 / 3] * 3, size=400)
    expected = [
        sum(n * s for n, s in zip(t, sums, strict=True)) / sum(n * o for n, o in zip(t, objects, strict=True)) for t in times
    ]
    np.testing.assert_allclose(drawn, expected)
    np.testing.assert_allclose(bootstrap_mean_of_objects(0.25 * objects, objects), 0.25)
    np.testing.assert_allclose(bootstrap_mean_of_objects(2 * sums, objects, resamples=400), 2 * drawn)
