"""Folds: every image is held out once, groups stay whole, and training images show as many classes as possible."""

import numpy as np
import pytest

from densebench.few_labels.folds import count_not_in_training, folds_of, not_in_training
from densebench.few_labels.groups import Groups


def single(count):
    return Groups(np.arange(count))


@pytest.fixture
def presence():
    """Thirty images of eight classes: three common ones, three in a few images, two in two images each."""
    rng = np.random.default_rng(3)
    table = rng.random((30, 8)) < [0.95, 0.9, 0.6, 0.2, 0.15, 0.1, 0, 0]
    table[[4, 17], 6] = table[[17, 29], 7] = True
    return table


def test_every_image_is_in_one_of_five_folds_of_like_sizes(presence):
    folds = folds_of(presence, single(30), 5)
    assert np.bincount(folds).tolist() == [6] * 5 or (np.bincount(folds, minlength=5).min() >= 5 and len(folds) == 30)


def test_a_class_of_two_images_is_in_two_folds(presence):
    folds = folds_of(presence, single(30), 5)
    assert folds[4] != folds[17] != folds[29]
    assert count_not_in_training(folds, presence) == 0


def test_a_random_deal_would_leave_classes_unseen(presence):
    """The stratification is worth something: deals by chance are worse."""
    rng = np.random.default_rng(0)
    assert np.mean([count_not_in_training(rng.permutation(30) % 5, presence) > 0 for _ in range(50)]) > 0.2


def test_few_images_are_held_out_one_by_one(presence):
    assert folds_of(presence[:9], single(9), 5).tolist() == list(range(9))
    assert len(np.unique(folds_of(presence[:10], single(10), 5))) == 5


def test_groups_are_never_divided(presence):
    groups = Groups(np.arange(30) // 2)
    folds = folds_of(presence, groups, 5)
    assert (folds[::2] == folds[1::2]).all() and len(np.unique(folds)) == 5


def test_a_large_group_takes_the_place_of_as_many_images():
    """Six images that belong together and eighteen alone: the best of the deals has four folds of about six images."""
    groups = Groups(np.r_[np.zeros(6, int), np.arange(1, 19)])
    sizes = np.bincount(folds_of(np.zeros((24, 1), bool), groups, 4))
    assert len(sizes) == 4 and np.ptp(sizes) <= 2


def test_more_folds_than_images_hold_out_one_each(presence):
    assert len(np.unique(folds_of(presence, single(30), 100))) == 30


def test_a_seed_gives_the_same_folds_and_another_others(presence):
    first, again, other = (folds_of(presence, single(30), 5, seed) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()


def test_images_without_a_class_are_dealt_too():
    assert len(np.unique(folds_of(np.zeros((12, 3), bool), single(12), 5))) == 5


def test_unseen_counts_by_hand():
    """Class 0 is in fold 0 alone; class 1 in both; class 2 in fold 1 alone."""
    presence = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 1]], bool)
    assert count_not_in_training(np.array([0, 0, 1]), presence) == 2
    assert not_in_training(np.array([0, 0, 1]), presence).tolist() == [[True, False, False], [False, False, True]]
