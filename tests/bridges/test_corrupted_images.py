"""Images that are corrupted reach MMSegmentation and torchvision's detectors so; images to learn from reach them clean."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_maps import QUIET, WORLD, setup_of
from drawn_objects import Drawn, options_of

import densebench.bridges.mmsegmentation as mmsegmentation
from densebench.bridges.mmsegmentation import data as segmented
from densebench.bridges.torchvision.data import Scoring, training_sample
from densebench.bridges.torchvision.options import Data
from densebench.datasets import load_dataset
from densebench.datasets.corrupted import corrupted
from densebench.numerics.corruptions import corrupt

pytestmark = QUIET
CORRUPTION = "contrast:5"  # without random numbers


def by_hand(dataset, item):
    return corrupt(np.asarray(dataset.image(item)), "contrast", 5, np.random.default_rng(0))


def of_segmentation(dataset):
    train, val = (dataset.items(split)[:2] for split in ("train", "val"))
    return mmsegmentation.Data(dataset, train, val, dataset.classes, dataset.label)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_mmsegmentation_scores_corrupted_images(workers):
    clean = load_dataset("scenes")
    data = of_segmentation(corrupted(clean, CORRUPTION, "val"))
    setup = setup_of(scale=clean.image(data.val[0]).height)  # no resize
    [first, _] = segmented.scoring_loader(data, setup, WORLD, workers)
    expected = by_hand(clean, data.val[0])[..., ::-1].copy()  # BGR
    assert torch.equal(first["inputs"][0], torch.from_numpy(expected).permute(2, 0, 1))


def test_mmsegmentation_learns_from_clean_images():
    clean = load_dataset("scenes")
    samples = [
        segmented.Training(of_segmentation(dataset), setup_of()).sample((0, 0))
        for dataset in (clean, corrupted(clean, CORRUPTION, "val"))
    ]
    assert torch.equal(samples[0]["inputs"], samples[1]["inputs"])


def of_detection(dataset):
    return Data(dataset, dataset.items("train"), dataset.items("val"))


def test_detectors_score_corrupted_images():
    clean = Drawn(root=Path())
    width, height = clean.image(clean.items("val")[0]).size
    options = options_of(short_side=height, long_side=width)  # no resize
    _, image, size = Scoring(of_detection(corrupted(clean, CORRUPTION, "val")), options).sample(0)
    assert torch.equal(255 * image, torch.from_numpy(by_hand(clean, clean.items("val")[0])).permute(2, 0, 1).float())
    assert tuple(size) == Scoring(of_detection(clean), options).sample(0)[2]


def test_detectors_learn_from_clean_images_and_know_the_same_objects():
    clean = Drawn(root=Path())
    found = []
    for dataset in (clean, corrupted(clean, CORRUPTION, "val")):
        data = of_detection(dataset)
        found.append(training_sample(data, options_of(), data.train[0], np.random.default_rng(0)))
        assert (dataset.objects(data.val[0]).boxes == clean.objects(data.val[0]).boxes).all()
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1]["boxes"], found[1][1]["boxes"])
