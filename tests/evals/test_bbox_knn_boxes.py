"""Nine patches in a box: points, the views of an image, and both mappings."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from toy_boxes import boxed

from densebench.errors import UserError
from densebench.evals.bbox_knn import nine_points
from densebench.features.views import CentreCropView
from densebench.numerics.boxes import cell_centres, clipped_to_crop, in_crop, largest, patches_at
from densebench.torchvision_ops import make_importable

make_importable()

from torchvision.transforms import functional as TF  # noqa: E402


def followed(points, width, height, view):
    resized = view.resized(width, height)
    return in_crop(points, (width, height), resized, view.corner(*resized))


def clipped(boxes, width, height, view):
    corner = view.corner(view.short_side, view.short_side)
    return clipped_to_crop(boxes, (width, height), view.short_side, corner, view.size)


def largest_of(objects):
    return largest(objects.boxes, objects.crowd)


def test_points_are_the_centres_of_the_cells_row_by_row():
    found = cell_centres(torch.tensor([10.0, 20.0, 16.0, 32.0]))
    assert found.tolist() == [[x, y] for y in (22, 26, 30) for x in (11, 13, 15)]


def test_the_largest_box_counts():
    assert largest_of(boxed([0, 0, 2, 9, 0, 0], [0, 0, 5, 4, 1, 0], [3, 3, 9, 9, 2, 1], [5, 5, 9, 10, 3, 0])) == 1
    assert largest_of(boxed([0, 0, 2, 9, 0, 1])) is None
    assert largest_of(boxed()) is None


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [
        # 1024 x 512 becomes 512 x 256; the crop begins at (144, 16).
        (1024, 512, [[500 / 2 - 144, 100 / 2 - 16], [-144, -16]]),
        # 300 x 600 becomes 256 x 512, its crop begins at (16, 144).
        (300, 600, [[500 * 256 / 300 - 16, 100 * 256 / 300 - 144], [-16, -144]]),
        # 500 x 375: 341.33 is cut to 341, half of 117 goes to the even 58.
        (500, 375, [[500 * 341 / 500 - 58, 100 * 256 / 375 - 16], [-58, -16]]),
        (512, 512, [[250 - 16, 50 - 16], [-16, -16]]),
    ],
)
def test_points_follow_the_image_into_the_crop(width, height, expected):
    where = torch.tensor([[500.0, 100.0], [0.0, 0.0]], dtype=torch.float64)
    found = followed(where, width, height, CentreCropView())
    assert found.dtype == torch.float64
    assert found.flatten().tolist() == pytest.approx(torch.tensor(expected).flatten().tolist(), abs=1e-4)


def test_flsls_code_squeezes_boxes_and_clips_them_to_the_crop():
    """1024 x 512 is squeezed to 256 x 256, and 16 is taken off."""
    boxes = torch.tensor([[500.0, 100, 700, 200], [0, 0, 1024, 512], [960, 0, 1000, 32]], dtype=torch.float64)
    expected = [[500 / 4 - 16, 100 / 2 - 16, 700 / 4 - 16, 200 / 2 - 16], [0, 0, 223.999, 223.999], [224, 0, 223.999, 0]]
    assert clipped(boxes, 1024, 512, CentreCropView()).tolist() == [pytest.approx(row) for row in expected]


def test_the_nine_patches_of_flsls_code():
    """A box as large as a picture of 300 x 400: patches of 16 px in the crop of 224."""
    _, where = nine_points(boxed([0, 0, 299, 399, 0, 0]), 300, 400, CentreCropView(), "clipped")
    assert patches_at(where, 16, (14, 14)).tolist() == [30, 34, 39, 86, 90, 95, 156, 160, 165]


def test_flsls_code_takes_the_box_of_which_most_is_left():
    """The first box is larger, but only 64 - 16 px of its height are in the crop; crowds never count."""
    objects = boxed([0, 0, 256, 64, 0, 0], [60, 60, 170, 170, 1, 0], [0, 0, 256, 256, 2, 1])
    assert [nine_points(objects, 256, 256, CentreCropView(), mapping)[0] for mapping in ("right", "clipped")] == [0, 1]


def test_flsls_code_takes_the_first_of_boxes_that_the_crop_leaves_out():
    objects = boxed([0, 0, 9, 256, 0, 1], [0, 0, 8, 128, 1, 0], [245, 0, 256, 256, 2, 0])
    index, where = nine_points(objects, 256, 256, CentreCropView(), "clipped")
    assert index == 1 and patches_at(where, 16, (14, 14)).tolist() == [14] * 3 + [42] * 3 + [70] * 3  # y from 0 to 112


@settings(deadline=None)
@given(st.integers(20, 900), st.integers(3, 300), st.integers(0, 200), st.lists(st.floats(0.3, 0.7), min_size=4, max_size=4))
def test_mappings_agree_on_square_images_in_the_crop(side, size, more, corners):
    view = CentreCropView(size, size + min(more, size // 2))  # of which the crop shows 0.25 to 0.75 at the least
    (left, right), (top, bottom) = sorted(corners[:2]), sorted(corners[2:])
    box = torch.tensor([left, top, right, bottom], dtype=torch.float64) * side
    expected = followed(cell_centres(box), side, side, view)
    torch.testing.assert_close(cell_centres(clipped(box[None], side, side, view)[0]), expected, rtol=0, atol=1e-6 * size)


def test_patches_by_hand():
    where = torch.tensor([[0.0, 0.0], [13.9, 14.0], [14.0, 13.9], [41.9, 27.9], [-0.1, -99.0], [500.0, 20.0], [-3.0, 28.0]])
    assert patches_at(where, 14, (2, 3)).tolist() == [0, 3, 1, 5, 0, 5, 3]


def test_a_box_outside_the_crop_ends_in_its_border():
    view = CentreCropView(32, 32)  # of an image of 96 x 32 the columns 32 to 64
    found = [patches_at(followed(cell_centres(torch.tensor(box)), 96, 32, view), 8, (4, 4)).tolist() for box in
             ([0.0, 0, 24, 32], [70.0, 0, 94, 12], [26.0, 8, 44, 32])]  # fmt: skip
    assert found[0] == [0] * 3 + [8] * 3 + [12] * 3
    assert found[1] == [3] * 6 + [7] * 3  # y 2, 6, 10
    # x 29, 35, 41 and y 12, 20, 28: left of the crop, its first column and its second.
    assert found[2] == [4, 4, 5, 8, 8, 9, 12, 12, 13]


@pytest.mark.parametrize(("width", "height"), [(300, 200), (200, 300), (256, 256), (333, 250)])
def test_the_view_shows_a_point_where_the_mapping_says(width, height):
    """Red tells x, green tells y: the pixel of the view at a mapped point has the colours of the point."""
    view = CentreCropView(112, 128)
    y, x = np.mgrid[0:height, 0:width]
    pixels = np.stack([x / width, y / height, np.zeros_like(x)], -1)
    shown = view.image(Image.fromarray((255 * pixels).astype(np.uint8)), "")
    rng = np.random.default_rng(0)
    inside = 0
    for px, py in rng.uniform((0, 0), (width, height), (60, 2)):
        ((u, v),) = followed(torch.tensor([[px, py]]), width, height, view).tolist()
        if 1 <= u < 111 and 1 <= v < 111:
            inside += 1
            red, green, _ = shown[:, int(v), int(u)].tolist()
            assert (red, green) == pytest.approx((px / width, py / height), abs=0.012)
    assert inside > 15


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (256, 256), (97, 301), (640, 427)])
@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
def test_the_view_is_torchvisions(width, height, resample):
    image = Image.fromarray(np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8))
    found = CentreCropView(224, 256, resample).image(image, "")
    if resample == "bicubic":
        resized = TF.resize(image, 256, interpolation=TF.InterpolationMode.BICUBIC)
        expected = TF.to_tensor(TF.center_crop(resized, 224))
    else:
        resized = TF.resize(TF.to_tensor(image), 256, interpolation=TF.InterpolationMode.BILINEAR, antialias=True)
        expected = TF.center_crop(resized, 224)
    assert found.shape == (3, 224, 224)
    assert torch.allclose(found, expected, atol=1e-6)


def test_views_differ_in_identity_wherever_their_pixels_do():
    views = [CentreCropView(), CentreCropView(192), CentreCropView(224, 224), CentreCropView(224, 256, "bilinear")]
    assert len({json.dumps(view.identity()) for view in views}) == 4
    with pytest.raises(UserError, match="a crop of 257 px does not fit a short side of 256 px; use 257 or more"):
        CentreCropView(257)
