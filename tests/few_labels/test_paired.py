"""Paired intervals: against loops, invariant to what they should not depend on, and as wide as simulations say."""

import math

import numpy as np
import pytest

from densebench.few_labels.paired import (
    by_group,
    draws,
    groups_to_separate,
    interval,
    mean_iou,
    most_groups,
    replicates,
    widening,
)


def tallies(images, classes=3, seed=0):
    """Tallies of images of 100 pixels, some of them without some classes."""
    rng = np.random.default_rng(seed)
    truth = rng.multinomial(100, rng.dirichlet(np.ones(classes), images)) * (rng.random((images, classes)) < 0.8)
    agree = rng.binomial(truth, 0.7)
    prediction = agree + rng.integers(0, 10, (images, classes))
    return np.stack([agree, truth, prediction], axis=1)


def naive(tally):
    """Mean IoU in % of one table [3 c], by loops."""
    ious = [100 * a / (t + p - a) for a, t, p in zip(*tally.tolist(), strict=True) if t > 0]
    return sum(ious) / len(ious) if ious else math.nan


def test_mean_iou_by_hand():
    """IoU 2/4 and 3/3; the third class is not shown, and the pixel that was taken for it counts against none."""
    assert mean_iou(np.array([[2, 3, 0], [3, 3, 0], [3, 3, 1]])) == pytest.approx(75.0)


def test_mean_iou_of_nothing_is_not_a_number():
    assert math.isnan(mean_iou(np.zeros((3, 2), int)))


def test_replicates_are_those_of_loops():
    tally, times = tallies(7), draws(7, 40, seed=5)
    for value, row in zip(replicates(tally, times), times, strict=True):
        assert value == pytest.approx(naive(sum(n * each for n, each in zip(row, tally, strict=True))))


def test_each_resample_draws_as_many_groups_as_there_are():
    times = draws(11, 500)
    assert times.shape == (500, 11) and (times.sum(1) == 11).all()
    assert times.mean(0) == pytest.approx(np.ones(11), abs=0.2)


def test_images_of_a_group_are_drawn_as_one():
    tally, group = tallies(6), np.array([0, 1, 0, 2, 1, 0])
    expected = [sum(tally[i] for i in range(6) if group[i] == g) for g in range(3)]
    assert (by_group(tally, group) == np.stack(expected)).all()


def test_the_interval_is_that_of_widened_quantiles():
    """Thirty images: t with 29 degrees of freedom, 2.045, times sqrt(30/29) = 2.080, has 1.876 % beyond it."""
    assert widening(30) == pytest.approx(2.0801, abs=1e-4)
    values = np.random.default_rng(0).normal(size=10_001)
    low, high = interval(values, 30)
    assert (values < low).mean() == pytest.approx(0.01876, abs=2e-4)
    assert (values > high).mean() == pytest.approx(0.01876, abs=2e-4)


def test_more_groups_need_less_widening():
    assert widening(4) > widening(10) > widening(1000) == pytest.approx(1.96, abs=0.01)


@pytest.mark.parametrize("groups", [8, 30])
def test_intervals_of_a_mean_hold_it_as_often_as_they_say(groups):
    """Skewed values: the interval of their mean holds the truth in 90 to 97 of 100 samples, plain percentiles in fewer."""
    rng, times = np.random.default_rng(1), draws(groups, 400)
    held = plain = 0
    for _ in range(600):
        means = times @ rng.exponential(size=groups) / groups
        low, high = interval(means, groups)
        held += low <= 1 <= high
        plain += np.quantile(means, 0.025) <= 1 <= np.quantile(means, 0.975)
    assert 0.90 < held / 600 < 0.975
    assert plain < held


def test_how_many_groups_separate_by_hand():
    """The half towards 0 is 2 and the difference 1: without widening four times 500 images, with it hardly fewer."""
    assert groups_to_separate(1.0, -1.0, 3.0, 500) is None  # 2000 would: above 500 more
    assert groups_to_separate(1.6, -0.4, 3.6, 400) == pytest.approx(400 * (2 / 1.6) ** 2, abs=3)


def test_the_widening_is_among_what_shrinks():
    """From 10 to 40 groups the half of the interval shrinks by more than one half."""
    half, difference = 2.0, 2.0 * widening(40) / widening(10) / 2
    assert groups_to_separate(difference, difference - half, difference + half, 10) in (40, None)
    assert groups_to_separate(difference * 1.01, difference * 1.01 - half, 9.0, 10) in (39, 40)


def test_separated_already_needs_no_more():
    assert groups_to_separate(3.0, 0.5, 5.0, 20) == 20
    assert groups_to_separate(-3.0, -5.0, -0.5, 20) == 20


def test_both_signs_need_the_same():
    assert groups_to_separate(1.5, -0.5, 3.0, 50) == groups_to_separate(-1.5, -3.0, 0.5, 50)


def test_no_difference_is_never_separated():
    assert groups_to_separate(0.0, -1.0, 1.0, 30) is None
    assert (most_groups(30), most_groups(400)) == (120, 900)


def test_as_many_images_as_predicted_separate_about_half_of_the_time():
    """Simulated: differences of images have mean 1 and deviation 4. The prediction is where the interval ends at 0 on average."""
    rng, predicted = np.random.default_rng(0), []
    for _ in range(60):
        sample = rng.normal(1, 4, 30)
        low, high = interval(draws(30, 300) @ sample / 30, 30)
        predicted.append(groups_to_separate(1.0, 1.0 + low - sample.mean(), 1.0 + high - sample.mean(), 30))
    needed = round(float(np.median([number for number in predicted if number is not None])))
    times = draws(needed, 300)
    separated = np.mean([interval(times @ rng.normal(1, 4, needed) / needed, needed)[0] > 0 for _ in range(120)])
    assert 50 < needed < 80  # (2 * 4 / 1) ** 2 = 64
    assert 0.35 < separated < 0.65
