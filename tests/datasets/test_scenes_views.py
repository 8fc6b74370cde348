"""Generated views: depth, cameras and pose agree with each other and with the pixels."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from PIL import Image

from densebench.conformance.datasets import check_dataset
from densebench.datasets import load_dataset

DATA = load_dataset("scenes-views")


def seen_again(pair):
    """Where the points of the source are in the target, and their depth there."""
    camera = pair.source_camera
    depth = DATA.depth(pair.source)
    y, x = np.mgrid[0:128, 0:128] + 0.5
    rays = np.stack([(x - camera.centre[0]) / camera.focal[0], (y - camera.centre[1]) / camera.focal[1], np.ones_like(x)], -1)
    points = (rays * depth[..., None]).reshape(-1, 3) @ pair.rotation.T + pair.translation
    return points[:, :2] / points[:, 2:] * camera.focal + camera.centre, points[:, 2]


@pytest.mark.parametrize("number", [0, 6, 15])
def test_what_is_not_hidden_has_the_same_depth_in_both_views(number):
    pair = DATA.pairs("test")[number]
    places, depth = seen_again(pair)
    inside = ((places >= 0) & (places < 128)).all(1)
    columns, rows = places[inside].astype(int).T
    there = DATA.depth(pair.target)[rows, columns]
    same = np.abs(there - depth[inside]) < 0.03
    assert inside.mean() > 0.3
    assert same.mean() > 0.8  # the rest is hidden by a panel
    assert (there[~same] < depth[inside][~same] + 0.15).mean() > 0.7


def test_a_point_has_about_its_colour_in_both_views():
    pair = DATA.pairs("test")[0]
    places, depth = seen_again(pair)
    first, second = (np.asarray(DATA.image(item)).astype(float) for item in (pair.source, pair.target))
    inside = ((places >= 1) & (places < 127)).all(1)
    columns, rows = places[inside].astype(int).T
    same = np.abs(DATA.depth(pair.target)[rows, columns] - depth[inside]) < 0.03
    apart = np.abs(first.reshape(-1, 3)[inside] - second[rows, columns])[same].mean()
    shuffled = np.abs(first.reshape(-1, 3)[inside] - second[rows, columns][::-1])[same].mean()
    assert apart < 0.5 * shuffled


def test_the_cameras_of_pairs_are_0_to_90_degrees_apart():
    angles = [np.degrees(np.arccos((np.trace(pair.rotation) - 1) / 2)) for pair in DATA.pairs("test")]
    assert angles[0] < 15 and angles[-1] > 75
    assert len(angles) == 16 and all(before < after + 10 for before, after in itertools.pairwise(angles))


def test_a_view_is_the_same_every_time():
    item = DATA.items("test")[3]
    again = load_dataset("scenes-views")
    assert np.array_equal(DATA.image(item), again.image(item)) and np.array_equal(DATA.depth(item), again.depth(item))
    assert DATA.digest("test", DATA.items("test")) == again.digest("test", again.items("test"))
    assert isinstance(DATA.image(item), Image.Image)


def test_the_data_set_conforms():
    failed = {each.name: each.message for each in check_dataset("scenes-views") if each.passed is False}
    assert failed == {}
