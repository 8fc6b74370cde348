"""Label maps from grids of class scores."""

from __future__ import annotations

import torch

from densebench.numerics.class_scores import best_classes


def test_by_hand():
    """A row of two patches, 1 and 0 against a constant 0.4, on four pixels: 1, 0.75, 0.25, 0."""
    scores = torch.tensor([[[1.0, 0.0]], [[0.4, 0.4]]])
    assert best_classes(scores, 1, 4).tolist() == [[0, 0, 1, 1]]


def test_the_lowest_class_wins_a_tie():
    assert best_classes(torch.ones(3, 2, 2), 5, 5).unique().tolist() == [0]


def test_against_loops():
    """Every pixel's centre is looked up in the grid of patch centres, with the border repeated."""
    scores, height, width = torch.rand(4, 3, 5, generator=torch.Generator().manual_seed(0)), 11, 7
    found = best_classes(scores, height, width)
    for y in range(height):
        for x in range(width):
            v, u = max((y + 0.5) * 3 / height - 0.5, 0), max((x + 0.5) * 5 / width - 0.5, 0)
            i, j, a, b = int(v), int(u), v - int(v), u - int(u)
            i2, j2 = min(i + 1, 2), min(j + 1, 4)
            at = (1 - a) * ((1 - b) * scores[:, i, j] + b * scores[:, i, j2])
            at += a * ((1 - b) * scores[:, i2, j] + b * scores[:, i2, j2])
            assert at[int(found[y, x])] >= at.max() - 1e-6


def test_strips_of_rows_change_nothing():
    scores = torch.rand(5, 6, 4, generator=torch.Generator().manual_seed(1))
    for height, width in ((40, 30), (3, 2), (6, 4), (1, 9), (97, 1)):
        whole = best_classes(scores, height, width)
        assert torch.equal(best_classes(scores, height, width, at_once=5 * width * 3), whole), (height, width)
        assert torch.equal(best_classes(scores, height, width, at_once=1), whole), (height, width)
