"""Pixels by class and cluster: a loop over pixels, images of different sizes, the bound on memory."""

from __future__ import annotations

import pytest
import torch

from densebench.evaluation import cluster_maps
from densebench.evaluation.cluster_maps import confusions, counted_together

SIZES = [(8, 8), (8, 8), (6, 9), (4, 4), (8, 8)]


def loop(maps, truth, k, classes):
    found = torch.zeros(len(maps), classes, k, dtype=torch.int64)
    for matrix, clusters, label in zip(found, maps, truth, strict=True):
        (rows, columns), (height, width) = clusters.shape, label.shape
        for y in range(height):
            for x in range(width):
                if label[y, x] != 255:
                    matrix[int(label[y, x]), int(clusters[y * rows // height, x * columns // width])] += 1
    return found


def drawn(sizes):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(0, 7, (len(sizes), 4, 4), generator=generator)
    truth = [torch.randint(0, 4, size, generator=generator).to(torch.uint8) for size in sizes]
    for label in truth:
        label[label == 3] = 255
    return maps, truth


@pytest.mark.parametrize("count", [confusions, counted_together])
def test_counts_equal_a_loop_over_pixels(count):
    maps, truth = drawn(SIZES)
    assert torch.equal(count(maps, truth, 7, 3), loop(maps, truth, 7, 3))


@pytest.mark.parametrize("pixels", [1, 64, 130])
def test_the_bound_on_memory_changes_no_count(monkeypatch, pixels):
    maps, truth = drawn([(8, 8)] * 5)
    monkeypatch.setattr(cluster_maps, "PIXELS", pixels)
    assert torch.equal(counted_together(maps, truth, 7, 3), loop(maps, truth, 7, 3))
