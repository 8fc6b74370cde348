"""Segmentation metrics: hand-computed cases, loops, invariances."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from densebench.numerics import bootstrap
from densebench.numerics import segmentation as metrics

HAND = torch.tensor([[3, 1, 0], [2, 2, 0], [0, 0, 0]])  # class 2 is absent


def test_confusion_matrix_counts_truth_by_prediction():
    truth = torch.tensor([[0, 0, 1], [1, 255, 0]], dtype=torch.uint8)
    prediction = torch.tensor([[0, 1, 1], [0, 1, 0]], dtype=torch.uint8)
    found = metrics.confusion_matrix(prediction, truth, 3)
    assert found.dtype == torch.int64
    assert found.tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]


def test_confusion_matrix_ignores_the_truth_only():
    truth, prediction = torch.tensor([0, 1], dtype=torch.uint8), torch.tensor([0, 0], dtype=torch.uint8)
    assert metrics.confusion_matrix(prediction, truth, 2, ignore_index=0).tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize(("truth", "prediction"), [(5, 0), (0, 5), (0, 255)])
def test_confusion_matrix_refuses_what_is_no_class(truth, prediction):
    with pytest.raises(ValueError, match="above the last class"):
        metrics.confusion_matrix(torch.tensor([prediction], dtype=torch.uint8), torch.tensor([truth], dtype=torch.uint8), 3)


def test_confusion_matrix_does_not_overflow_with_171_classes():
    ids = torch.full((4,), 170, dtype=torch.uint8)
    assert metrics.confusion_matrix(ids, ids, 171)[170, 170] == 4


def test_iou_by_hand():
    ious = metrics.iou(metrics.tallies(HAND))
    assert ious[:2].tolist() == [3 / 6, 2 / 5]
    assert ious[2].isnan()
    assert metrics.mean_iou(ious, "skip").item() == pytest.approx((1 / 2 + 2 / 5) / 2)
    assert metrics.mean_iou(ious, "zero").item() == pytest.approx((1 / 2 + 2 / 5) / 3)
    assert metrics.pixel_accuracy(HAND) == 5 / 8


def test_predicted_but_absent_class_counts_as_zero():
    confusion = torch.tensor([[3, 1], [0, 0]])
    assert metrics.iou(metrics.tallies(confusion)).tolist() == [3 / 4, 0.0]


def loop_iou(truth, prediction, classes):
    result = []
    for c in range(classes):
        both = sum(1 for t, p in zip(truth, prediction, strict=True) if t == c and p == c)
        either = sum(1 for t, p in zip(truth, prediction, strict=True) if t == c or p == c)
        result.append(both / either if either else float("nan"))
    return result


pixels = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)


@settings(deadline=None, max_examples=30)
@given(pixels)
def test_iou_equals_a_loop_over_pixels(pairs):
    truth, prediction = (torch.tensor(column, dtype=torch.uint8) for column in zip(*pairs, strict=True))
    confusion = metrics.confusion_matrix(prediction, truth, 5)
    found = metrics.iou(metrics.tallies(confusion)).numpy()
    np.testing.assert_allclose(found, loop_iou(truth.tolist(), prediction.tolist(), 5))


@settings(deadline=None, max_examples=30)
@given(pixels, st.permutations(range(5)))
def test_hungarian_undoes_any_renaming_of_the_prediction(pairs, renaming):
    truth, prediction = (torch.tensor(column, dtype=torch.uint8) for column in zip(*pairs, strict=True))
    renamed = torch.tensor(renaming, dtype=torch.uint8)[prediction.long()]
    first, second = (metrics.confusion_matrix(p, truth, 5) for p in (prediction, renamed))
    values = [metrics.iou(metrics.tallies(metrics.merged(c, metrics.hungarian(c)))).nan_to_num(0).sum() for c in (first, second)]
    assert values[0] == pytest.approx(values[1])


def test_hungarian_is_the_best_of_all_permutations():
    confusion = torch.randint(0, 20, (5, 5), generator=torch.Generator().manual_seed(3))
    matrix = metrics.iou_matrix(confusion)
    best = max(sum(matrix[t, p].item() for p, t in enumerate(order)) for order in itertools.permutations(range(5)))
    renamed = metrics.hungarian(confusion)
    assert sum(matrix[renamed[p], p].item() for p in range(5)) == pytest.approx(best)
    after = metrics.iou(metrics.tallies(metrics.merged(confusion, renamed)))
    assert after.sum().item() == pytest.approx(best)


def test_hungarian_by_hand_swaps_two_classes():
    confusion = torch.tensor([[0, 5, 0], [4, 0, 0], [0, 0, 1]])
    assert metrics.hungarian(confusion).tolist() == [1, 0, 2]
    assert metrics.merged(confusion, metrics.hungarian(confusion)).diagonal().tolist() == [5, 4, 1]


def test_hungarian_can_only_raise_the_identity_score():
    for seed in range(20):
        confusion = torch.randint(0, 9, (6, 6), generator=torch.Generator().manual_seed(seed))
        identity = metrics.iou(metrics.tallies(confusion)).nan_to_num(0).sum()
        matched = metrics.iou(metrics.tallies(metrics.merged(confusion, metrics.hungarian(confusion)))).nan_to_num(0).sum()
        assert matched >= identity - 1e-12


def tally_of(images):
    return torch.stack([metrics.tallies(c) for c in images])


def test_bootstrap_equals_resampling_images_by_hand():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 9, (7, 3, 3), generator=generator)
    found = bootstrap.bootstrap_mean_iou(tally_of(images), resamples=50, seed=4)
    times = np.random.Generator(np.random.PCG64(4)).multinomial(7, np.full(7, 1 / 7), size=50)
    for value, draw in zip(found, times, strict=True):
        confusion = sum(int(n) * image for n, image in zip(draw, images, strict=True))
        assert value.item() == pytest.approx(metrics.mean_iou(metrics.iou(metrics.tallies(confusion))).item())


def test_bootstrap_of_identical_images_has_no_spread_and_holds_the_value():
    images = HAND.expand(5, 3, 3)
    low, high = bootstrap.interval(bootstrap.bootstrap_mean_iou(tally_of(images)))
    assert low == pytest.approx(high) == pytest.approx(0.45)


def test_bootstrap_draws_are_shared_by_everybody_with_as_many_images():
    images = torch.randint(0, 9, (6, 3, 3), generator=torch.Generator().manual_seed(1))
    again = bootstrap.bootstrap_mean_iou(tally_of(images))
    assert torch.equal(again, bootstrap.bootstrap_mean_iou(tally_of(images)))
    assert not torch.equal(again, bootstrap.bootstrap_mean_iou(tally_of(images), seed=1))


def test_interval_is_central():
    low, high = bootstrap.interval(torch.arange(1001, dtype=torch.float64))
    assert (low, high) == pytest.approx((25.0, 975.0))
    assert bootstrap.interval(torch.tensor([float("nan"), 1.0, 1.0], dtype=torch.float64)) == (1.0, 1.0)
