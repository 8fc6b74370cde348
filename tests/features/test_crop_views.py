"""Random crops, on ramps whose values are their coordinates."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from densebench.features.views import CropView


def ramps(width, height):
    """An image whose red is x and whose green is y."""
    y, x = np.mgrid[:height, :width].astype(np.uint8)
    return Image.fromarray(np.stack([x, y, 0 * x], axis=-1)), x, y


def boxes(width, height, size, count):
    """Left, top, width and height (as shares) and mirroring of many crops, read off the ramps."""
    image, _, _ = ramps(width, height)
    for key in range(count):
        red, green, _ = (CropView(size, f"key {key}").image(image, "digest") * 255).double()
        inner = slice(size // 4, size - size // 4)  # edges are clamped
        wide, high = (red[0, inner].diff().mean() * size).item(), (green[inner, 0].diff().mean() * size).item()
        yield red.mean().item() - abs(wide) / 2, green.mean().item() - high / 2, abs(wide), high, wide < 0


@pytest.mark.parametrize(("width", "height"), [(150, 120), (110, 130)])
def test_crops_have_the_area_and_aspect_that_was_published_and_half_are_mirrored(width, height):
    left, top, wide, high, mirrored = np.array(list(boxes(width, height, 64, 300))).T
    area, aspect = wide * high / width / height, wide / high
    assert 0.785 < area.min() < 0.82 and 0.95 < area.max() < 1.01
    assert aspect.min() > 0.74 and aspect.max() < 1.35 and aspect.max() / aspect.min() > 1.3
    assert left.min() > -1.5 and (left + wide).max() < width + 0.5 and left.std() > 2
    assert top.min() > -1.5 and (top + high).max() < height + 0.5 and top.std() > 2
    assert 105 < mirrored.sum() < 195


@pytest.mark.parametrize(("width", "height", "size"), [(150, 120, 64), (90, 110, 224), (200, 100, 32)])
def test_image_and_label_of_a_crop_are_the_same_part(width, height, size):
    image, x, y = ramps(width, height)
    for key in range(20):
        view = CropView(size, str(key))
        pixels = view.image(image, "digest") * 255
        assert pixels.shape == (3, size, size) and pixels.dtype == torch.float32
        for channel, coordinate in zip(pixels, (x, y), strict=False):
            label = view.label(coordinate, "digest")
            assert label.shape == (size, size) and label.dtype == torch.uint8
            assert (channel - label.float()).abs()[2:-2, 2:-2].max() < 0.75


def test_a_crop_is_decided_by_its_key_and_the_image():
    image, x, _ = ramps(150, 120)
    first = CropView(32, "a").image(image, "one"), CropView(32, "a").label(x, "one")
    torch.manual_seed(1)
    np.random.seed(1)
    assert torch.equal(first[0], CropView(32, "a").image(image, "one"))
    assert torch.equal(first[1], CropView(32, "a").label(x, "one"))
    for key, name in (("b", "one"), ("a", "two")):
        assert not torch.equal(first[0], CropView(32, key).image(image, name))
        assert not torch.equal(first[1], CropView(32, key).label(x, name))
    label = np.random.default_rng(0).choice(np.array([3, 77, 255], np.uint8), (120, 150))
    assert set(CropView(32, "a").label(label, "one").unique().tolist()) == {3, 77, 255}
