"""Views cut out of others or like others, and colours that are drawn by halves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from drawn_together import FLIP, GLOBAL, GREY, HEIGHT, JITTER, LOCAL, NECO, SIGMA, SIZES, SOLARISE, WIDTH, drawn, near
from scipy import stats
from tiers import late, late_rows

from densebench.training.augmentation import ViewSpec, draw_views

FLSL = [
    ViewSpec(224, (0.8, 1.0), flip=0.0, other=(0.1, 0.2)),
    ViewSpec(224, (0.5, 1.0), flip=0.0, other=(0.1, 0.2), inside=0),
    *[ViewSpec(96, (0.1, 0.4), flip=0.0, other=(0.1, 0.2), inside=0)] * 2,
]


def is_inside(inner, outer):
    return (inner[:, :2] >= outer[:, :2]).all(1) & (inner[:, :2] + inner[:, 2:4] <= outer[:, :2] + outer[:, 2:4]).all(1)


@pytest.mark.parametrize("recipes", [NECO, FLSL, [ViewSpec(32, GLOBAL), ViewSpec(16, GLOBAL, like=0)]])
def test_draws_depend_on_the_generator_alone(recipes):
    before = np.random.get_state(), torch.random.get_rng_state()
    found = drawn(recipes, 30, seed=5)
    assert np.array_equal(np.random.get_state()[1], before[0][1])
    assert np.random.get_state()[2] == before[0][2]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    drawn(recipes, 3, seed=6)
    assert np.array_equal(drawn(recipes, 30, seed=5), found)
    assert not np.array_equal(drawn(recipes, 30, seed=6), found)


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_student_crops_lie_in_the_teachers(width, height):
    tables = drawn(FLSL, 400, width, height)
    teacher = tables[:, 0]
    for view, (low, high) in ((1, (0.5, 1.0)), (2, (0.1, 0.4)), (3, (0.1, 0.4))):
        box = tables[:, view]
        assert is_inside(box, teacher).all()
        area = teacher[:, HEIGHT] * teacher[:, WIDTH]
        rounding = 1.01 + 0.51 * teacher[:, 2:4] / 224  # to pixels of the teacher's view and of the image
        assert ((box[:, 2:4] + rounding).prod(1) >= low * area).all()
        assert ((box[:, 2:4] - rounding).clip(0).prod(1) <= high * area).all()
    assert len(np.unique(tables[:, 1, :4], axis=0)) > 50
    assert not (tables[:, 2, :4] == tables[:, 3, :4]).all(1).mean() > 0.1


@pytest.mark.parametrize(("width", "height"), [(1, 1), (2, 3), (1, 9), (12, 2), (5, 5)])
def test_crops_of_crops_of_tiny_images_keep_a_pixel(width, height):
    recipes = [ViewSpec(224, (0.1, 0.5)), ViewSpec(96, (0.01, 0.05), inside=0), ViewSpec(32, (0.1, 1.0), inside=1)]
    tables = drawn(recipes, 300, width, height)
    assert is_inside(tables[:, 1], tables[:, 0]).all()
    assert is_inside(tables[:, 2], tables[:, 1]).all()


@pytest.mark.parametrize("scale", late([(0.5, 1.0), (0.1, 0.4)], (0.1, 0.4)))
@pytest.mark.parametrize(
    ("width", "height", "teacher"),
    [(1200, 1200, (0, 0, 1200, 1200)), (1200, 2400, (400, 0, 1600, 1200)), (2600, 1200, (0, 500, 1200, 1600))],
)
def test_crops_of_crops_are_random_resized_crops_of_a_square(width, height, teacher, scale):
    """In parts of the earlier box they are drawn as from a square image, whatever the sides of the box: so their aspect, too."""
    whole = ViewSpec(1200, (1.0, 1.0))
    tables = drawn([whole, ViewSpec(96, scale, inside=0)], 1200, width, height)
    assert (tables[:, 0, :4] == teacher).all()  # all, or where no box fits the middle
    found = (tables[:, 1, :4] - (*teacher[:2], 0, 0)) / (teacher[2:] * 2)
    generator = np.random.default_rng(1)
    square = np.stack([ViewSpec(96, scale).draw(1200, 1200, generator)[:4] for _ in range(1200)]) / 1200
    for number in range(4):
        assert stats.ks_2samp(found[:, number], square[:, number]).pvalue > 1e-3
    ratios = np.log(found[:, 3] / found[:, 2])
    assert np.abs(ratios).max() < math.log(4 / 3) + 0.01
    assert stats.ks_2samp(ratios, np.log(square[:, 3] / square[:, 2])).pvalue > 1e-3


def test_crops_of_crops_are_measured_in_parts_of_the_crop():
    """A teacher anywhere in the image: shares of its area and places in it are uniform; it is not the image that counts."""
    recipes = [ViewSpec(2000, (0.3, 0.6)), ViewSpec(32, (0.1, 0.4), inside=0)]
    tables = drawn(recipes, 1500, 4000, 3000)
    teacher, box = tables[:, 0], tables[:, 1]
    share = box[:, HEIGHT] * box[:, WIDTH] / (teacher[:, HEIGHT] * teacher[:, WIDTH])
    assert stats.kstest(share, stats.uniform(0.1, 0.3).cdf).pvalue > 1e-3
    ratio = np.log(box[:, WIDTH] / teacher[:, WIDTH] / (box[:, HEIGHT] / teacher[:, HEIGHT]))
    assert stats.kstest(ratio, stats.uniform(math.log(3 / 4), 2 * math.log(4 / 3)).cdf).pvalue > 1e-3
    for axis in (0, 1):
        place = (box[:, axis] - teacher[:, axis]) / (teacher[:, 2 + axis] - box[:, 2 + axis])
        assert stats.kstest(place, stats.uniform.cdf).pvalue > 1e-3


def test_a_view_like_another_has_its_box_and_its_flip_and_its_own_colours():
    recipes = [ViewSpec(32, GLOBAL), ViewSpec(224, LOCAL), ViewSpec(96, GLOBAL, flip=0.0, like=1)]
    tables = drawn(recipes, 1500)
    assert (tables[:, 2, :5] == tables[:, 1, :5]).all()
    assert near(tables[:, 2, FLIP] > 0, 0.5)
    assert (tables[:, 2, :4] != tables[:, 0, :4]).any(1).all()
    for number, chance in ((JITTER, 0.8), (GREY, 0.2), (SIGMA, 0.5)):
        mine, others = tables[:, 2, number] > 0, tables[:, 1, number] > 0
        assert near(mine, chance)
        assert near(mine & others, chance**2)
    for number in range(6, 10):
        assert abs(np.corrcoef(tables[:, 1, number], tables[:, 2, number])[0, 1]) < 0.12


def test_a_view_inside_or_like_another_leaves_the_other_as_it_would_be():
    """The first view's numbers do not depend on what follows."""
    for later in (ViewSpec(16, LOCAL, like=0), ViewSpec(16, LOCAL, inside=0), ViewSpec(16, LOCAL, meets=(0,))):
        for seed in range(5):
            alone = ViewSpec(32, GLOBAL, solarise=0.2).draw(60, 50, np.random.default_rng(seed))
            found = draw_views([ViewSpec(32, GLOBAL, solarise=0.2), later], 60, 50, np.random.default_rng(seed))
            assert np.array_equal(found[0], alone)


