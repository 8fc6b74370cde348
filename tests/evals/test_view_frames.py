"""How views are cut and resized, and which points they show: restated step by step, with geometry that must come out exactly."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from densebench.datasets import load_dataset
from densebench.datasets.view_pairs import Camera
from densebench.evals.geometric_correspondence import frames
from densebench.evals.geometric_correspondence.geometry import moved, projected

SIDE = 512


def camera(width, height, focal=400.0):
    return Camera(width, height, (focal, focal), (width / 2, height / 2))


def scene(height, width, top, bottom, left, right):
    """Depth of a slanted surface in a box, 0 elsewhere."""
    y, x = np.mgrid[0:height, 0:width]
    seen = (y >= top) & (y < bottom) & (x >= left) & (x < right)
    return np.where(seen, 0.5 + 0.001 * x + 0.0005 * y, 0.0)


def nearest(array, size):
    return F.interpolate(torch.from_numpy(array)[None, None].double(), size, mode="nearest")[0, 0].numpy()


def reference_object(depth, image, focal, original):
    """What probe3d's dataset does to a NAVI picture: resize, centre crop, grid of points, square around the depth, resize."""
    height, width = depth.shape
    short = min(height, width)
    size = tuple(SIDE if side == short else int(SIDE * side / short) for side in (height, width))
    top, left = (round((side - SIDE) / 2.0) for side in size)
    depth, image = (nearest(each, size)[top : top + SIDE, left : left + SIDE] for each in (depth, image))
    focal = focal * SIDE / min(original)
    grid = np.linspace(0.5, SIDE - 0.5, SIDE)
    points = np.stack([(grid[None] - SIDE / 2) / focal * depth, (grid[:, None] - SIDE / 2) / focal * depth, depth])
    rows, columns = np.nonzero(depth > 0)
    first, last = np.array([rows.min(), columns.min()]), np.array([rows.max(), columns.max()])
    box = last - first
    spare = box.max() - box
    start = first - spare // 2
    stop = start + box.max()
    if not ((start >= 0).all() and (stop <= SIDE).all()):
        start = (first - spare).clip(min=0)
        stop = start + box.max()
    cut = (slice(start[0], stop[0]), slice(start[1], stop[1]))
    final = focal * SIDE / min(image[cut].shape)
    image, points = nearest(image[cut], (SIDE, SIDE)), np.stack([nearest(each[cut], (SIDE, SIDE)) for each in points])
    quarter = F.interpolate(torch.from_numpy(points)[None], scale_factor=0.25, mode="nearest")[0].numpy()
    return image, quarter, final


BOXES = {
    "in the middle": (48, 64, 12, 36, 20, 44),
    "wide": (768, 1024, 300, 400, 200, 800),
    "tall, at the left edge": (1024, 1000, 100, 900, 0, 200),
    "at the lower right": (700, 1333, 500, 700, 700, 1010),
}


@pytest.mark.parametrize("case", BOXES)
def test_an_object_is_cut_and_placed_as_the_reference_does(case):
    height, width, *box = BOXES[case]
    depth, original = scene(height, width, *box), (4 * height, 4 * width)
    image = np.random.default_rng(0).integers(0, 256, (height, width)).astype(np.uint8)
    rows, columns = frames.square_indices(height, width, SIDE)
    frame = frames.Frame("object", SIDE, 16, frames.object_box(depth[rows][:, columns] > 0))
    expected, quarter, final = reference_object(depth, image.astype(float), 1600.0, original)
    picture = frame.image(Image.fromarray(np.stack([image] * 3, -1)))
    assert np.array_equal(np.asarray(picture)[..., 0], expected)
    surface = frames.surface_of(frame, depth, camera(original[1], original[0], 1600.0), 4)
    known = quarter[2] > 0
    assert np.array_equal(surface.cells.numpy(), np.flatnonzero(known)) and surface.grid == (128, 128)
    assert np.allclose(surface.points.numpy(), quarter[:, known].T)
    assert surface.focal == pytest.approx((final, final))


def test_nearest_pixels_are_those_of_torch():
    for before, after in ((48, 512), (1024, 512), (333, 512), (7, 3), (3, 7), (1, 4)):
        expected = F.interpolate(torch.arange(before, dtype=torch.float32)[None, None], after, mode="nearest")[0, 0]
        assert frames.nearest_indices(before, after).tolist() == expected.tolist()


def test_a_surface_without_extent_has_no_square():
    seen = np.zeros((8, 8), bool)
    assert frames.object_box(seen) is None
    seen[3, 4] = True
    assert frames.object_box(seen) is None
    seen[3, 6] = True
    assert frames.object_box(seen) == (2, 4, 4, 6)


