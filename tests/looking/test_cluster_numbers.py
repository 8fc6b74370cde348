"""Clusters of patches: the same number is the same cluster in all pictures, and of several backbones where they agree most."""

from __future__ import annotations

import numpy as np
import torch

from densebench.looking.regions import RASTER, clustered, painted, rasterised, renumbered


def test_like_patches_have_like_numbers_in_all_pictures_and_the_largest_cluster_is_0():
    axes = torch.eye(3)
    many, some, few = (axes[number] for number in range(3))
    first = torch.stack([torch.stack([some, many, many]), torch.stack([many * 7, few, many])])
    second = torch.stack([torch.stack([some * 3, many])])
    one, two = clustered([first, second], 3, seed=0)
    assert one.tolist() == [[1, 0, 0], [0, 2, 0]]
    assert two.tolist() == [[1, 0]]


def test_clusters_follow_from_the_seed():
    grids = [torch.randn(12, 12, 3, generator=torch.Generator().manual_seed(0))]
    first, again, other = (clustered(grids, 6, seed)[0].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_fewer_patches_than_clusters_are_no_error():
    [found] = clustered([torch.eye(4).view(2, 2, 4)], 10, seed=0)
    assert sorted(found.ravel().tolist()) == [0, 1, 2, 3]


def test_equal_patches_are_one_cluster():
    [found] = clustered([torch.ones(2, 2, 4)], 10, seed=0)
    assert found.tolist() == [[0, 0], [0, 0]]


def test_numbers_follow_the_reference_at_any_grid():
    rng = np.random.default_rng(0)
    reference = [rng.integers(0, 5, (6, 8)), rng.integers(0, 5, (8, 6))]
    table = np.array([3, 0, 4, 1, 2])
    finer = [table[each.repeat(2, 0).repeat(3, 1)] for each in reference]
    for found, wanted in zip(renumbered(finer, reference), reference, strict=True):
        np.testing.assert_array_equal(found, wanted.repeat(2, 0).repeat(3, 1))


def test_places_of_a_map_are_by_rows_and_even():
    grid = np.arange(35).reshape(5, 7)
    places = rasterised(grid).reshape(RASTER, RASTER)
    assert places[0, -1] == 6
    assert places[-1, 0] == 28
    np.testing.assert_array_equal(rasterised(grid[::-1, ::-1]).reshape(RASTER, RASTER), places[::-1, ::-1])


def test_numbers_stay_apart_where_the_reference_has_fewer():
    reference = [np.array([[0, 0, 1]])]
    [found] = renumbered([np.array([[2, 0, 1]])], reference)
    assert sorted(found.ravel().tolist()) == [0, 1, 2]
    assert found[0, 2] == 1


def test_the_larger_overlap_wins():
    reference = [np.array([[0, 0, 0, 1]])]
    [found] = renumbered([np.array([[1, 1, 0, 0]])], reference)
    assert found.tolist() == [[0, 0, 1, 1]]


def test_regions_but_the_first_are_painted_with_lines_between_them():
    image = np.zeros((1, 4, 3), np.uint8)
    found = painted(image, np.array([[0, 0, 1, 1]]), np.array([[100, 0, 0], [0, 100, 0]], np.uint8))
    assert found.tolist() == [[[0, 0, 0], [0, 0, 0], [255, 255, 255], [0, 55, 0]]]
