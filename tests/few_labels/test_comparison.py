"""Standings: ordered, paired with the best, and in images rather than groups."""

import numpy as np
import pytest

from densebench.few_labels.comparison import compared, difference_of
from densebench.few_labels.paired import by_group, groups_to_separate, interval, mean_iou, without_each


def tally(images, accuracy, seed=0, classes=3):
    """Tallies of images whose pixels are right with a probability that varies by image, the same images for every seed."""
    rng = np.random.default_rng(0)
    truth = rng.multinomial(400, np.ones(classes) / classes, images)
    hard = rng.normal(0, 0.1, (images, 1))
    agree = np.random.default_rng(seed).binomial(truth, np.clip(accuracy + hard, 0, 1))
    wrong = truth - agree
    return np.stack([agree, truth, agree + np.roll(wrong, 1, axis=1)], axis=1)


def compare(rows, group=None, images=20):
    return compared(
        "incontext", "hummingbird", rows, tally(images, 0.3), np.arange(images) if group is None else group, ("a", "b", "c")
    )


@pytest.fixture
def found():
    return compare({"worst": tally(20, 0.5, 1), "best": tally(20, 0.7, 2), "near": tally(20, 0.7, 4)})


def test_the_best_comes_first_with_nothing_ahead(found):
    assert [each.backbone for each in found.standings] == ["best", "near", "worst"]
    assert found.standings[0].behind is None and found.standings[0].to_separate == 0


def test_values_are_of_all_pixels_together(found):
    assert found.standings[0].value == float(mean_iou(tally(20, 0.7, 2).sum(0)))
    agree, truth, prediction = tally(20, 0.7, 2).sum(0)
    assert found.standings[0].per_class["b"] == pytest.approx(100 * agree[1] / (truth[1] + prediction[1] - agree[1]), abs=1e-4)


def test_a_clear_difference_is_separable_and_a_small_one_is_not(found):
    _, near, worst = found.standings
    assert worst.behind.separable and worst.to_separate == 0
    assert not near.behind.separable and near.to_separate != 0
    assert found.over_chance.low > 0


def test_the_difference_is_paired():
    """Hard images are hard for both: the interval of the difference is much shorter than those of the values would give."""
    rows = {"a": tally(20, 0.7, 1), "b": tally(20, 0.6, 2)}
    first, second = compare(rows).standings
    paired = second.behind.high - second.behind.low
    assert paired < 0.4 * ((first.high - first.low) + (second.high - second.low))


def test_equal_backbones_differ_by_nothing():
    second = compare({name: tally(20, 0.6, 1) for name in "ab"}).standings[1]
    assert (second.behind.value, second.behind.low, second.behind.high) == (0, 0, 0)


def test_groups_widen_intervals_and_images_are_counted():
    rows = {"a": tally(24, 0.7, 2), "b": tally(24, 0.69, 3)}
    group = np.arange(24) // 3
    found = compare(rows, group, images=24)
    first, second = (by_group(each, group) for each in rows.values())
    assert found.limit == 3 * 24
    assert found.standings[1].behind == difference_of(first, second)
    behind = found.standings[1].behind
    needed = groups_to_separate(behind.value, behind.low, behind.high, 8)
    assert needed > 8 and found.standings[1].to_separate == 3 * (needed - 8)
    best = found.standings[0]
    assert (best.low, best.high) == interval(best.value, without_each(first))


def test_an_unfinished_group_counts_as_a_whole_image():
    """Fifteen images in ten groups: a part of an image more is one image more."""
    rows = {"a": tally(15, 0.7, 2), "b": tally(15, 0.68, 7)}
    found = compare(rows, np.arange(15) * 2 // 3, images=15).standings[1]
    needed = groups_to_separate(found.behind.value, found.behind.low, found.behind.high, 10)
    assert needed == 11 and found.to_separate == 2  # one group is 1.5 images


def test_a_difference_is_that_of_loops():
    first, second = tally(6, 0.7, 1), tally(6, 0.6, 2)
    value = float(mean_iou(first.sum(0)) - mean_iou(second.sum(0)))
    without = [
        float(mean_iou(sum(first[i] for i in range(6) if i != left)) - mean_iou(sum(second[i] for i in range(6) if i != left)))
        for left in range(6)
    ]
    found = difference_of(first, second)
    assert (found.value, found.low, found.high) == pytest.approx((value, *interval(value, np.array(without))))


def test_the_order_in_which_backbones_are_given_changes_nothing():
    rows = {"a": tally(20, 0.7, 2), "b": tally(20, 0.6, 3)}
    assert compare(rows) == compare(dict(reversed(rows.items())))