def test_fixed_points_are_those_of_the_reference_s_quarter_grid():
    depth = np.random.default_rng(0).uniform(0.5, 3, (480, 640)) * (np.random.default_rng(1).random((480, 640)) > 0.2)
    cam = Camera(640, 480, (577.0, 578.0), (319.5, 239.5))
    surface = frames.surface_of(frames.Frame("fixed", 640, 16), depth, cam, 4)
    quarter = F.interpolate(torch.from_numpy(depth)[None, None], scale_factor=0.25)[0, 0].numpy()
    y, x = np.mgrid[0:120, 0:160] + 0.5
    inverse = np.linalg.inv(np.array([[577 / 4, 0, 319.5 / 4], [0, 578 / 4, 239.5 / 4], [0, 0, 1]]))
    points = (quarter * np.stack([x, y, np.ones_like(x)])).reshape(3, -1).T @ inverse.T
    assert np.allclose(surface.points.numpy(), points[points[:, 2] > 0])
    uv = projected(surface.points, (577 / 4, 578 / 4), (319.5 / 4, 239.5 / 4))
    assert torch.allclose(surface.places, uv / torch.tensor([160.0, 120.0]))
    assert surface.focal == (577 / 4, 578 / 4)


def test_features_at_places_are_those_of_grid_sample_at_projections():
    grid = torch.randn(30, 40, 5, generator=torch.Generator().manual_seed(0))
    depth, cam = np.full((480, 640), 2.0), Camera(640, 480, (577.0, 577.0), (320.0, 240.0))
    surface = frames.surface_of(frames.Frame("fixed", 640, 16), depth, cam, 4)
    uv = projected(surface.points, (577 / 4, 577 / 4), (80.0, 60.0))
    scaled = torch.stack([2 * uv[:, 0] / 160 - 1, 2 * uv[:, 1] / 120 - 1], 1).float()
    expected = F.grid_sample(grid.movedim(-1, 0)[None], scaled[None, None], align_corners=False)[0, :, 0].T
    assert torch.allclose(frames.sampled(grid, surface, "bilinear"), expected, atol=1e-4)


def test_features_of_an_object_are_those_of_the_enlarged_grid():
    grid = torch.randn(32, 32, 5, generator=torch.Generator().manual_seed(0))
    depth = scene(48, 64, 12, 36, 20, 44)
    surface = frames.surface_of(frames.Frame("object", SIDE, 16, (130, 384, 130, 384)), depth, camera(64, 48), 4)
    enlarged = F.interpolate(grid.movedim(-1, 0)[None], (128, 128), mode="bicubic")[0].flatten(1).T
    assert torch.equal(frames.sampled(grid, surface, "bicubic"), enlarged[surface.cells])


def naive_padding(height, width, patch):
    """The padded size, and what lies above and to the left, as probe3d's centre padding has it."""
    if height % patch == 0 and width % patch == 0:
        return height, width, 0, 0
    more = [patch - side % patch for side in (height, width)]
    return height + more[0], width + more[1], more[0] // 2, more[1] // 2


@pytest.mark.parametrize(("size", "stride"), [((518, 500), 14), ((512, 512), 14), ((480, 640), 16), ((480, 640), 14)])
def test_a_border_is_the_reference_s_with_its_whole_patch_more(size, stride):
    view = frames.CentrePaddedView(stride, fill=(0.25, 0.5, 0.75))
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    padded = view.image(Image.fromarray(pixels), "")
    height, width, top, left = naive_padding(*size, stride)
    assert padded.shape[1:] == (height, width) == view.shape(size[1], size[0])
    inner = padded[:, top : top + size[0], left : left + size[1]]
    assert torch.equal(inner, torch.from_numpy(pixels).movedim(-1, 0).float() / 255)
    if top:
        assert padded[:, 0, 0].tolist() == [0.25, 0.5, 0.75]


def test_518_by_500_px_become_532_by_504():
    assert frames.CentrePaddedView(14).shape(500, 518) == (532, 504)


@pytest.mark.parametrize("kind", ["object", "fixed", "whole"])
def test_points_of_generated_views_are_where_the_other_view_sees_them(kind):
    data = load_dataset("scenes-views")
    pair, size = data.pairs("test")[4], 256
    pictured = [frames.frame_of(data, item, kind, size, 16) for item in (pair.source, pair.target)]
    source, target = (
        frames.surface_of(frame, data.depth(item), cam, 4)
        for frame, item, cam in zip(pictured, (pair.source, pair.target), (pair.source_camera, pair.target_camera), strict=True)
    )
    true = moved(source.points, torch.from_numpy(pair.rotation), torch.from_numpy(pair.translation))
    near = torch.cdist(true, target.points).amin(1)
    # the shortest distance to a point of the grid, of points that are not hidden or outside; a cell is some 2 cm wide
    assert float(near.quantile(0.5)) < 0.015


def test_a_whole_picture_keeps_its_aspect_and_px_are_of_its_longer_side():
    frame = frames.Frame("whole", 640, 14)
    assert frame.shape(1296, 968) == (478, 640)
    assert frame.image(Image.new("RGB", (1296, 968))).size == (644, 476)
    surface = frames.surface_of(frame, np.full((484, 648), 1.0), camera(1296, 968, 1000.0), 4)
    assert surface.focal[0] == pytest.approx(1000 * 640 / 1296)
    assert surface.grid == (119, 160)
    assert float(surface.places.min()) > 0 and float(surface.places.max()) < 1
