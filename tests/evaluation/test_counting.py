"""Counts per image and what follows from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from densebench.evaluation.counts import Counts
from densebench.evaluation.labels import LabelSpace
from densebench.numerics import segmentation as metrics

IMAGES = ["a", "b", "c"]


def filled(seed=0):
    confusions = torch.randint(0, 9, (3, 2, 4, 4), generator=torch.Generator().manual_seed(seed))
    counts = Counts(2, 4)
    for image, confusion in zip(IMAGES, confusions, strict=True):
        counts.add(image, confusion)
    return counts, confusions


def test_sums_and_tallies_are_those_of_the_full_matrices():
    counts, confusions = filled()
    assert torch.equal(counts.confusion(IMAGES), confusions.sum(0))
    for s in range(2):
        renamed = torch.tensor([2, 0, 3, 1])
        expected = torch.stack([metrics.tallies(metrics.merged(confusions[i, s], renamed)) for i in range(3)])
        assert torch.equal(counts.tallies(IMAGES, s, renamed), expected)


def test_what_is_kept_restores_the_same_counts():
    counts, confusions = filled()
    other = Counts(2, 4)
    for image, confusion in zip(IMAGES, confusions, strict=True):
        other.restore(image, Counts(2, 4).add(image, confusion))
    assert torch.equal(other.confusion(IMAGES), counts.confusion(IMAGES))
    assert "a" in other
    assert "d" not in other


def test_scores_follow_from_one_confusion_matrix():
    counts, confusions = filled()
    point = (("fraction", 8), ("seed", 1))
    accuracy = {s.metric: s for s in counts.scores(IMAGES, 1, ["w", "x", "y", "z"], "skip", point, {})}["pixel_accuracy"]
    total = confusions[:, 1].sum(0)
    assert accuracy.value == pytest.approx(100 * float(total.diagonal().sum() / total.sum()), abs=1e-3)
    for score in counts.scores(IMAGES, 1, ["w", "x", "y", "z"], "skip", point, {"images": 2})[:2]:
        renamed = metrics.hungarian(total) if score.variant == "hungarian" else torch.arange(4)
        ious = 100 * metrics.iou(metrics.tallies(metrics.merged(total, renamed)))
        assert score.value == pytest.approx(float(ious.mean()), abs=1e-3)
        assert list(score.per_class.values()) == pytest.approx(ious.tolist(), abs=1e-3)
        assert score.axes == {"fraction": 8, "seed": 1}
        low, high = np.quantile(score.bootstrap, [0.025, 0.975])
        assert score.ci95 == pytest.approx((low, high), abs=1e-3)
        assert low <= score.value <= high
        assert score.details == {"images": 2}


class Raw:
    """A data set whose official map counts classes from 1: 0 is other, which `label` gives as 255."""

    classes, reduce_zero_label = ("a", "b"), True

    def label(self, item):
        return np.array([[0, 1, 255]], dtype=np.uint8)


@pytest.mark.parametrize(
    ("void", "other", "memory", "truth", "classes"),
    [
        ("drop", "off", [0, 1, 255], [0, 1, 255], 2),
        ("background", "off", [0, 1, 0], [0, 1, 255], 2),
        ("drop", "dead", [1, 2, 0], [1, 2, 255], 3),
        ("background", "dead", [1, 2, 0], [1, 2, 255], 3),
        ("drop", "class", [1, 2, 0], [1, 2, 0], 3),
    ],
)
def test_label_spaces(void, other, memory, truth, classes):
    space = LabelSpace(Raw(), void, other)
    assert space.read_memory(None).tolist() == [memory]
    assert space.read_truth(None).tolist() == [truth]
    assert space.classes == classes


def test_other_matters_only_where_zero_is_other():
    class Plain(Raw):
        reduce_zero_label = False

    assert LabelSpace(Plain(), "drop", "dead").read_truth(None).tolist() == [[0, 1, 255]]
