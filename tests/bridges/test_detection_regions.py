"""Masks of regions: what is learned from, and what is found, lie where the objects lie."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from drawn_objects import boxes_of, options_of, small_vit

from densebench.bridges.torchvision.detector import build
from densebench.bridges.torchvision.regions import cut, mask_loss, paste

SIDE = 28


def ellipse(size, height=140, width=150, seed=0):
    """A mask of an ellipse `size` px across and 3/4 of it tall, at a place between pixels."""
    rng = np.random.default_rng((size, seed))
    y, x = rng.uniform(52, 85, 2)
    rows, columns = np.mgrid[:height, :width] + 0.5
    return ((((columns - x) / (size / 2)) ** 2 + ((rows - y) / (size * 3 / 8)) ** 2) <= 1).astype(np.uint8)


def middle(mask):
    return np.array([places.mean() for places in np.nonzero(mask)])


@pytest.mark.parametrize(("size", "least"), [(12, 1.0), (24, 0.99), (48, 0.97), (96, 0.97)])
@pytest.mark.parametrize("loose", [False, True])
def test_a_perfect_mask_head_finds_the_mask_itself(size, least, loose):
    """What is learned from, pasted: boxes of the mask, or a little larger ones between pixels."""
    overlaps, shifts = [], []
    for seed in range(12):
        mask = ellipse(size, seed=seed)
        slack = np.random.default_rng(seed).uniform(0, 0.1 * size, 4) * [-1, -1, 1, 1] if loose else 0
        box = torch.from_numpy(boxes_of(mask[None]) + slack).float()
        found = paste(cut(torch.from_numpy(mask)[None], box, torch.zeros(1).long(), SIDE), box, *mask.shape)[0].numpy()
        overlaps.append((found & mask).sum() / (found | mask).sum())
        shifts.append(middle(found) - middle(mask))
    assert np.mean(overlaps) >= least - 0.03 * loose
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.15 and np.abs(shifts).max() < 0.5  # torchvision's: 0.33 to 0.54 on the mean


def test_grids_hold_cells_of_which_half_lies_inside():
    mask = torch.zeros(2, 8, 8, dtype=torch.uint8)
    mask[0, 2:6, 2:7] = 1
    mask[1, 0, 0] = 1
    boxes = torch.tensor([[0.0, 0, 8, 8], [2, 2, 6, 6], [0, 0, 4, 4]])
    found = cut(mask, boxes, torch.tensor([0, 0, 1]), 4)
    assert found[0].tolist() == [[0] * 4, [0, 1, 1, 1], [0, 1, 1, 1], [0] * 4]  # the last column is half inside
    assert found[1].min() == 1 and found.dtype == torch.float32
    assert found[2].sum() == found[2, 0, 0] == 1
    assert cut(mask[:0], boxes[:0], torch.zeros(0).long(), 4).shape == (0, 4, 4)


def naive(grid, box, height, width):
    """Bilinear by hand: the four cells around each pixel's centre, zero where there is none."""
    left, top, right, bottom = box
    side, found = len(grid), np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            y = (row + 0.5 - top) / (bottom - top) * side - 0.5
            x = (column + 0.5 - left) / (right - left) * side - 0.5
            for i, wy in ((math.floor(y), 1 - y % 1), (math.floor(y) + 1, y % 1)):
                for j, wx in ((math.floor(x), 1 - x % 1), (math.floor(x) + 1, x % 1)):
                    if 0 <= i < side and 0 <= j < side:
                        found[row, column] += wy * wx * grid[i][j]
    return found


def test_pasting_is_what_a_loop_over_pixels_does():
    rng = np.random.default_rng(0)
    grids = rng.random((5, 7, 7))
    boxes = np.array([[2.3, 1.7, 14.9, 10.2], [-3, -2.5, 6.1, 5], [10, 4, 23, 15.5], [5, 5, 6.2, 5.9], [0, 0, 20, 12]])
    found = paste(torch.from_numpy(grids), torch.from_numpy(boxes), 12, 20)
    assert found.shape == (5, 12, 20) and found.dtype == torch.uint8
    for mask, grid, box in zip(found.numpy(), grids, boxes.tolist(), strict=True):
        assert (mask == (naive(grid, box, 12, 20) >= 0.5)).all()
    assert 0 < found[3].sum() < 4 and found[:3].flatten(1).any(1).all()
    assert paste(torch.zeros(0, 7, 7), torch.zeros(0, 4), 5, 6).shape == (0, 5, 6)


def test_the_loss_is_of_the_grids_of_the_own_class():
    mask = torch.from_numpy(ellipse(48))[None]
    box = torch.from_numpy(boxes_of(mask.numpy())).float()
    wanted = cut(mask, box, torch.zeros(1).long(), SIDE)
    logits = torch.full((1, 3, SIDE, SIDE), 7.0)
    logits[0, 2] = 40 * (wanted[0] * 2 - 1)

    def loss(logits, kind):
        return float(mask_loss(logits, [box], [torch.zeros(1).long()], torch.tensor([kind]), [mask]))

    assert loss(logits, 2) < 1e-12 < 1 < loss(logits, 1)
    assert loss(0 * logits, 2) == pytest.approx(math.log(2))
    assert float(mask_loss(logits[:0], [box[:0]], [torch.zeros(0).long()], torch.zeros(0).long(), [mask[:0]])) == 0


class Perfect(torch.nn.Module):
    """A mask predictor that knows the grids of all regions."""

    def __init__(self, grids, classes):
        super().__init__()
        self.logits = torch.stack([40 * (grids * 2 - 1)] * classes, dim=1)

    def forward(self, _):
        return self.logits


def test_a_detector_learns_from_these_grids():
    detector = build(small_vit(8), 2, options_of()).train()
    masks = torch.from_numpy(np.stack([ellipse(24, 80, 90), ellipse(30, 80, 90, seed=2)]))
    boxes = torch.from_numpy(boxes_of(masks.numpy())).float()
    truth = {"boxes": boxes, "labels": torch.tensor([2, 1]), "masks": masks}
    images, _ = detector.transform([torch.rand(3, 80, 90)], None)
    grids = cut(masks, boxes, torch.arange(2), SIDE)
    detector.roi_heads.mask_predictor = Perfect(grids, 3)
    features = detector.backbone(images.tensors)
    found, losses = detector.roi_heads(features, [boxes[:0]], images.image_sizes, [truth])  # truth is the only proposal
    assert found == [] and set(losses) == {"loss_classifier", "loss_box_reg", "loss_mask"}
    assert float(losses["loss_mask"]) < 1e-12
    detector.roi_heads.mask_predictor = Perfect(grids.roll(1, dims=2), 3)
    assert float(detector.roi_heads(features, [boxes[:0]], images.image_sizes, [truth])[1]["loss_mask"]) > 0.5
