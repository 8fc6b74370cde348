"""Query patches lie apart, on what stands out; their nearest patches are of other pictures, one each."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from look_pictures import picture
from PIL import Image

from densebench.looking.looked import Neighbour
from densebench.looking.queries import APART, nearest_patches, query_places


def test_the_centre_comes_first_and_then_what_stands_out():
    image = Image.new("RGB", (160, 80), "grey")
    image.paste((255, 0, 0), (120, 10, 140, 20))
    centre, second, _ = query_places(image)
    assert centre == (0.5, 0.5)
    assert 10 / 80 <= second[0] <= 20 / 80
    assert 120 / 160 <= second[1] <= 140 / 160


def test_no_place_lies_at_the_edge():
    image = Image.new("RGB", (160, 160), "grey")
    image.paste((255, 0, 0), (80, 0, 90, 10))
    for shown in (image, Image.new("RGB", (160, 160), "grey")):
        assert all(1 / 16 < share < 15 / 16 for place in query_places(shown) for share in place)


def test_of_colours_that_stand_out_nearly_alike_the_one_near_the_middle_comes_first():
    image = Image.new("RGB", (160, 160), "grey")
    image.paste((255, 0, 0), (20, 20, 30, 30))
    image.paste((240, 15, 15), (70, 110, 80, 120))
    assert query_places(image, 3)[1:] == ((115 / 160, 75 / 160), (25 / 160, 25 / 160))


def test_places_lie_apart_in_any_picture():
    for image in (picture(3), Image.new("RGB", (300, 2)), Image.new("RGB", (1, 1))):
        places = query_places(image, 4)
        assert all(math.dist(one, other) >= APART for one, other in itertools.combinations(places, 2))


def test_nearest_patches_are_those_of_a_loop():
    generator = torch.Generator().manual_seed(0)
    grids = [torch.randn(rows, columns, 6, generator=generator) for rows, columns in ((3, 4), (4, 3), (2, 5), (3, 3))]
    queries = [[(0.5, 0.5), (0.0, 0.99)]] * 4
    found = nearest_patches(grids, queries, count=2)
    for number, of_picture in enumerate(found):
        for place, neighbours in zip(queries[number], of_picture, strict=True):
            rows, columns = grids[number].shape[:2]
            query = grids[number][int(place[0] * rows), int(place[1] * columns)]
            best = []
            for other, grid in enumerate(grids):
                if other != number:
                    cosines = F.cosine_similarity(grid, query.expand_as(grid), dim=2)
                    row, column = divmod(int(cosines.argmax()), grid.shape[1])
                    best.append(Neighbour(other, row, column, float(cosines.max())))
            best.sort(key=lambda each: -each.cosine)
            assert [each[:3] for each in map(_values, neighbours)] == [each[:3] for each in map(_values, best[:2])]
            assert all(abs(a.cosine - b.cosine) < 1e-5 for a, b in zip(neighbours, best, strict=False))


def test_one_picture_has_no_neighbours():
    assert nearest_patches([torch.rand(2, 2, 3)], [[(0.5, 0.5)]]) == [((),)]


def _values(neighbour):
    return neighbour.picture, neighbour.row, neighbour.column, neighbour.cosine
