"""Matches by the ratio test, recall, and points seen by cameras: cases by hand, loops, and what changes nothing."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from densebench.errors import UserError
from densebench.evals.geometric_correspondence import geometry, matching


def features(count, seed, width=12):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def by_angle(*cosines):
    """Unit vectors with these cosines to (1, 0)."""
    return torch.tensor([[c, math.sqrt(1 - c * c)] for c in cosines])


def test_cosines_of_90_and_80_percent_have_the_weight_one_half():
    distances, match = matching.two_nearest(torch.tensor([[3.0, 0.0]]), by_angle(0.3, 0.8, 0.9))
    assert distances[0].tolist() == pytest.approx([0.1, 0.2], abs=1e-6)
    assert match.tolist() == [2]
    assert matching.ratio_weights(distances).tolist() == pytest.approx([0.5], abs=1e-5)


def test_equal_features_have_no_weight():
    distances, match = matching.two_nearest(torch.ones(3, 4), torch.ones(5, 4))
    assert match.tolist() == [0, 0, 0]
    assert matching.ratio_weights(distances.clamp(max=0)).tolist() == [0, 0, 0]


def test_a_single_target_is_its_own_second():
    distances, match = matching.two_nearest(features(4, 0), features(1, 1))
    assert match.tolist() == [0] * 4
    assert matching.ratio_weights(distances).tolist() == [0] * 4


def test_matches_are_what_loops_give():
    source, target = features(7, 2), features(9, 3)
    distances, match = matching.two_nearest(source, target)
    mutual = matching.is_mutual(source, target, torch.arange(7), match)
    for row in range(7):
        cosines = [float(F.cosine_similarity(source[row], each, dim=0)) for each in target]
        order = sorted(range(9), key=lambda index: -cosines[index])
        assert int(match[row]) == order[0]
        assert distances[row].tolist() == pytest.approx([1 - cosines[index] for index in order[:2]], abs=1e-6)
        back = [float(F.cosine_similarity(each, target[order[0]], dim=0)) for each in source]
        assert bool(mutual[row]) == (back.index(max(back)) == row)


def test_lengths_of_features_change_no_match():
    source, target = features(20, 4), features(30, 5)
    lengths = torch.linspace(0.1, 9, 30)[:, None]
    first, second = matching.two_nearest(source, target), matching.two_nearest(7 * source, lengths * target)
    assert torch.equal(first[1], second[1]) and torch.allclose(first[0], second[0], atol=1e-6)


def test_the_order_of_targets_changes_no_distance():
    source, target = features(20, 4), features(30, 5)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    first, second = matching.two_nearest(source, target), matching.two_nearest(source, target[order])
    assert torch.equal(first[1], order[second[1]]) and torch.allclose(first[0], second[0], atol=1e-6)


def test_features_that_are_not_finite_are_refused():
    with pytest.raises(UserError, match="not finite"):
        matching.two_nearest(torch.full((2, 3), torch.nan), features(4, 0, 3))


def test_the_largest_weights_are_kept_and_ties_go_to_the_lowest_index():
    weights = torch.tensor([0.5, 0.1, 0.5, 0.9, 0.5])
    assert matching.largest(weights, 3).tolist() == [3, 0, 2]
    assert sorted(matching.largest(weights, 1000).tolist()) == [0, 1, 2, 3, 4]


def test_an_error_of_a_threshold_is_not_within_it():
    shares = matching.shares_within(torch.tensor([5.0, 4.9, 10.0, 30.0]), [5.0, 10.0, 31.0])
    assert shares.tolist() == [0.25, 0.5, 1]


def test_20_px_of_a_picture_of_640_are_5_of_the_quarter_grid():
    focal = (577.0 / 4, 577.0 / 4)
    points = geometry.unprojected(torch.tensor([[80.0, 60.0], [85.0, 60.0]]), torch.ones(2), focal, (80.0, 60.0))
    error = (geometry.projected(points[:1], focal) - geometry.projected(points[1:], focal)).norm(dim=1)
    assert float(error) == pytest.approx(5)
    assert matching.shares_within(torch.tensor([5.0]), [5.0]).tolist() == [0]


def test_the_area_under_recall_of_four_errors():
    assert matching.area_under_recall(torch.tensor([3.0, 1, 4, 2]), 5.0) == pytest.approx(0.6)
    assert matching.area_under_recall(torch.tensor([9.0, 7.0]), 5.0) == 0


def test_the_area_under_recall_is_a_mean_over_thresholds():
    errors = 6 * torch.rand(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ordered = [0.0, *sorted(errors.tolist())]

    def recall(limit):
        after = next((index for index, error in enumerate(ordered) if error > limit), None)
        if after is None or ordered[after] >= 4:
            return sum(error < 4 for error in ordered[1:] if error <= limit) / 40
        return (after - 1 + (limit - ordered[after - 1]) / (ordered[after] - ordered[after - 1])) / 40

    steps = [recall((index + 0.5) / 5000 * 4) for index in range(5000)]
    assert matching.area_under_recall(errors, 4.0) == pytest.approx(sum(steps) / 5000, abs=1e-4)


def test_a_bin_holds_its_lower_edge_alone():
    first, second = matching.in_bins(torch.tensor([0.0, 29.9, 30.0, 60.0, -1.0]), [0.0, 30.0, 60.0])
    assert first.tolist() == [True, True, False, False, False]
    assert second.tolist() == [False, False, True, False, False]


def about_z(degrees):
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return torch.tensor([[c, -s, 0], [s, c, 0], [0, 0, 1.0]], dtype=torch.float64)


@pytest.mark.parametrize("degrees", [0, 30, 90, 179, 180])
def test_the_angle_of_a_rotation(degrees):
    assert geometry.rotation_angle(about_z(degrees)) == pytest.approx(degrees, abs=1e-5)


def test_a_trace_of_one_is_a_quarter_turn():
    assert float(about_z(90).diagonal().sum()) == pytest.approx(1)
    assert geometry.rotation_angle(about_z(90)) == pytest.approx(90)


def test_the_angle_does_not_depend_on_the_frame():
    frame = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    assert geometry.rotation_angle(frame @ about_z(47) @ frame.T) == pytest.approx(47)


def test_a_point_is_seen_where_it_came_from():
    places = 100 * torch.rand(20, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    depth = torch.linspace(0.5, 3, 20, dtype=torch.float64)
    points = geometry.unprojected(places, depth, (90.0, 80.0), (50.0, 48.0))
    assert torch.allclose(points[:, 2], depth)
    assert torch.allclose(geometry.projected(points, (90.0, 80.0), (50.0, 48.0)), places)


def test_a_point_by_hand():
    [point] = geometry.unprojected(torch.tensor([[60.0, 40.0]]), torch.tensor([2.0]), (100.0, 100.0), (50.0, 50.0)).tolist()
    assert point == pytest.approx([0.2, -0.2, 2])
    moved = geometry.moved(torch.tensor([[1.0, 0, 0]], dtype=torch.float64), about_z(90), torch.tensor([0, 0, 2.0]).double())
    assert moved[0].tolist() == pytest.approx([0, 1, 2], abs=1e-12)


def test_what_lies_behind_the_camera_is_seen_far_off():
    behind = torch.tensor([[0.1, 0.0, -1.0]], dtype=torch.float64)
    assert geometry.projected(behind, (100.0, 100.0))[0, 0] > 1e9
