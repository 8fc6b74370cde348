"""The real parts of PF-PASCAL and Animal-Pose: their counts, and the hits of the guess that needs no features."""

from __future__ import annotations

import numpy as np
import pytest
from keypoint_files import hits

from densebench.datasets import load_dataset

COUNTS = {"pf-pascal": ("test", 40, 270, 66), "animal-pose": ("all", 200, 2767, 150)}
SAME_PLACE = {"pf-pascal": (34, 93, 163), "animal-pose": (48, 161, 334)}
PER_IMAGE = {"pf-pascal": (11.99, 32.76, 58.86), "animal-pose": (1.66, 5.61, 11.84)}
ALPHAS = (0.05, 0.10, 0.15)


@pytest.mark.parametrize("name", COUNTS)
def test_all_pairs_and_keypoints_are_there_and_inside(shared_data, name):
    split, pairs, keypoints, images = COUNTS[name]
    dataset = load_dataset(name, shared_data)
    extent = dataset.extent(split, None)
    assert (extent["pairs"], extent["keypoints"], extent["keypoints_outside"]) == (pairs, keypoints, 0)
    assert len(dataset.items(split)) == images and dataset.state() == "present"


@pytest.mark.parametrize("name", COUNTS)
def test_the_same_place_hits_exactly_as_often_as_counted_by_hand(shared_data, name):
    dataset = load_dataset(name, shared_data)
    assert tuple(hits(dataset, COUNTS[name][0], alpha) for alpha in ALPHAS) == SAME_PLACE[name]


@pytest.mark.parametrize("name", COUNTS)
def test_the_same_place_per_image(shared_data, name):
    dataset = load_dataset(name, shared_data)
    for alpha, expected in zip(ALPHAS, PER_IMAGE[name], strict=True):
        shares = []
        for pair in dataset.pairs(COUNTS[name][0]):
            source, target = (np.array(dataset.image_size(item)) for item in (pair.source, pair.target))
            left, top, right, bottom = pair.target_box or (0, 0, *target)
            distance = np.linalg.norm(pair.source_points * target / source - pair.target_points, axis=1)
            shares.append((distance <= alpha * max(right - left, bottom - top)).mean())
        assert round(100 * np.mean(shares), 2) == expected


def test_the_lists_of_pf_pascal_without_keypoints_are_refused(shared_data):
    dataset = load_dataset("pf-pascal", shared_data)
    assert [split for split in dataset.splits if dataset.has(split)] == ["test"]
    assert dataset.verify() == ["test: 66 of the official 506 images", "test: 40 of the official 299 pairs"]


def test_the_categories_of_the_real_parts(shared_data):
    pf_pascal, animals = (load_dataset(name, shared_data) for name in COUNTS)
    assert pf_pascal.categories("test") == ("cat", "cow", "dog", "horse", "sheep", "sofa")
    assert animals.categories("all") == animals.classes
    assert {pair.category for pair in pf_pascal.pairs("test")[:2]} == {"cat"}


def test_made_pairs_of_the_same_pictures_are_fixed(shared_data, tmp_path):
    (tmp_path / "animal-pose").mkdir()
    for name in ("keypoints.json", "images"):
        (tmp_path / "animal-pose" / name).symlink_to(shared_data / "animal-pose" / name)
    pairs = load_dataset("animal-pose", tmp_path).pairs("all")
    assert len(pairs) == 5 * 200
    assert (pairs[0].name, pairs[-1].name) == ("0001-2009_000550-2008_006203", "1000-2011_001354-2010_000427")
