"""LiDAR: a case worked out by hand, the definition written down with full matrices, invariances."""

from __future__ import annotations

import math

import pytest
import torch

from densebench.numerics.lidar import lidar


def views(images=12, count=4, width=6, noise=0.3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(images, 1, width, dtype=torch.float64, generator=generator) * torch.linspace(2, 0.5, width)
    return centres + noise * torch.randn(images, count, width, dtype=torch.float64, generator=generator)


def naive(rows, delta):
    """The definition: two scatter matrices by loops, the inverse root by eigenvectors."""
    images, count, width = rows.shape
    mean = torch.stack([image.mean(dim=0) for image in rows]).mean(dim=0)
    between, within = torch.zeros(width, width).double(), delta * torch.eye(width).double()
    for image in rows:
        middle = image.mean(dim=0)
        between += torch.outer(middle - mean, middle - mean) / (images - 1)
        for view in image:
            within += torch.outer(view - middle, view - middle) / (images * (count - 1))
    values, vectors = torch.linalg.eigh(within)
    root = vectors @ torch.diag(values**-0.5) @ vectors.T
    shares = torch.linalg.eigvalsh(root @ between @ root).clamp(min=0)
    entropy = 0.0
    for share in (shares / shares.sum()).tolist():
        entropy -= (share + 1e-7) * math.log(share + 1e-7)
    return math.exp(entropy)


def test_two_axes_that_part_images_equally_are_two_directions():
    centres = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 3.0], [0.0, -3.0]]).double()
    noise = torch.tensor([[1.0, 3.0], [1.0, -3.0], [-1.0, 3.0], [-1.0, -3.0]]).double()  # three times as much along the second
    assert lidar(centres[:, None] + noise, delta=1e-9) == pytest.approx(2.0, rel=1e-4)


def test_one_axis_that_parts_images_is_one_direction():
    centres = torch.tensor([[1.0, 0.0], [-1.0, 0.0]]).double()
    noise = torch.tensor([[0.0, 1.0], [0.0, -1.0], [0.1, 0.0], [-0.1, 0.0]]).double()
    assert lidar(centres[:, None] + noise) == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("shape", [(12, 4, 6), (4, 2, 20), (3, 50, 5), (9, 3, 27)], ids=str)
@pytest.mark.parametrize("delta", [1e-4, 0.5])
def test_lidar_equals_its_definition(shape, delta):
    rows = views(*shape)
    assert lidar(rows, delta) == pytest.approx(naive(rows, delta), rel=1e-6)


def test_lidar_does_not_depend_on_the_order_of_images_and_views_nor_on_shift_and_basis():
    rows, generator = views(), torch.Generator().manual_seed(5)
    turn = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=generator)).Q
    changed = rows[torch.randperm(12, generator=generator)][:, torch.randperm(4, generator=generator)] @ turn + 3
    assert lidar(changed) == pytest.approx(lidar(rows), rel=1e-7)


def test_without_delta_any_linear_map_leaves_lidar_alone():
    rows = views()
    assert lidar(rows * torch.logspace(-1, 1, 6).double(), delta=1e-12) == pytest.approx(lidar(rows, delta=1e-12), rel=1e-6)


def test_a_relative_delta_makes_the_scale_irrelevant():
    rows = views(noise=0.05)
    assert lidar(rows / 100, 0.5, relative=True) == pytest.approx(lidar(rows, 0.5, relative=True), rel=1e-7)
    assert lidar(rows * 10, 0.5) != pytest.approx(lidar(rows, 0.5), rel=0.01)
    variance = float(((rows - rows.mean(dim=1, keepdim=True)) ** 2).sum()) / (12 * 3) / 6
    assert lidar(rows, 0.5, relative=True) == pytest.approx(lidar(rows, 0.5 * variance), rel=1e-9)


def test_noise_that_every_view_has_anew_is_no_information():
    generator = torch.Generator().manual_seed(0)
    rows = views(40, 10, 8)
    rows[..., 1:] = 5 * torch.randn(40, 10, 7, dtype=torch.float64, generator=generator)
    rows[..., :1] *= 10
    assert lidar(rows) < 1.3


def test_images_that_do_not_differ_have_no_rank():
    alike = views(1).expand(5, 4, 6)
    assert lidar(alike) == 0.0
    assert lidar(torch.full((3, 2, 4), 0.1)) == 0.0


def test_views_that_do_not_differ_are_counted_by_images_alone():
    rows = views(5, 1, 9).expand(5, 3, 9)
    assert 1 < lidar(rows) <= 4.001
    assert lidar(rows, relative=True) == pytest.approx(lidar(rows), rel=1e-6)
