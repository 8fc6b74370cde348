"""Crops: Pillow's crop and resize, weights row by row, and where patches are, against maps of pixel indices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from densebench.numerics import crops
from densebench.numerics.crops import patch_positions, resampling_weights, resized_crops

KERNELS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# Top, left, height, width in an image of 60 x 80: shrunk, whole, enlarged, as it is, one pixel, narrow.
BOXES = [(3, 5, 50, 61), (0, 0, 60, 80), (10, 20, 9, 7), (2, 3, 32, 32), (59, 79, 1, 1), (5, 5, 40, 9)]


def smooth(height, width):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([127 + 100 * np.sin(x / 9 + c) * np.cos(y / 7) for c in range(3)], 2).astype(np.uint8)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ours(images, boxes, flips, size, kernel):
    """Pad the images to one size (with noise, which must not be seen), cut; bytes' scale, channels last."""
    height, width = (max(image.shape[axis] for image in images) + 5 for axis in (0, 1))
    padded = np.stack([noise(height, width, seed=9) for _ in images])
    for row, image in zip(padded, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    pixels = torch.from_numpy(padded).permute(0, 3, 1, 2)
    found = resized_crops(pixels, torch.tensor(boxes).float(), torch.tensor(flips), size, kernel)
    assert found.dtype == torch.float32
    assert found.shape == (len(images), 3, size, size)
    return found.permute(0, 2, 3, 1).numpy() * 255


def cut(image, box, flip, size, kernel):
    """Pillow on bytes."""
    top, left, height, width = box
    part = Image.fromarray(image).crop((left, top, left + width, top + height)).resize((size, size), KERNELS[kernel])
    part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else part
    return np.asarray(part).astype(float)


def resized(channel, box, flip, shape, kernel="bicubic"):
    """Pillow on floating-point numbers: no rounding and no clipping between the passes."""
    top, left, height, width = box
    part = Image.fromarray(channel.astype(np.float32)).crop((left, top, left + width, top + height))
    part = np.asarray(part.resize(shape[::-1], KERNELS[kernel]))
    return part[:, ::-1] if flip else part


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [16, 32, 70])
def test_crops_are_pillows_in_floating_point(kernel, size):
    """Within 0.002 of 255 of Pillow's filter on floats, even on noise, at any scale, for padded images, mirrored or not."""
    images = [noise(60, 80, seed=i) for i in range(len(BOXES))]
    images[3], images[5] = images[3][:40, :50], images[5][:50, :20]
    flips = [i % 2 == 0 for i in range(len(BOXES))]
    found = ours(images, BOXES, flips, size, kernel)
    for row, image, box, flip in zip(found, images, BOXES, flips, strict=True):
        wanted = np.stack([resized(image[..., c], box, flip, (size, size), kernel) for c in range(3)], 2).clip(0, 255)
        np.testing.assert_allclose(row, wanted, rtol=0, atol=2e-3)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("size", [16, 32, 70])
@pytest.mark.parametrize("flip", [False, True])
def test_crops_are_pillows_but_for_its_rounding(kernel, size, flip):
    """Within 1.1 of 255 of Pillow on bytes, which rounds twice: at most half a byte after each pass; 0.35 on average."""
    images = [smooth(60, 80)] * len(BOXES)
    found = ours(images, BOXES, [flip] * len(BOXES), size, kernel)
    for row, image, box in zip(found, images, BOXES, strict=True):
        difference = np.abs(row - cut(image, box, flip, size, kernel))
        assert difference.max() < 1.1
        assert difference.mean() < 0.35


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_box_of_the_same_size_is_a_copy(kernel):
    image = noise(40, 50)
    found = ours([image, image], [(3, 7, 32, 32)] * 2, [False, True], 32, kernel)
    np.testing.assert_allclose(found[0], image[3:35, 7:39], atol=1e-3)
    np.testing.assert_allclose(found[1], image[3:35, 7:39][:, ::-1], atol=1e-3)


def test_values_stay_in_range_where_the_cubic_overshoots():
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 10:] = 255
    found = ours([image], [(0, 0, 20, 20)], [False], 50, "bicubic") / 255
    assert found.min() == 0
    assert found.max() == 1


def test_a_batch_is_its_images_one_by_one_in_any_chunks(monkeypatch):
    images = [noise(60, 80, seed=i) for i in range(5)]
    whole = ours(images, BOXES[:5], [True, False] * 2 + [True], 24, "bicubic")
    monkeypatch.setattr(crops, "CHUNK_BYTES", 1)
    np.testing.assert_allclose(ours(images, BOXES[:5], [True, False] * 2 + [True], 24, "bicubic"), whole, atol=1e-4)
    for i in range(5):
        alone = ours(images[i : i + 1], BOXES[i : i + 1], [i % 2 == 0], 24, "bicubic")
        np.testing.assert_allclose(alone[0], whole[i], atol=1e-3)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 20), st.integers(1, 40), st.integers(1, 30), st.sampled_from(sorted(KERNELS)))
