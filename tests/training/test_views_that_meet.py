"""Views that must overlap: which, how much, how often they are drawn, and where they are moved at last."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from drawn_together import FLIP, GLOBAL, GREY, HEIGHT, JITTER, LEFT, LOCAL, NECO, SIGMA, SIZES, TOP, WIDTH, drawn, near
from scipy import stats
from tiers import late, late_rows

from densebench.errors import UserError
from densebench.training import augmentation
from densebench.training.augmentation import ViewSpec, draw_views


def shared(a, b):
    """Pixels that two boxes have in common, one pair a row."""
    down = np.minimum(a[:, TOP] + a[:, HEIGHT], b[:, TOP] + b[:, HEIGHT]) - np.maximum(a[:, TOP], b[:, TOP])
    across = np.minimum(a[:, LEFT] + a[:, WIDTH], b[:, LEFT] + b[:, WIDTH]) - np.maximum(a[:, LEFT], b[:, LEFT])
    return down.clip(0) * across.clip(0)


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
@pytest.mark.parametrize(("width", "height"), late_rows(SIZES, *SIZES[:2]))
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


@pytest.mark.parametrize("meets", late([(0,), (1,), (0, 1)], (0, 1)))
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
