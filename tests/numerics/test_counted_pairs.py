"""Confusion matrices of several label maps of one image: a loop over pixels, both ways of counting, labels that are no class."""

from __future__ import annotations

import pytest
import torch

from densebench.numerics import segmentation as metrics

WAYS = pytest.mark.parametrize("count", [metrics.binned_pairs, metrics.scattered_pairs, metrics.counted_pairs])


def loop(predictions, truth, classes, ignored):
    found = torch.zeros(len(predictions), classes, classes, dtype=torch.int64)
    for matrix, prediction in zip(found, predictions, strict=True):
        for t, p in zip(truth.flatten().tolist(), prediction.flatten().tolist(), strict=True):
            if t != ignored:
                matrix[t, p] += 1
    return found


def drawn(subsets, shape, classes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    predictions = torch.randint(0, classes, (subsets, *shape), generator=generator).to(torch.uint8)
    truth = torch.randint(0, classes, shape, generator=generator).to(torch.uint8)
    return predictions, truth, torch.rand(shape, generator=generator) < 0.3


@WAYS
@pytest.mark.parametrize(("subsets", "shape", "classes"), [(1, (5, 7), 3), (4, (9, 2), 21), (3, (6,), 1), (2, (4, 4), 200)])
@pytest.mark.parametrize("ignored", [255, 0])
def test_counts_equal_a_loop_over_pixels(count, subsets, shape, classes, ignored):
    predictions, truth, void = drawn(subsets, shape, classes)
    truth[void] = ignored
    found = metrics.confusion_matrices(count(predictions, truth, classes, ignored), classes)
    assert found.dtype == torch.int64
    assert torch.equal(found, loop(predictions, truth, classes, ignored))


@WAYS
def test_void_pixels_may_be_predicted_as_anything(count):
    predictions = torch.tensor([[0, 255, 1], [0, 77, 1]], dtype=torch.uint8)
    truth = torch.tensor([0, 255, 0], dtype=torch.uint8)
    assert metrics.confusion_matrices(count(predictions, truth, 2, 255), 2).tolist() == [[[1, 1], [0, 0]]] * 2


@WAYS
def test_nothing_is_counted_where_every_pixel_is_void(count):
    predictions, truth = torch.zeros(2, 3, dtype=torch.uint8), torch.full((3,), 255, dtype=torch.uint8)
    assert not metrics.confusion_matrices(count(predictions, truth, 2, 255), 2).any()
    assert not metrics.confusion_matrices(count(predictions[:, :0], truth[:0], 2, 255), 2).any()


@WAYS
@pytest.mark.parametrize(("wrong", "where"), [(5, "truth"), (3, "prediction"), (255, "prediction")])
def test_a_label_that_is_no_class_is_named_once_counts_are_read(count, wrong, where):
    predictions, truth, _ = drawn(3, (4, 4), 3)
    (truth if where == "truth" else predictions[1])[2, 2] = wrong
    counts = count(predictions, truth, 3, 255)
    with pytest.raises(ValueError, match=f"a label is {wrong}, above the last class 2"):
        metrics.confusion_matrices(counts, 3)


def test_the_error_survives_among_the_counts_of_other_images():
    good, bad = (
        metrics.counted_pairs(torch.full((1, 2), p, dtype=torch.uint8), torch.zeros(2, dtype=torch.uint8), 2) for p in (1, 9)
    )
    with pytest.raises(ValueError, match="a label is 9"):
        metrics.confusion_matrices(torch.stack([good, bad, good]), 2)


@pytest.mark.parametrize("pixels", [1, 30, 64, 10**6])
def test_the_bound_on_memory_changes_no_count(monkeypatch, pixels):
    predictions, truth, void = drawn(5, (6, 5), 4)
    truth[void] = 255
    whole = metrics.scattered_pairs(predictions, truth, 4, 255)
    monkeypatch.setattr(metrics, "PIXELS", pixels)
    assert torch.equal(metrics.scattered_pairs(predictions, truth, 4, 255), whole)
