"""A look at real frames by a real backbone and by one at random."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

import densebench

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen(shared_data):
    weights = shared_data / "weights" / "vit_small_patch14_dinov2_imgfocus.fp16.safetensors"
    return densebench.look(
        shared_data / "DAVIS" / "JPEGImages" / "480p" / "blackswan",
        ["timm:vit_small_patch14_dinov2", "random:vit_small_patch14_dinov2"],
        weights=[weights, None], images=["00000", "00040"], image_size=224, video=False, device="cpu",
    )  # fmt: skip


def separation(view, mask):
    """How well the cosine with a patch in the middle of the swan parts swan and rest: the area under the curve."""
    rows, columns = view.grid.shape[:2]
    inside = np.asarray(Image.fromarray(mask).resize((columns, rows), Image.Resampling.NEAREST)) > 0
    unit = view.grid / np.linalg.norm(view.grid, axis=2, keepdims=True)
    row, column = np.argwhere(inside)[inside.sum() // 2]
    order = (unit @ unit[row, column]).ravel().argsort().argsort()
    return (order[inside.ravel()].mean() - (inside.sum() - 1) / 2) / (~inside).sum()


def test_a_real_backbone_tells_a_thing_from_the_rest_and_a_random_one_hardly(seen, shared_data):
    path = shared_data / "DAVIS" / "Annotations" / "480p" / "blackswan" / "00000.png"
    mask = (np.asarray(Image.open(path)) > 0).astype(np.uint8)
    real, random = (separation(backbone.views[0], mask) for backbone in seen.backbones)
    assert real > 0.9
    assert random < real - 0.1


def test_nearest_patches_of_a_swan_are_on_the_swan(seen, shared_data):
    masks = [
        np.asarray(Image.open(shared_data / "DAVIS" / "Annotations" / "480p" / "blackswan" / f"{name}.png")) > 0
        for name in ("00000", "00040")
    ]
    real, found = seen.backbones[0].views, []
    for number, places in enumerate(seen.queries):
        for place, neighbours in zip(places, real[number].neighbours, strict=True):
            [near] = neighbours
            other = masks[near.picture]
            rows, columns = real[near.picture].grid.shape[:2]
            on = masks[number][int(place[0] * masks[number].shape[0]), int(place[1] * masks[number].shape[1])]
            there = other[int((near.row + 0.5) / rows * other.shape[0]), int((near.column + 0.5) / columns * other.shape[1])]
            found += [bool(there)] if on else []
    assert found
    assert all(found)
