"""Views of one image that depend on each other: overlaps, crops of crops, equal crops, two kinds of blur and solarise.

Sources: Ziegler & Asano, Leopart, CVPR 2022, and Pariza et al., NeCo, 2024 (every later crop overlaps the global ones by more
than a share of the image); Su et al., FLSL, NeurIPS 2023, and its code (student crops are cut out of the teacher's, which is
resized first); torchvision's RandomResizedCrop.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats

from densebench.errors import UserError
from densebench.training import augmentation
from densebench.training.augmentation import ViewSpec, draw_views

TOP, LEFT, HEIGHT, WIDTH, FLIP, JITTER, GREY, SIGMA, SOLARISE = 0, 1, 2, 3, 4, 5, 14, 15, 16
GLOBAL, LOCAL = (0.25, 1.0), (0.05, 0.25)
NECO = [
    ViewSpec(224, GLOBAL, flip=0.0),
    ViewSpec(224, GLOBAL, flip=0.0, meets=(0,), overlap=0.02),
    *[ViewSpec(96, LOCAL, flip=0.0, meets=(0, 1), overlap=0.01)] * 4,
]
FLSL = [
    ViewSpec(224, (0.8, 1.0), flip=0.0, other=(0.1, 0.2)),
    ViewSpec(224, (0.5, 1.0), flip=0.0, other=(0.1, 0.2), inside=0),
    *[ViewSpec(96, (0.1, 0.4), flip=0.0, other=(0.1, 0.2), inside=0)] * 2,
]
SIZES = [(640, 480), (224, 224), (40, 1000), (1000, 40), (64, 48)]


def drawn(recipes, count, width=640, height=480, seed=0):
    generator = np.random.default_rng(seed)
    tables = np.stack([draw_views(recipes, width, height, generator) for _ in range(count)])
    assert tables.shape == (count, len(recipes), 17)
    assert tables.dtype == np.float32
    boxes = tables[:, :, :4]
    assert (boxes == boxes.round()).all()
    assert (boxes[:, :, :2] >= 0).all()
    assert (boxes[:, :, 2:] >= 1).all()
    assert (boxes[:, :, TOP] + boxes[:, :, HEIGHT] <= height).all()
    assert (boxes[:, :, LEFT] + boxes[:, :, WIDTH] <= width).all()
    return tables.astype(np.float64)


def shared(a, b):
    """Pixels that two boxes have in common, one pair a row."""
    down = np.minimum(a[:, TOP] + a[:, HEIGHT], b[:, TOP] + b[:, HEIGHT]) - np.maximum(a[:, TOP], b[:, TOP])
    across = np.minimum(a[:, LEFT] + a[:, WIDTH], b[:, LEFT] + b[:, WIDTH]) - np.maximum(a[:, LEFT], b[:, LEFT])
    return down.clip(0) * across.clip(0)


def is_inside(inner, outer):
    return (inner[:, :2] >= outer[:, :2]).all(1) & (inner[:, :2] + inner[:, 2:4] <= outer[:, :2] + outer[:, 2:4]).all(1)


def near(flags, probability):
    """Within 4.5 standard errors."""
    return abs(flags.mean() - probability) <= 4.5 * math.sqrt(probability * (1 - probability) / len(flags))


def off_centre(boxes, others):
    """How much nearer the centre of each box could be to the centre of what the others have in common, down and across."""
    edges = []
    for start, length in ((TOP, HEIGHT), (LEFT, WIDTH)):
        first = np.max([other[:, start] for other in others], 0)
        last = np.min([other[:, start] + other[:, length] for other in others], 0)
        edges.append((first + last) / 2)
    return np.stack(edges, 1) - boxes[:, :2] - boxes[:, 2:4] / 2


def is_as_near_as_can_be(boxes, others, width, height):
    """No whole place in the image brings the centre nearer, down or across; of two that are as near, either is right."""
    found = np.ones(len(boxes), bool)
    away = off_centre(boxes, others)
    for axis, side in ((0, height), (1, width)):
        place, room = boxes[:, axis], side - boxes[:, 2 + axis]
        for step in (-1, 1):
            possible = (place + step >= 0) & (place + step <= room)
            found &= ~possible | (np.abs(away[:, axis] - step) >= np.abs(away[:, axis]))
    return found


@pytest.mark.parametrize(
    "recipes",
    [
        [ViewSpec(224, GLOBAL, solarise=0.2), ViewSpec(224, GLOBAL, blur=0.1), ViewSpec(96, LOCAL, flip=0.0)],
        [ViewSpec(32, (0.9, 1.0))],
    ],
)
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_views_that_depend_on_nothing_are_drawn_one_by_one(recipes, width, height):
    ours, theirs = np.random.default_rng(4), np.random.default_rng(4)
    for _ in range(20):
        found = draw_views(recipes, width, height, ours)
        assert found.dtype == np.float32
        assert np.array_equal(found, np.stack([recipe.draw(width, height, theirs) for recipe in recipes]))
        assert ours.bit_generator.state == theirs.bit_generator.state


@pytest.mark.parametrize("attempts", [None, 1])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_every_later_view_overlaps_the_global_ones(monkeypatch, width, height, attempts):
    """Strictly more than 2 % and 1 % of the image; with a single attempt it is the move that sees to it."""
    if attempts:
        monkeypatch.setattr(augmentation, "ATTEMPTS", attempts)
    tables = drawn(NECO, 400, width, height)
    image = width * height
    assert (shared(tables[:, 0], tables[:, 1]) > 0.02 * image).all()
    for view in range(2, 6):
        for other in (0, 1):
            assert (shared(tables[:, view], tables[:, other]) > 0.01 * image).all()


def test_the_overlaps_are_those_constraints_and_no_others():
    """Without them the views miss each other now and then; local views are not made to meet each other."""
    free = drawn([ViewSpec(96, LOCAL)] * 2, 400)
    assert 0.1 < (shared(free[:, 0], free[:, 1]) <= 0.01 * 640 * 480).mean() < 0.9
    tables = drawn(NECO, 400)
    missed = [shared(tables[:, a], tables[:, b]) <= 0.01 * 640 * 480 for a, b in itertools.combinations(range(2, 6), 2)]
    assert np.mean(missed) > 0.1


def test_the_view_named_is_the_one_met():
    """View 2 meets view 1 and not view 0, which it could have taken it for."""
    small = (0.02, 0.04)
    recipes = [ViewSpec(32, small), ViewSpec(32, small), ViewSpec(32, small, meets=(1,), overlap=0.004)]
    tables = drawn(recipes, 300)
    assert (shared(tables[:, 2], tables[:, 1]) > 0.004 * 640 * 480).all()
    assert (shared(tables[:, 2], tables[:, 0]) > 0.004 * 640 * 480).mean() < 0.5


@pytest.mark.parametrize("attempts", [None, 3])
@pytest.mark.parametrize(("width", "height"), [(40, 1000), (1000, 40)])
def test_small_views_of_long_images_meet(monkeypatch, width, height, attempts):
    """Two crops of about 25 pixels along 1000 seldom meet by chance."""
    if attempts:
        monkeypatch.setattr(augmentation, "ATTEMPTS", attempts)
    recipe = ViewSpec(32, (0.01, 0.02))
    tables = drawn([recipe, ViewSpec(32, (0.01, 0.02), meets=(0,), overlap=0.004)], 500, width, height)
    assert (shared(tables[:, 0], tables[:, 1]) > 0.004 * 40 * 1000).all()
    areas = tables[:, 1, HEIGHT] * tables[:, 1, WIDTH] / 40_000
    assert areas.min() > 0.009
    assert areas.max() < 0.022
    if attempts:
        assert is_as_near_as_can_be(tables[:, 1], [tables[:, 0]], width, height).mean() > 0.6


@pytest.mark.parametrize("meets", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize(("width", "height"), [(640, 480), (40, 1000), (90, 31)])
def test_what_cannot_be_met_is_moved_to_the_middle(meets, width, height):
    """The earlier views are too small for it. The centre ends as near to that of their intersection as the image lets it."""
    first, second = ViewSpec(32, (0.1, 0.2)), ViewSpec(32, (0.1, 0.2), meets=(0,), overlap=0.01)
    last = ViewSpec(32, (0.3, 0.6), meets=meets, overlap=0.25)
    tables = drawn([first, second, last], 60, width, height)
    assert is_as_near_as_can_be(tables[:, 2], [tables[:, number] for number in meets], width, height).all()
    away = off_centre(tables[:, 2], [tables[:, number] for number in meets])
    assert (np.abs(away).max(1) <= 0.5).any()
    if width == 640:
        assert (np.abs(away).max(1) > 2).any()  # held back by the border
        for other in {0, 1} - set(meets):
            assert not is_as_near_as_can_be(tables[:, 2], [tables[:, other]], width, height).all()
        areas = tables[:, 2, HEIGHT] * tables[:, 2, WIDTH] / (640 * 480)
        assert 0.295 < areas.min() < 0.35
        assert 0.55 < areas.max() < 0.605


def test_the_overlap_must_be_more_than_its_share():
    """One pixel of 64 is not more than a 64th: always moved to the middle. Just below, the first draw will do, wherever it is."""
    whole, pixel = ViewSpec(8, (1.0, 1.0)), (1.1 / 64, 1.2 / 64)  # rounded: one pixel
    equal = drawn([whole, ViewSpec(8, pixel, meets=(0,), overlap=1 / 64)], 40, 8, 8)[:, 1]
    assert (equal[:, 2:4] == 1).all()
    assert ((equal[:, :2] == 3) | (equal[:, :2] == 4)).all()
    less = drawn([whole, ViewSpec(8, pixel, meets=(0,), overlap=0.9 / 64)], 400, 8, 8)[:, 1]
    assert len(np.unique(less[:, :2], axis=0)) == 64


def test_to_touch_is_not_to_meet():
    pixel = (1 / 64, 1 / 64)
    tables = drawn([ViewSpec(8, pixel), ViewSpec(8, pixel, meets=(0,))], 200, 8, 8)
    assert (tables[:, 0, :4] == tables[:, 1, :4]).all()


@pytest.mark.parametrize("overlap", [0.1, 0.11, 1.0])
def test_a_view_that_may_be_too_small_for_its_overlap_is_refused(overlap):
    with pytest.raises(UserError):
        draw_views([ViewSpec(8, GLOBAL), ViewSpec(8, (0.1, 1.0), meets=(0,), overlap=overlap)], 8, 8, np.random.default_rng(0))


def test_the_attempts_are_counted(monkeypatch):
    """Moved are the draws of which three attempts in a row failed (or four, where the first is not yet one of them)."""
    monkeypatch.setattr(augmentation, "ATTEMPTS", 3)
    small, share = (0.05, 0.1), 0.01
    free = drawn([ViewSpec(32, small)] * 2, 4000, 200, 200, seed=1)
    fails = (shared(free[:, 0], free[:, 1]) <= share * 200 * 200).mean()
    tables = drawn([ViewSpec(32, small), ViewSpec(32, small, meets=(0,), overlap=share)], 1500, 200, 200)
    moved = is_as_near_as_can_be(tables[:, 1], [tables[:, 0]], 200, 200).mean()
    assert 0.4 < fails < 0.9
    assert fails**4 - 0.06 < moved < fails**3 + 0.06


def test_what_meets_at_last_is_distributed_as_if_drawn_until_it_did():
    small, share = (0.1, 0.2), 0.02
    free = drawn([ViewSpec(32, small)] * 2, 3000, seed=1)
    free = free[shared(free[:, 0], free[:, 1]) > share * 640 * 480]
    tables = drawn([ViewSpec(32, small), ViewSpec(32, small, meets=(0,), overlap=share)], 1200)
    first, second = tables[:, 0], tables[:, 1]
    for number in range(4):
        assert stats.ks_2samp(second[:, number] - first[:, number], (free[:, 1] - free[:, 0])[:, number]).pvalue > 1e-3
    assert near(second[:, FLIP] > 0, 0.5)
    assert near(second[:, JITTER] > 0, 0.8)
    assert near(second[:, GREY] > 0, 0.2)
    assert near(second[:, SIGMA] > 0, 0.5)


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


@pytest.mark.parametrize("scale", [(0.5, 1.0), (0.1, 0.4)])
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


@pytest.mark.parametrize(
    ("blur", "solarise", "other"),
    [(0.5, 0.0, (0.1, 0.2)), (0.9, 0.1, (0.2, 0.8)), (0.3, 0.6, (1.0, 0.0)), (0.0, 0.0, (0.5, 0.5))],
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
