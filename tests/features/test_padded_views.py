"""Views that pad: sizes, pixels, and where an image lies in them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from densebench.features.padded_views import PaddedView

FITS = ("longer-side", "square-corner", "square-centre", "squash")


def picture(width, height, colour=None):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (height, width, 3)) if colour is None else np.full((height, width, 3), colour)
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.mark.parametrize("resample", ["bilinear", "pillow-bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(90, 60), (31, 70), (64, 64), (500, 3)])
def test_shapes_are_those_that_are_foretold(fit, resample, size):
    view = PaddedView(8, 64, fit, resample)
    pixels = view.image(picture(*size), "")
    assert pixels.shape == (3, *view.shape(*size)) and float(pixels.min()) >= 0 and float(pixels.max()) <= 1
    assert all(side % 8 == 0 for side in pixels.shape[1:])


def test_what_fills_the_longer_side_up_lies_at_the_right_and_the_bottom():
    view = PaddedView(14, 100, edge=(0.25, 0.5, 0.75))
    pixels = view.image(picture(200, 100, 255), "")
    assert pixels.shape == (3, 56, 112) and view.placement(200, 100).frame == (100, 50)
    assert (pixels[:, :50, :100] == 1).all()
    assert (pixels[0, 50:] == 0.25).all() and (pixels[2, :, 100:] == 0.75).all()


def test_a_square_is_made_at_the_corner_and_filled_up_on_all_sides():
    view = PaddedView(14, 100, "square-corner", "bicubic", (1.0, 1.0, 1.0), (0.5, 0.5, 0.5))
    pixels = view.image(picture(200, 100, 0), "")
    assert pixels.shape == (3, 112, 112) and view.placement(200, 100).offset == (6, 6)
    assert (pixels[:, :6] == 0.5).all() and (pixels[:, :, 106:] == 0.5).all()
    assert float(pixels[0, 10, 20]) == 0 and float(pixels[0, 100, 20]) == 1  # the image above, white below


def test_a_square_is_made_on_both_sides():
    pixels = PaddedView(8, 64, "square-centre", "lanczos").image(picture(128, 64, 255), "")
    assert (pixels[:, :16] == 0).all() and (pixels[:, 16:48] == 1).all() and (pixels[:, 48:] == 0).all()


@pytest.mark.parametrize("fit", FITS)
def test_placements_are_where_pixels_lie(fit):
    """A white mark on black is found where the placement says."""
    image = picture(96, 64, 0)
    image.paste((255, 255, 255), (60, 20, 72, 32))
    view = PaddedView(8, 64, fit, "bilinear")
    placed, bright = view.placement(96, 64), view.image(image, "")[0].double()
    assert fit != "square-corner" or placed.offset == (0, 0)
    rows, columns = torch.meshgrid(*(torch.arange(side).double() + 0.5 for side in bright.shape), indexing="ij")
    found = [float((bright * each).sum() / bright.sum()) for each in (columns, rows)]
    wanted = [scale * at + corner for scale, at, corner in zip(placed.scale, (66, 26), placed.corner, strict=True)]
    rounded = 0.2 if fit == "square-centre" else 0.05  # one factor for both axes, although the shorter side was rounded
    assert found == pytest.approx(wanted, abs=rounded)


@pytest.mark.parametrize("fit", FITS)
def test_a_mirrored_view_is_the_view_of_the_mirrored_image(fit):
    image = picture(90, 61)
    flipped = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    assert torch.equal(PaddedView(8, 64, fit, mirrored=True).image(image, ""), PaddedView(8, 64, fit).image(flipped, ""))


def test_every_field_is_part_of_the_identity():
    base = PaddedView(8, 64)
    others = [
        PaddedView(16, 64), PaddedView(8, 72), PaddedView(8, 64, "squash"), PaddedView(8, 64, resample="bicubic"),
        PaddedView(8, 64, colour=(1.0, 1.0, 1.0)), PaddedView(8, 64, edge=(1.0, 1.0, 1.0)), PaddedView(8, 64, mirrored=True),
    ]  # fmt: skip
    assert len({str(view.identity()) for view in (base, *others)}) == 8
