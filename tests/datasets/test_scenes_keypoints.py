"""Generated figures with keypoints: pinned, seen where they are said to be, mostly elsewhere in the other picture."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from dataset_files import levels_of
from keypoint_files import hits

from densebench.datasets import load_dataset
from densebench.datasets.scenes_keypoints import FIGURES, IN_CATEGORY, render

GOLDEN = {
    ("train", 0): "781a09d35aa1a4a2391d5425e8b7f6c3cf5f3e47d2968d83ec6077214182d678",
    ("val", 31): "cb84c9b7bb3de10ea028696b31252c7fe34c88733a3f0cc617f186915d8f0b99",
}
"""SHA-256 of the bytes of picture and keypoints, rounded to 1e-6 px. A change here changes the data set: raise VERSION."""


@pytest.fixture(scope="module")
def dataset():
    return load_dataset("scenes-keypoints")


@pytest.mark.parametrize("key", GOLDEN)
def test_two_pictures_are_pinned(key):
    figure = render(*key)
    points = np.rint(1e6 * figure.points).astype(np.int64)
    assert hashlib.sha256(figure.image.tobytes() + points.tobytes()).hexdigest() == GOLDEN[key]


@pytest.mark.parametrize("split", IN_CATEGORY)
def test_every_picture_is_source_and_target_of_three_pairs_of_its_category(dataset, split):
    pairs = dataset.pairs(split)
    assert len(pairs) == 12 * IN_CATEGORY[split] == dataset.official_pairs[split]
    for side in ("source", "target"):
        names = [getattr(pair, side).name for pair in pairs]
        assert {names.count(name) for name in names} == {3}
    assert len({frozenset((pair.source.name, pair.target.name)) for pair in pairs}) == len(pairs)
    assert dataset.categories(split) == tuple(FIGURES)


def test_keypoints_lie_in_their_boxes_and_most_are_seen(dataset):
    pairs = dataset.pairs("val")
    for pair in pairs:
        for points, (left, top, right, bottom) in ((pair.source_points, pair.source_box), (pair.target_points, pair.target_box)):
            assert ((points >= [left, top]) & (points <= [right, bottom])).all()
    counts = [len(pair.parts) for pair in pairs]
    assert 3 <= min(counts) < max(counts) == 5 and np.mean(counts) > 4.5


def test_the_same_place_is_mostly_wrong(dataset):
    keypoints = sum(len(pair.parts) for pair in dataset.pairs("val"))
    assert hits(dataset, "val", 0.1) < 0.15 * keypoints


def test_a_part_looks_alike_in_all_pictures_of_a_category(dataset):
    """The hue around a keypoint tells its part better than chance: a matcher can be right."""
    right = count = 0
    for pair in dataset.pairs("val"):
        source, target = (
            np.stack([colour(dataset.image(item), point) for point in points])
            for item, points in ((pair.source, pair.source_points), (pair.target, pair.target_points))
        )
        nearest = np.linalg.norm(source[:, None] - target[None], axis=2).argmin(1)
        right, count = right + (nearest == np.arange(len(nearest))).sum(), count + len(nearest)
    assert right > 0.6 * count  # chance is 0.2


def colour(image, point):
    x, y = point.astype(int)
    patch = np.asarray(image, float)[max(y - 6, 0) : y + 6, max(x - 6, 0) : x + 6]
    mean = patch.reshape(-1, 3).mean(0)
    return mean - mean.mean()


def test_pairs_differ_in_viewpoint_and_scale(dataset):
    assert levels_of(dataset.pairs("val")) == {"scale": [0, 1, 2], "viewpoint": [0, 1, 2]}


def test_nothing_is_wrong_with_it(dataset):
    assert dataset.verify(full=True) == [] and dataset.state() == "present"
