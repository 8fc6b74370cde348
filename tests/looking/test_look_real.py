"""A look at real frames by a real backbone and by one at random."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import densebench
from densebench.looking.queries import nearest_patches

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


def test_the_nearest_patch_of_a_swan_is_on_the_swan_of_the_other_frame(seen, shared_data):
    grids = [torch.from_numpy(view.grid) for view in seen.backbones[0].views]
    folder = shared_data / "DAVIS" / "Annotations" / "480p" / "blackswan"
    masks = [np.asarray(Image.open(folder / f"{name}.png")) > 0 for name in ("00000", "00040")]
    middles = [np.argwhere(mask)[mask.sum() // 2] / mask.shape for mask in masks]
    for found in nearest_patches(grids, [[(float(row), float(column))] for row, column in middles]):
        [near] = found[0]
        mask, (rows, columns) = masks[near.picture], grids[near.picture].shape[:2]
        assert mask[int((near.row + 0.5) / rows * mask.shape[0]), int((near.column + 0.5) / columns * mask.shape[1])]
