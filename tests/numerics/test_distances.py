"""Distances of points, and the form of them for a GPU."""

from __future__ import annotations

import pytest
import torch

from densebench.numerics.distances import distances_between, distances_by_axis


def test_by_hand():
    points, others = torch.tensor([[[0.0, 0.0], [3.0, 4.0]]]), torch.tensor([[[0.0, 0.0], [3.0, 0.0], [3.0, 4.0]]])
    expected = torch.tensor([[[0.0, 3.0, 5.0], [5.0, 4.0, 0.0]]])
    assert torch.equal(distances_between(points, others), expected)
    assert torch.equal(distances_by_axis(points, others), expected)


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_forms_are_the_same_up_to_rounding(dims, dtype):
    generator = torch.Generator().manual_seed(dims)
    points, others = (500 * torch.rand(3, count, dims, generator=generator, dtype=dtype) for count in (40, 7))
    torch.testing.assert_close(
        distances_by_axis(points, others), distances_between(points, others), rtol=2 * torch.finfo(dtype).eps, atol=0
    )


def test_a_point_has_no_distance_to_itself():
    points = 1e4 + torch.rand(2, 30, 2, generator=torch.Generator().manual_seed(0))
    assert not distances_by_axis(points, points).diagonal(dim1=1, dim2=2).any()


def test_a_gpu_makes_nobody_wait(cuda):
    points = torch.rand(2, 30, 2, generator=torch.Generator().manual_seed(0))
    found = distances_between(points.cuda(), points.cuda())
    before = cuda.waits
    assert found.is_cuda and cuda.waits == before == 0
    torch.testing.assert_close(found.cpu(), distances_between(points, points), rtol=1e-6, atol=0)
