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
    percentiles,
    replicates,
    student,
    without_each,
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


def test_without_each_is_that_of_loops():
    tally = tallies(6)
    expected = [naive(sum(tally[i] for i in range(6) if i != left)) for left in range(6)]
    assert without_each(tally) == pytest.approx(expected)


def test_the_interval_of_a_mean_is_students():
    """The jackknife of a mean is exact: the standard error is the deviation over the root of the number."""
    values = np.random.default_rng(0).normal(size=12)
    low, high = interval(values.mean(), (values.sum() - values) / 11)
    half = 2.2010 * values.std(ddof=1) / math.sqrt(12)  # Student's t with 11 degrees of freedom
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=1e-4)


def test_fewer_groups_need_wider_intervals():
    assert student(4) > student(10) > student(1000) == pytest.approx(1.96, abs=0.01)


@pytest.mark.parametrize("images", [10, 30])
def test_intervals_of_a_difference_hold_it_as_often_as_they_say(images):
    """Two made-up backbones on images drawn from a large set of skewed tallies, a rare class among them."""
    population = [rare(2000, accuracy, seed) for accuracy, seed in ((0.75, 1), (0.7, 2))]
    truth = mean_iou(population[0].sum(0)) - mean_iou(population[1].sum(0))
    rng, held = np.random.default_rng(3), 0
    for _ in range(300):
        first, second = (each[some] for some in [rng.integers(0, 2000, images)] for each in population)
        value = float(mean_iou(first.sum(0)) - mean_iou(second.sum(0)))
        low, high = interval(value, without_each(first) - without_each(second))
        held += low <= truth <= high
    assert 0.88 < held / 300 <= 0.99


def rare(images, accuracy, seed):
    """Tallies of images of 400 pixels, hard and easy ones; a tenth of them show a third class."""
    rng = np.random.default_rng(0)
    shares = np.stack([rng.dirichlet((2, 1, 0.5)) * [1, 1, rng.random() < 0.3] for _ in range(images)])
    truth = rng.multinomial(400, shares / shares.sum(1, keepdims=True))
    hard = rng.normal(0, 0.15, (images, 1))
    own = np.random.default_rng(seed)
    agree = own.binomial(truth, np.clip(accuracy + hard + own.normal(0, 0.05, (images, 1)), 0, 1))
    return np.stack([agree, truth, agree + np.roll(truth - agree, 1, axis=1)], axis=1)


def test_how_many_groups_separate_by_hand():
    """The half is 2: at a difference of 1.6 it takes 400 x (2 / 1.6)^2 = 625 groups, at 1 it would take 1600, above 500 more."""
    assert groups_to_separate(1.6, -0.4, 3.6, 400) == pytest.approx(625, abs=2)
    assert groups_to_separate(1.0, -1.0, 3.0, 400) is None


def test_students_t_is_among_what_shrinks():
    """From 10 to 40 groups the half of the interval shrinks by more than one half."""
    difference = student(40) / student(10)
    assert difference < 1
    assert groups_to_separate(1.001 * difference, 1.001 * difference - 2, 1.001 * difference + 2, 10) == 40


def test_separated_already_needs_no_more():
    assert groups_to_separate(3.0, 0.5, 5.5, 20) == 20
    assert groups_to_separate(-3.0, -5.5, -0.5, 20) == 20


def test_both_signs_need_the_same():
    assert groups_to_separate(1.5, -0.5, 3.5, 50) == groups_to_separate(-1.5, -3.5, 0.5, 50)


def test_no_difference_is_never_separated():
    assert groups_to_separate(0.0, -1.0, 1.0, 30) is None
    assert (most_groups(30), most_groups(400)) == (120, 900)


def test_as_many_images_as_predicted_separate_about_half_of_the_time():
    """Simulated: two backbones whose difference few images do not tell; with as many as predicted, about half of the draws do."""
    population = [rare(4000, accuracy, seed) for accuracy, seed in ((0.72, 1), (0.7, 2))]
    truth = float(mean_iou(population[0].sum(0)) - mean_iou(population[1].sum(0)))
    rng = np.random.default_rng(0)

    def drawn(images):
        some = rng.integers(0, 4000, images)
        first, second = (each[some] for each in population)
        value = float(mean_iou(first.sum(0)) - mean_iou(second.sum(0)))
        return value, *interval(value, without_each(first) - without_each(second))

    halves = [(high - low) / 2 for _, low, high in (drawn(20) for _ in range(60))]
    half = float(np.median(halves))
    predicted = groups_to_separate(truth, truth - half, truth + half, 20)
    assert predicted is not None and 30 < predicted < 80
    assert 0.3 < np.mean([drawn(predicted)[1] > 0 for _ in range(150)]) < 0.7


def test_percentiles_are_widened_ones():
    """Thirty values: t with 29 degrees of freedom, 2.045, times sqrt(30/29) = 2.080, has 1.876 % of a normal beyond it."""
    values = np.random.default_rng(0).normal(size=10_001)
    low, high = percentiles(values, 30)
    assert (values < low).mean() == pytest.approx(0.01876, abs=2e-4)
    assert (values > high).mean() == pytest.approx(0.01876, abs=2e-4)