def test_weights_are_what_pillow_gives_to_each_pixel(start, length, size, kernel):
    """Row by row: resize one-hot lines, and a weight is what comes out."""
    extent = start + length + 3
    weights = resampling_weights(torch.tensor([start]).float(), torch.tensor([length]).float(), size, extent, kernel)
    assert weights.shape == (1, size, extent)
    np.testing.assert_allclose(weights.sum(2), 1, atol=1e-5)
    assert not weights[:, :, :start].any()
    assert not weights[:, :, start + length :].any()
    lines = np.eye(length, dtype=np.float32)  # row p is the line whose pixel p is lit
    expected = np.stack([np.asarray(Image.fromarray(line[None]).resize((size, 1), KERNELS[kernel]))[0] for line in lines], 1)
    np.testing.assert_allclose(weights[0, :, start : start + length], expected, atol=1e-5)


def test_weights_by_hand():
    """Twice as small, a triangle of twice the reach: 1/8 3/8 3/8 1/8 inside, and renormalised where it meets the edge."""
    weights = resampling_weights(torch.tensor([0.0]), torch.tensor([6.0]), 3, 6, "bilinear")[0]
    expected = [[3 / 7, 3 / 7, 1 / 7, 0, 0, 0], [0, 1 / 8, 3 / 8, 3 / 8, 1 / 8, 0], [0, 0, 0, 1 / 7, 3 / 7, 3 / 7]]
    torch.testing.assert_close(weights, torch.tensor(expected))


def test_positions_by_hand():
    boxes, flips = torch.tensor([[37.0, 101.0, 300.0, 280.0]] * 2), torch.tensor([False, True])
    found = patch_positions(boxes, flips, (14, 14))
    assert found.shape == (2, 196, 2)
    assert found[0, 0].tolist() == pytest.approx([110.5, 47.2143], abs=1e-4)
    assert found[1, 0].tolist() == pytest.approx([370.5, 47.2143], abs=1e-4)
    assert found[0, 1].tolist() == pytest.approx([130.5, 47.2143], abs=1e-4)  # row by row: the second patch is to the right
    assert found[1, 1].tolist() == pytest.approx([350.5, 47.2143], abs=1e-4)
    assert found[0, 14].tolist() == pytest.approx([110.5, 68.6429], abs=1e-4)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("box", [(37, 101, 300, 280), (0, 0, 400, 500), (10, 20, 300, 90), (200, 300, 120, 180)])
def test_positions_are_those_of_a_resized_map_of_pixel_indices(box, flip):
    """The map of indices, cropped, resized and mirrored like the image, and averaged over each patch of 16 x 16."""
    y, x = np.mgrid[0:400, 0:500]
    maps = [resized(channel, box, flip, (224, 224)).reshape(14, 16, 14, 16).mean((1, 3)).reshape(-1) for channel in (x, y)]
    found = patch_positions(torch.tensor([box]).float(), torch.tensor([flip]), (14, 14))[0]
    np.testing.assert_allclose(found, np.stack(maps, 1), atol=0.01)


def test_positions_of_a_grid_that_is_not_square():
    box = (5, 8, 64, 96)
    y, x = np.mgrid[0:80, 0:120]
    maps = [resized(channel, box, True, (32, 48)).reshape(2, 16, 3, 16).mean((1, 3)).reshape(-1) for channel in (x, y)]
    found = patch_positions(torch.tensor([box]).float(), torch.tensor([True]), (2, 3))[0]
    np.testing.assert_allclose(found, np.stack(maps, 1), atol=0.05)


def test_positions_move_and_scale_with_the_box():
    boxes, flips = torch.tensor([[10.0, 20.0, 60.0, 80.0]]), torch.tensor([True])
    found = patch_positions(boxes, flips, (6, 4))
    moved = patch_positions(boxes + torch.tensor([[7.0, -3.0, 0.0, 0.0]]), flips, (6, 4))
    torch.testing.assert_close(moved - found, torch.tensor([-3.0, 7.0]).expand_as(found))
    double = patch_positions(boxes * 2, flips, (6, 4))
    torch.testing.assert_close(double + 0.5, 2 * (found + 0.5))
    one = patch_positions(boxes, flips, (1, 1))
    torch.testing.assert_close(found.mean(1, keepdim=True), one)


def test_a_patch_is_where_its_pixels_are():
    """An image whose colours are its own coordinates, cut like any image: the patch's mean colour is its position."""
    y, x = np.mgrid[0:128, 0:200]
    image = np.stack([x, y, 0 * x], 2).astype(np.uint8)
    boxes, flips = [(16, 24, 64, 96), (30, 10, 90, 150)], [False, True]
    found = ours([image, image], boxes, flips, 48, "bilinear")[..., :2]
    means = found.reshape(2, 3, 16, 3, 16, 2).mean((2, 4)).reshape(2, 9, 2)
    positions = patch_positions(torch.tensor(boxes).float(), torch.tensor(flips), (3, 3))
    np.testing.assert_allclose(positions, means, atol=0.05)
