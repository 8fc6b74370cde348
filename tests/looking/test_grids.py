"""Features inside a page: what a browser computes of them, and how far it is from the exact cosine."""

import base64
import itertools
import json
import re
import zlib

import looks
import numpy as np
import pytest

from densebench.looking.grids import STEP, cosines, packed, unpacked
from densebench.looking.page import page


def grids(count=3, size=(5, 7), dims=40, rank=6, seed=0):
    """Features of few directions and a little noise."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(rank, dims))
    return [
        (rng.normal(size=(*size, rank)) @ basis + 0.1 * rng.normal(size=(*size, dims))).astype(np.float32) for _ in range(count)
    ]


def exact(one, other):
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


def pairs(features):
    """All patches, as (picture, row, column), two and two."""
    places = [(number, *place) for number, grid in enumerate(features) for place in np.ndindex(grid.shape[:2])]
    return itertools.combinations(places, 2)


def test_dot_products_are_the_cosines_within_the_stated_error():
    features = grids(count=2, size=(4, 5))
    found = packed(features)
    numbers = unpacked(found)
    distances = []
    for one, other in pairs(features):
        first, second = (numbers[picture][:, row, column].astype(int) for picture, row, column in (one, other))
        wanted = exact(features[one[0]][one[1:]], features[other[0]][other[1:]])
        distances.append(abs(float(first @ second) * STEP**2 - wanted))
    assert max(distances) == pytest.approx(found.error.largest, abs=1e-5)
    assert np.quantile(distances, 0.99) == pytest.approx(found.error.usual, abs=1e-3)
    assert len(distances) == found.error.pairs


def test_few_directions_need_few_dimensions():
    assert packed(grids(rank=3)).dims < packed(grids(rank=30)).dims


def test_the_limit_holds_and_the_error_says_so():
    free, bound = packed(grids(rank=30), 32), packed(grids(rank=30), 4)
    assert bound.dims == 4
    assert bound.error.usual > free.error.usual


def test_no_pair_is_given_up_for_the_others():
    """Two patches alone look another way: of 99 of 100 pairs that says nothing, of theirs all."""
    rng = np.random.default_rng(0)
    features = np.zeros((20, 20, 12), np.float32)
    features[..., :8] = rng.normal(size=(20, 20, 8))
    features[3, 4] = features[9, 9] = np.eye(12)[11]
    found = packed([features])
    assert (found.dims, found.error.usual < 0.02, found.error.largest < 0.1) == (12, True, True)


def test_length_does_not_matter():
    features = grids()
    assert packed([grid * 8 for grid in features]).content == packed(features).content


def test_pictures_of_other_shapes():
    features = [*grids(1, (2, 9)), *grids(1, (6, 3), seed=1)]
    found = packed(features)
    assert [part.shape for part in unpacked(found)] == [(found.dims, 2, 9), (found.dims, 6, 3)]


def test_a_patch_of_zeros_is_like_nothing():
    features = grids(1)
    features[0][0, 0] = 0
    assert not unpacked(packed(features))[0][:, 0, 0].any()
    assert not cosines(features[0], 0, 0).any()


def test_values_that_are_no_numbers_are_taken_as_zero():
    features = grids(1)
    features[0][0, 0, 0] = np.nan
    assert np.isfinite(packed(features).error.largest)


def test_a_single_patch():
    found = packed([np.ones((1, 1, 4), np.float32)])
    assert (found.error.largest, found.error.pairs) == (0.0, 0)


def test_exact_cosines_by_loops():
    grid = grids(1)[0]
    wanted = [[exact(grid[row, column], grid[1, 5]) for column in range(7)] for row in range(5)]
    assert np.allclose(cosines(grid, 1, 5), wanted, atol=1e-5)


def test_the_page_holds_these_bytes_and_states_their_error():
    seen = looks.look()
    html = page(seen)
    known = json.loads(re.search(r'id="known">(.*?)</script>', html, re.S)[1])
    for backbone, each in zip(seen.backbones, known["backbones"], strict=False):
        found = packed([view.grid for view in backbone.views])
        content = np.frombuffer(zlib.decompress(base64.b64decode(each["content"])), np.int8)
        assert (content == np.concatenate([part.ravel() for part in unpacked(found)])).all()
        assert f"at most {found.error.usual:.3f} for 99 of 100 pairs" in html
        assert f"{found.error.largest:.3f} at most among all {found.error.pairs:,} pairs" in html
