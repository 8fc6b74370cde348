"""Maps as small pictures, and places in pictures."""

import looks
import numpy as np
import pytest

from densebench.looking import maps


@pytest.fixture
def seen():
    return looks.look(("a", "b"), ("one",), grid=(3, 4)).backbones[0]


def test_a_map_has_a_pixel_for_each_patch(seen):
    assert maps.colours(seen.views[0]).size == (4, 3)


def test_a_veil_hides_the_background_alone(seen):
    view = seen.views[0]
    hidden = np.asarray(maps.background(view))[..., 3] == 255
    assert (hidden == ~view.foreground).all()
    assert hidden.any() and not hidden.all()


def test_the_same_cluster_has_the_same_colour_in_every_picture(seen):
    count = maps.cluster_count(seen)
    drawn = [np.asarray(maps.clusters(view, count).convert("RGB")) for view in seen.views]
    colours = {}
    for view, pixels in zip(seen.views, drawn, strict=True):
        for place in np.ndindex(view.clusters.shape):
            assert colours.setdefault(view.clusters[place], tuple(pixels[place])) == tuple(pixels[place])
    assert len(set(colours.values())) == len(colours)


def test_the_scale_runs_from_its_darkest_to_its_brightest_colour():
    pixels = np.asarray(maps.shaded(np.array([[-3.0, 0.0, 1.0, 9.0]]), maps.COSINES).convert("RGB")).sum(2)[0]
    assert pixels[0] == pixels[1] < pixels[2] == pixels[3]


def test_outliers_do_not_stretch_the_scale_of_lengths(seen):
    scale = maps.norm_scale(seen)
    usual = np.concatenate([view.norms[~view.outliers] for view in seen.views])
    assert (scale.low, scale.high) == (usual.min(), usual.max())


def test_equal_lengths_look_equal(seen):
    for view in seen.views:
        view.norms[:] = 20 + 0.001 * np.arange(view.norms.size).reshape(view.norms.shape)
    assert np.ptp(np.asarray(maps.shaded(seen.views[0].norms, maps.norm_scale(seen)))) <= 1


def test_each_head_has_its_place(seen):
    view = seen.views[0]
    view.attention[:] = 0
    view.attention[1, 2, 3] = 0.5  # the second of three heads, its last patch: right of the first, in two rows of two
    picture = np.asarray(maps.heads(view).convert("RGB")).astype(int).sum(2)
    assert picture.shape == (3 + 1 + 3, 4 + 1 + 4)
    assert np.argwhere(picture[:3] == picture[2, 8]).tolist() == [[2, 8]]


@pytest.mark.parametrize(
    ("place", "expected"), [((0, 0), (0, 0)), ((0.49, 0.5), (1, 2)), ((0.6, 0.4), (1, 1)), ((1.0, 1.0), (2, 3))]
)
def test_the_patch_that_holds_a_place(place, expected):
    assert maps.patch(place, (3, 4)) == expected


def test_a_square_around_a_patch_at_the_edge_stays_in_the_picture():
    left, top, right, bottom = maps.around(maps.patch_box(0, 3, (3, 4)), (400, 300))
    assert (top, right) == (0, 1)
    assert (right - left) * 400 == pytest.approx((bottom - top) * 300)


def test_a_square_in_a_panorama_is_no_higher_than_it():
    box = maps.around(maps.patch_box(0, 5, (1, 20)), (2000, 100))
    assert box[1] == 0
    assert box[3] == 1
