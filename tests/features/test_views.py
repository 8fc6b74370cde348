"""Views: sizes, crops, jitter, and that image and label see the same box."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from densebench.errors import UserError
from densebench.features.views import View, jitter, random_crop, to_tensor


def picture(width=40, height=30, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def generator(seed=0):
    return np.random.Generator(np.random.PCG64(seed))


def test_square_ignores_the_aspect_and_native_rounds_each_side():
    assert View(16, 64).shape(500, 375) == (64, 64)
    assert View(14).shape(500, 375) == (378, 504)  # 26.79 -> 27 and 35.71 -> 36 patches
    assert View(16).shape(3, 24) == (32, 16)  # a tie goes up; at least one patch


def test_a_size_that_the_stride_does_not_divide_is_refused():
    with pytest.raises(UserError, match="100 px is not a multiple of the stride 16; use 96"):
        View(16, 100)


def test_image_at_its_own_size_is_bytes_over_255():
    image = picture(32, 32)
    found = View(16, 32).image(image, "x")
    assert torch.equal(found, torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255)


def test_bilinear_is_antialiased():
    stripes = Image.fromarray(np.tile(np.array([0, 255], dtype=np.uint8), (64, 32))).convert("RGB")
    assert (View(16, 16).image(stripes, "x") - 0.5).abs().max() < 0.13  # without antialiasing all would be 0 or 1


def test_bicubic_is_pils():
    image = picture()
    expected = to_tensor(image.resize((16, 16), Image.Resampling.BICUBIC))
    assert torch.equal(View(16, 16, resample="bicubic").image(image, "x"), expected)


def test_label_resampling_by_hand():
    label = np.array([[0, 1, 2, 3, 4, 5]] * 6, dtype=np.uint8)
    assert View(2, 2).label(label, "x")[0].tolist() == [1, 4]  # under the centre of each output pixel
    assert View(2, 2, mask_resample="nearest").label(label, "x")[0].tolist() == [0, 3]  # under its corner
    assert View(4, 4).label(label[:, :2].copy(), "x")[0].tolist() == [0, 0, 1, 1]


def test_views_are_values():
    image, view = picture(), View(8, 32, augment=True, epoch=1)
    assert torch.equal(view.image(image, "a"), view.image(image, "a"))
    assert not torch.equal(view.image(image, "a"), view.image(image, "b"))
    assert not torch.equal(view.image(image, "a"), View(8, 32, augment=True).image(image, "a"))


@pytest.mark.parametrize("digest", [f"image {i}" for i in range(12)])
def test_image_and_label_see_the_same_box(digest):
    """Grey waves as image and as label map: jitter is affine in grey, so a straight line maps one view to the other if the
    boxes agree, and none does if they do not."""
    column = 0.5 + 0.2 * np.sin(np.linspace(0, 15, 240))[None, :] * np.ones((180, 1))
    row = 0.5 + 0.2 * np.sin(np.linspace(0, 15, 180))[:, None] * np.ones((1, 240))
    for ramp in (column, row):
        image = Image.fromarray((np.stack([ramp] * 3, -1) * 255).astype(np.uint8))
        view = View(8, 64, augment=True)
        seen = view.image(image, digest).mean(0).flatten()
        labels = view.label((ramp * 255).astype(np.uint8), digest).flatten() / 255
        design = torch.stack([seen, torch.ones_like(seen)], 1)
        residual = design @ torch.linalg.lstsq(design, labels[:, None]).solution - labels[:, None]
        assert residual.abs().max() < 0.02


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 600), st.integers(1, 600), st.integers(0, 10_000))
def test_crops_lie_inside_and_keep_the_aspect(width, height, seed):
    top, left, h, w = random_crop(width, height, generator(seed))
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert h > 0
    assert w > 0


def test_crops_of_a_square():
    crops = [random_crop(300, 300, generator(seed)) for seed in range(400)]
    whole = sum(crop.height == 300 == crop.width for crop in crops)
    areas = np.array([crop.height * crop.width / 90000 for crop in crops])
    assert areas.min() >= 0.49
    assert 0 < whole < 100  # ten draws nearly always find an area below 1
    assert {crop.top for crop in crops} != {0}


def test_fallback_crop_is_the_largest_centred_box():
    assert random_crop(1000, 10, generator()) == (0, 493, 10, 13)  # aspect 100: no draw fits
    assert random_crop(10, 1000, generator()) == (493, 0, 13, 10)


def test_jitter_changes_half_of_the_time_and_little():
    image = picture()
    jittered = [np.asarray(jitter(image, generator(seed)), dtype=int) for seed in range(60)]
    same = sum(np.array_equal(j, np.asarray(image)) for j in jittered)
    assert 0 < same < 15  # each of four at 1/2: 1/16 stay the same
    brightness = [abs(j.mean() - np.asarray(image).mean()) for j in jittered]
    assert max(brightness) < 0.13 * 255


def test_hue_turns_as_far_as_it_may():
    """Pure red, whose hue is 0: the turn can be read off, in 255ths."""
    image = Image.new("RGB", (1, 1), (255, 0, 0))

    def turns(**given):
        found = [np.asarray(jitter(image, generator(seed), **given).convert("HSV"))[0, 0, 0] for seed in range(300)]
        return [min(turn, 256 - turn) for turn in np.array(found, dtype=int)]

    assert 22 < max(turns()) <= 26
    assert max(turns(hue=0.1)) == max(turns())
    assert 110 < max(turns(hue=0.5)) <= 128


def test_how_far_hue_may_turn_changes_no_other_draw():
    """Brightness, contrast, saturation and the crop are those of the same image without it."""
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40), dtype=np.uint8)).convert("RGB")
    for name in ("a", "b", "c", "d", "e", "f"):
        usual, wide = View(8, 32, augment=True), View(8, 32, augment=True, hue=0.5)
        assert torch.equal(usual.image(grey, name), wide.image(grey, name))
        label = np.arange(30 * 40, dtype=np.uint8).reshape(30, 40)
        assert torch.equal(usual.label(label, name), wide.label(label, name))


def test_another_hue_is_another_view():
    assert View(8, 32, augment=True, hue=0.5).identity() != View(8, 32, augment=True).identity()


@pytest.mark.parametrize(("size", "share"), [((500, 375), 0.145), ((500, 333), 0.284), ((300, 300), 0.058)])
def test_the_share_of_views_that_are_the_largest_centred_box(size, share):
    box = (min(size[0], round(size[1] * 4 / 3)), min(size[1], round(size[0] * 4 / 3)))
    draws = generator()
    crops = [random_crop(*size, draws) for _ in range(4000)]
    found = np.mean([(crop.width, crop.height) == box for crop in crops])
    assert found == pytest.approx(share, abs=0.03)  # four standard deviations at the most


def test_identity_leaves_labels_out():
    assert View(8, 32).identity() == View(8, 32, mask_resample="nearest").identity()
    assert View(8, 32).identity() != View(8, 40).identity()
