"""Means over corruptions and retained shares: by hand, by loops, and what they do not depend on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from densebench.evals.robustness.retained import Estimate, mean_corruption_error, mean_iou_of, mean_of, retention
from densebench.numerics.bootstrap import interval


def estimate(value, draws=(1.0, 2.0), classes=(1.0,)):
    return Estimate(value, torch.tensor(draws), torch.tensor(classes))


def tally(seed, images=12, classes=4, share=0.7):
    """Made-up pixels of each image: that agree, of the truth, of the prediction."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(50, 100, (images, classes))
    agree = (truth * share * rng.random((images, classes))).astype(int)
    return torch.from_numpy(np.stack([agree, truth, agree + rng.integers(0, 30, (images, classes))], 1))


def test_60_clean_and_45_under_every_corruption_retain_three_quarters():
    mean = mean_of([mean_of([estimate(45.0)] * 5) for _ in range(15)])
    assert mean.value == 45 and retention(estimate(60.0), mean).value == 75


def test_levels_are_averaged_before_corruptions():
    first, second = mean_of([estimate(10.0), estimate(20.0), estimate(30.0)]), mean_of([estimate(80.0)])
    assert mean_of([first, second]).value == 50  # the mean of the four would be 35


def test_half_the_errors_everywhere_against_a_reference_of_eight_tenths():
    assert float(mean_corruption_error(torch.full((15, 5), 0.5), torch.full((15, 5), 0.8))) == pytest.approx(0.625)


def test_nothing_is_retained_of_nothing():
    assert retention(estimate(0.0), estimate(0.0)) is None


def test_draws_in_which_the_clean_score_is_0_have_no_share():
    found = retention(estimate(10.0, (0.0, 20.0)), estimate(5.0, (0.0, 10.0)))
    assert found.draws.isnan().tolist() == [True, False] and interval(found.draws) == (50, 50)


def test_a_class_that_no_image_shows_has_no_share():
    found = retention(estimate(10.0, classes=(float("nan"), 40.0, 0.0)), estimate(5.0, classes=(float("nan"), 10.0, 0.0)))
    assert found.classes.isnan().tolist() == [True, False, True] and found.classes[1] == 25


def test_a_class_is_averaged_over_the_corruptions_that_have_it():
    found = mean_of([estimate(1.0, classes=(2.0, float("nan"))), estimate(1.0, classes=(4.0, 8.0))])
    assert found.classes.tolist() == [3, 8]


def test_an_estimate_is_the_mean_of_the_ratios_of_sums():
    of = tally(0)
    found, sums = mean_iou_of(of, "skip"), of.double().sum(0)
    expected = [float(100 * sums[0, c] / (sums[1, c] + sums[2, c] - sums[0, c])) for c in range(4)]
    assert found.classes.tolist() == pytest.approx(expected, abs=1e-4)
    assert found.value == pytest.approx(np.mean(expected), abs=1e-4)


def test_shares_of_the_draws_are_those_of_loops_over_the_same_images():
    clean, foggy = tally(0), tally(1, share=0.3)
    found = retention(mean_iou_of(clean, "skip", 20), mean_iou_of(foggy, "skip", 20))
    times = np.random.Generator(np.random.PCG64(0)).multinomial(12, np.full(12, 1 / 12), size=20)
    for draw, weights in zip(found.draws.tolist(), times, strict=True):
        scores = []
        for of in (clean, foggy):
            agree, truth, predicted = (
                sum(int(w) * row for w, row in zip(weights, of[:, k].numpy(), strict=True)) for k in range(3)
            )
            scores.append(np.mean(agree / (truth + predicted - agree)))
        assert draw == pytest.approx(100 * scores[1] / scores[0], abs=1e-3)


def test_images_that_lose_alike_leave_no_doubt_about_the_share():
    clean = tally(2)
    clean[:, 2] = clean[:, 1]  # the prediction has as many pixels as the truth
    same = mean_iou_of(clean, "skip")
    low, high = interval(retention(same, same).draws)
    assert (low, high) == pytest.approx((100, 100)), "a bootstrap that is not paired would be wide"
    assert interval(same.draws)[1] - interval(same.draws)[0] > 1


def test_the_order_of_the_corruptions_does_not_matter():
    some = [mean_iou_of(tally(seed), "skip", 50) for seed in range(3)]
    assert mean_of(some).value == pytest.approx(mean_of(some[::-1]).value)
    assert mean_of(some).draws == pytest.approx(mean_of(some[::-1]).draws)