HALVES = [(0.5, 0.0, (0.1, 0.2)), (0.9, 0.1, (0.2, 0.8)), (0.3, 0.6, (1.0, 0.0)), (0.0, 0.0, (0.5, 0.5))]


@pytest.mark.parametrize(
    ("blur", "solarise", "other"),
    late_rows(HALVES, HALVES[1]),
)
def test_blur_and_solarise_go_together_by_halves(blur, solarise, other):
    tables = drawn([ViewSpec(32, GLOBAL, blur=blur, solarise=solarise, other=other)], 5000)[:, 0]
    blurred, solarised = tables[:, SIGMA] > 0, tables[:, SOLARISE] > 0
    assert near(blurred, (blur + other[0]) / 2)
    assert near(solarised, (solarise + other[1]) / 2)
    assert near(blurred & solarised, (blur * solarise + other[0] * other[1]) / 2)
    assert near(blurred & ~solarised, (blur * (1 - solarise) + other[0] * (1 - other[1])) / 2)
    for number, chance in ((FLIP, 0.5), (JITTER, 0.8), (GREY, 0.2)):
        assert near(tables[:, number] > 0, chance)
        assert near((tables[:, number] > 0) & blurred, chance * (blur + other[0]) / 2)
    assert tables[blurred, SIGMA].min() >= 0.0999
    assert stats.kstest(tables[blurred, SIGMA], stats.uniform(0.1, 1.9).cdf).pvalue > 1e-3


def test_each_view_tosses_for_itself():
    """Either blurred or solarised, never both or neither, half and half, in each view apart."""
    recipe = ViewSpec(32, GLOBAL, blur=1.0, solarise=0.0, other=(0.0, 1.0))
    tables = drawn([recipe, recipe], 1500)
    blurred, solarised = tables[:, :, SIGMA] > 0, tables[:, :, SOLARISE] > 0
    assert (blurred ^ solarised).all()
    assert near(blurred[:, 0], 0.5)
    assert near(blurred[:, 0] & blurred[:, 1], 0.25)


def test_other_probabilities_hold_for_dependent_views_too():
    tables = drawn(FLSL, 3000)
    for view in range(4):
        blurred, solarised = tables[:, view, SIGMA] > 0, tables[:, view, SOLARISE] > 0
        assert near(blurred, 0.3)
        assert near(solarised, 0.1)
        assert near(blurred & solarised, 0.01)
        assert (tables[:, view, FLIP] == 0).all()
