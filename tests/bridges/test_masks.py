"""COCO's masks: polygons and run lengths as pixels, and broken ones refused."""

from __future__ import annotations

import numpy as np
import pytest

from densebench.bridges.torchvision import masks
from densebench.errors import UserError


def test_masks_of_all_kinds_are_the_same_pixels():
    inside = np.zeros((5, 6), np.uint8)
    inside[1:3, 2:5] = 1
    text = masks.encode(inside[None])[0]
    counts = [11, 2, 3, 2, 3, 2, 7]  # column by column
    kinds = [{"size": [5, 6], "counts": text}, {"size": [5, 6], "counts": counts}, [[2, 1, 5, 1, 5, 3, 2, 3]]]
    for mask in kinds:
        assert (masks.decode([mask], 5, 6, "x")[0] == inside).all()
    two = masks.decode([[[2, 1, 5, 1, 5, 3, 2, 3], [0, 0, 1, 0, 1, 1, 0, 1]]], 5, 6, "x")[0]
    assert two.sum() == 7 and two[0, 0]
    assert masks.decode([], 5, 6, "x").shape == (0, 5, 6)


def test_polygons_of_two_corners_are_no_boxes():
    assert masks.decode([[[1, 1, 4, 4]]], 5, 6, "x").sum() == 0
    assert masks.decode([[]], 5, 6, "x").sum() == 0


@pytest.mark.parametrize("broken", [
    {"size": [5, 6], "counts": ";2"}, {"size": [5, 6], "counts": "0100000000"}, {"size": [5, 6], "counts": ""},
    {"size": [5, 6], "counts": "zzzzPPPP"}, {"size": [5, 6], "counts": [10]}, {"size": [5, 6], "counts": [-3, 33]},
    {"size": [6, 5], "counts": [30]}, {"counts": [30]}, [[0, 0, "a", 1, 2, 2]], [[0, 0, 4, 0, 4, 4, 1]], 7,
])  # fmt: skip
def test_broken_masks_name_their_image(broken):
    with pytest.raises(UserError, match="mask of the image 000123 is broken"):
        masks.decode([broken], 5, 6, "000123")


def test_masks_of_random_shapes_survive_their_text():
    rng = np.random.default_rng(0)
    drawn = (rng.random((6, 17, 23)) < rng.random((6, 1, 1))).astype(np.uint8)
    drawn[0], drawn[1] = 0, 1
    texts = [{"size": [17, 23], "counts": text} for text in masks.encode(drawn)]
    assert (masks.decode(texts, 17, 23, "x") == drawn).all()
