"""Corruptions worked out by hand: what the reference does where one would not expect it."""

from __future__ import annotations

import numpy as np
import pytest
from corruption_cases import picture

from densebench.numerics.corruptions import CORRUPTIONS, FAMILIES, LEVELS, corrupt
from densebench.numerics.corruptions.blur import ZOOM, disk, smear, zoomed
from densebench.numerics.corruptions.digital import elastic_transform
from densebench.numerics.corruptions.pixels import intensities, picture_of
from densebench.numerics.corruptions.weather import plasma

NONE = np.random.default_rng(0)


def halves():
    """The left half black, the right half white."""
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:, 16:] = 255
    return pixels


def test_all_bytes_survive_the_way_to_intensities_and_back():
    grey = np.repeat(np.arange(256, dtype=np.uint8)[None, :, None], 3, 2)
    assert (picture_of(intensities(grey)) == grey).all()


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_level_0_is_the_picture(name):
    grey = np.resize(np.arange(256, dtype=np.uint8), (32, 32, 3))
    assert (corrupt(grey, name, 0, NONE) == grey).all()


def test_intensities_are_truncated_not_rounded():
    assert picture_of(np.full((1, 1, 3), 76.9 / 255)).ravel().tolist() == [76] * 3


def test_contrast_of_black_and_white():
    assert np.unique(corrupt(halves(), "contrast", 1, NONE)).tolist() == [76, 178]


def test_contrast_is_about_the_mean_of_each_channel():
    flat = np.full((32, 32, 3), (10, 120, 250), np.uint8)
    assert np.abs(corrupt(flat, "contrast", 5, NONE).astype(int) - flat).max() <= 1


def test_brightness_raises_the_value_and_keeps_hue_and_saturation():
    flat = np.full((32, 32, 3), (100, 50, 0), np.uint8)
    assert np.abs(corrupt(flat, "brightness", 1, NONE)[0, 0].astype(int) - (125, 62, 0)).max() <= 1


def test_brightness_makes_black_grey():
    assert np.unique(corrupt(np.zeros((32, 32, 3), np.uint8), "brightness", 2, NONE)).tolist() == [51]


def test_zoom_blur_has_as_many_layers_as_floating_ranges_have():
    assert [len(np.arange(1, *ends)) for ends in ZOOM] == [12, 16, 11, 13, 11]


def test_zoom_blur_counts_the_clean_picture_twice():
    dot = np.zeros((101, 101, 3), np.uint8)
    dot[50, 50] = 255  # the middle stays in the middle, and its neighbours are black: each layer but two shows a part of it
    layers = [zoomed(intensities(dot), factor)[50, 50, 0] for factor in np.arange(1, *ZOOM[0]).tolist()]
    found = corrupt(dot, "zoom-blur", 1, NONE)[50, 50, 0]
    assert found == int(255 * (1 + sum(layers)) / 13)


def test_a_zoom_of_1_is_the_picture():
    assert (zoomed(intensities(picture()), 1.0) == intensities(picture())).all()


@pytest.mark.parametrize(("radius", "total"), [((3, 0.1), 1.0), ((4, 0.5), 1.0), ((8, 0.5), 1.013), ((10, 0.5), 1.011)])
def test_disks_that_touch_their_border_are_heavier(radius, total):
    assert disk(*radius).sum() == pytest.approx(total, abs=5e-4)


def test_a_disk_of_radius_3_has_29_equal_pixels():
    values = disk(3, 0.1)
    assert values.shape == (17, 17) and np.unique(values[values > 1e-9]).tolist() == [np.float32(1) / np.float32(29)]


def test_motion_to_the_left_repeats_the_border():
    values = np.zeros((32, 40, 1))
    values[:, -1] = 1  # the picture moves left, and its last column follows without an end
    moved = smear(values, 3, 2.0, 0.0)
    weights = np.exp(-(np.arange(7) ** 2) / 8)
    assert moved[5, -7:, 0] == pytest.approx((np.cumsum(weights[::-1])[::-1] / weights.sum())[::-1])


def test_motion_longer_than_the_picture_ends_early():
    weights = np.exp(-(np.arange(41) ** 2) / (2 * 15**2))
    moved = smear(np.ones((32, 32, 1)), 20, 15.0, 0.0)
    assert moved == pytest.approx(np.full((32, 32, 1), weights[:32].sum() / weights.sum()))


def test_salt_and_pepper_replace_a_share_of_single_values():
    grey = np.full((200, 200, 3), 128, np.uint8)
    found = corrupt(grey, "impulse-noise", 5, np.random.default_rng(3))
    assert np.unique(found).tolist() == [0, 128, 255]
    assert (found != 128).mean() == pytest.approx(0.27, abs=0.005) and (found == 255).mean() == pytest.approx(0.135, abs=0.005)


@pytest.mark.parametrize(("name", "deviation"), [("gaussian-noise", 0.08 * 255), ("shot-noise", 255 * np.sqrt(0.5 / 60))])
def test_noise_has_the_deviation_of_its_constants(name, deviation):
    grey = np.full((200, 200, 3), 127, np.uint8)
    found = corrupt(grey, name, 1, np.random.default_rng(3)).astype(float)
    assert found.std() == pytest.approx(deviation, rel=0.02) and found.mean() == pytest.approx(127, abs=1)


def test_elastic_displacements_grow_with_the_height_not_with_the_width():
    wide, tall = np.zeros((40, 160, 3), np.uint8), np.zeros((160, 40, 3), np.uint8)
    wide[:, 80:], tall[80:] = 255, 255

    def moved(pixels):
        return (elastic_transform(pixels, 5, np.random.default_rng(0)) != pixels).mean() * max(pixels.shape)

    assert moved(tall) > 2 * moved(wide)


def test_fog_is_thicker_than_nothing_and_keeps_the_brightest_value():
    white = np.full((48, 64, 3), 200, np.uint8)
    found = corrupt(white, "fog", 3, np.random.default_rng(0))
    assert found.max() <= 200 and found.std() > 0


def test_plasma_reaches_0_and_1():
    found = plasma(64, 2.0, np.random.default_rng(0))
    assert found.shape == (64, 64) and found.min() == 0 and found.max() == 1


def test_pixelate_shows_blocks_of_means():
    found = corrupt(halves(), "pixelate", 5, NONE)
    assert (found == halves()).all()  # 8 x 8 blocks of 4 x 4 px that the edge does not cut


def test_families_have_3_4_4_and_4_corruptions():
    assert [len(names) for names in FAMILIES.values()] == [3, 4, 4, 4] and len(CORRUPTIONS) == 15 and LEVELS == (1, 2, 3, 4, 5)
    assert [family for family, names in FAMILIES.items() if "frost" in names] == ["weather"]
