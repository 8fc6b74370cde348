"""RoI align on grids of tokens: a plain loop, torchvision's own Python, closed forms, autograd's own check.

Sources: He et al., Mask R-CNN, 2017, section 3; torchvision.ops.roi_align with `aligned=True` and `sampling_ratio=-1`.
"""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch.nn import functional as F

from densebench.pretrain.neco.alignment import align, overlaps
from densebench.torchvision_ops import make_importable

make_importable()
from torchvision.ops.roi_align import _roi_align  # noqa: E402

INSIDE = [
    (0.0, 0.0, 6.0, 9.0),
    (0.25, 1.5, 3.75, 2.125),
    (5.0, 0.0, 1.0, 9.0),
    (2.0, 3.0, 0.015625, 0.015625),
    (0.0, 8.5, 6.0, 0.5),
    (1.0, 1.0, 4.0, 8.0),
]
OUTSIDE = [
    (-0.75, -0.5, 3.0, 4.0),
    (4.5, 6.5, 3.0, 5.0),
    (-4.0, 2.0, 6.0, 3.0),
    (3.0, -5.0, 2.0, 20.0),
    (-3.0, -3.0, 13.0, 17.0),
    (7.5, 1.0, 2.0, 2.0),
]


def tokens_of(b, rows, columns, d=3, seed=0, dtype=torch.float64):
    return torch.randn((b, rows, columns, d), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def boxes_of(*boxes, dtype=torch.float64):
    return torch.tensor(boxes, dtype=dtype)


def sampled(image, y, x):
    """Bilinear between cells whose centres are whole numbers; nothing beyond one cell outside, the border's value before that."""
    rows, columns = image.shape[:2]
    if y < -1 or y > rows or x < -1 or x > columns:
        return torch.zeros_like(image[0, 0])
    y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
    i, j = math.floor(y), math.floor(x)
    below, beside = min(i + 1, rows - 1), min(j + 1, columns - 1)
    v, u = y - i, x - j
    upper = (1 - u) * image[i, j] + u * image[i, beside]
    lower = (1 - u) * image[below, j] + u * image[below, beside]
    return (1 - v) * upper + v * lower


def aligned_naively(tokens, boxes, size):
    found = torch.zeros(len(tokens), size, size, tokens.shape[3], dtype=tokens.dtype)
    for b, (top, left, height, width) in enumerate(boxes.tolist()):
        down, across = max(math.ceil(height / size), 1), max(math.ceil(width / size), 1)
        for i in range(size):
            for j in range(size):
                for p in range(down):
                    for q in range(across):
                        y = top + height / size * (i + (p + 0.5) / down) - 0.5
                        x = left + width / size * (j + (q + 0.5) / across) - 0.5
                        found[b, i, j] += sampled(tokens[b], y, x) / (down * across)
    return found


def torchvisions(tokens, boxes, size):
    """Its pure Python, uncompiled. It does not know the rule about samples far outside, so: boxes inside only."""
    top, left, height, width = boxes.T
    rois = torch.stack([torch.arange(len(boxes)).to(boxes), left, top, left + width, top + height], 1)
    plain = inspect.unwrap(_roi_align)
    return plain(tokens.permute(0, 3, 1, 2), rois, 1.0, size, size, -1, True).permute(0, 2, 3, 1)


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("boxes", [INSIDE, OUTSIDE], ids=["inside", "outside"])
def test_align_is_the_naive_loop(boxes, size):
    """Boxes with numbers of samples of their own, in one call, on a grid that is no square."""
    tokens = tokens_of(6, 6, 9)
    found = align(tokens, boxes_of(*boxes), size)
    assert found.shape == (6, size, size, 3)
    torch.testing.assert_close(found, aligned_naively(tokens, boxes_of(*boxes), size))


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_align_is_torchvisions(size, dtype):
    tokens, boxes = tokens_of(6, 6, 9, seed=1, dtype=dtype), boxes_of(*INSIDE, dtype=dtype)
    found = align(tokens, boxes, size)
    assert found.dtype == dtype
    torch.testing.assert_close(found, torchvisions(tokens, boxes, size))


def test_align_of_many_random_boxes():
    generator = torch.Generator().manual_seed(0)
    numbers = torch.rand((40, 4), generator=generator, dtype=torch.float64)
    height, width = 0.01 + numbers[:, 2] * 13.9, 0.01 + numbers[:, 3] * 9.9
    boxes = torch.stack([numbers[:, 0] * (14 - height), numbers[:, 1] * (10 - width), height, width], 1)
    tokens = tokens_of(40, 14, 10, 2, seed=2)
    found = align(tokens, boxes, 7)
    torch.testing.assert_close(found, torchvisions(tokens, boxes, 7))
    torch.testing.assert_close(found[:4], aligned_naively(tokens[:4], boxes[:4], 7))


def test_by_hand():
    """A ramp of 4 x 4: the whole in 2 x 2 is the mean of its quarters; in 4 x 4 it is itself."""
    ramp = torch.arange(16.0).view(1, 4, 4, 1)
    whole = boxes_of((0, 0, 4, 4), dtype=torch.float32)
    assert align(ramp, whole, 2).flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert align(ramp, whole, 4).flatten().tolist() == list(range(16))
    assert align(ramp, boxes_of((1, 2, 1, 1), dtype=torch.float32), 1).item() == 6
    assert align(ramp, boxes_of((1.5, 2, 1, 1), dtype=torch.float32), 1).item() == 8
    assert align(ramp, boxes_of((1, 1.75, 1, 1), dtype=torch.float32), 1).item() == 5.75


@pytest.mark.parametrize(("top", "left"), [(0, 0), (2, 0), (0, 5), (1, 3)])
def test_whole_cells_are_cut_out(top, left):
    tokens = tokens_of(2, 6, 9)
    found = align(tokens, boxes_of(*[(top, left, 4, 4)] * 2), 4)
    torch.testing.assert_close(found, tokens[:, top : top + 4, left : left + 4])


@pytest.mark.parametrize(("down", "across"), [(1, 1), (2, 2), (3, 1), (1, 4), (2, 3)])
def test_bins_of_whole_cells_are_their_means(down, across):
    """As many samples as cells in either direction, each at a cell's centre."""
    tokens = tokens_of(2, 3 * down, 3 * across)
    wanted = F.avg_pool2d(tokens.permute(0, 3, 1, 2), (down, across)).permute(0, 2, 3, 1)
    torch.testing.assert_close(align(tokens, boxes_of(*[(0, 0, 3 * down, 3 * across)] * 2), 3), wanted)


@pytest.mark.parametrize(("height", "points"), [(6.0, 2), (6.0625, 3), (5.9375, 2), (3.0, 1), (3.0625, 2), (0.5, 1)])
def test_the_number_of_samples_is_rounded_up(height, points):
    """Samples of one column of noise: three bins of `height` / 3 cells."""
    tokens = tokens_of(1, 9, 2, 1, seed=4)
    found = align(tokens, boxes_of((1.0, 0.0, height, 1.0)), 3)[0, :, 0, 0]
    places = 0.5 + height / 3 * (torch.arange(3).double()[:, None] + (torch.arange(points).double() + 0.5) / points)
    low = places.floor().long()
    line = tokens[0, :, 0, 0]
    wanted = (line[low] * (1 - places + low) + line[low + 1] * (places - low)).mean(1)
    torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize("box", [(1.0, 0.5, 4.0, 7.5), (0.5, 0.5, 7.0, 11.0), (3.3, 4.7, 0.01, 0.01), (2.2, 5.1, 3.3, 0.01)])
def test_a_ramp_is_read_at_the_middle_of_each_bin(box):
    """Down and across differ, so that neither rows and columns nor top and left can be taken for each other."""
    tokens = (10.0 * torch.arange(8).double()[:, None] + torch.arange(12).double() - 3)[None, :, :, None]
    top, left, height, width = box
    y = top + (torch.arange(5).double() + 0.5) * height / 5 - 0.5
    x = left + (torch.arange(5).double() + 0.5) * width / 5 - 0.5
    torch.testing.assert_close(align(tokens, boxes_of(box), 5)[0, :, :, 0], 10 * y[:, None] + x - 3)


def test_a_ramp_stops_half_a_cell_before_the_border():
    """Outermost samples of a fine grid lie beyond the centres of the outermost cells: they are those cells."""
    tokens = torch.arange(4.0).double().view(1, 1, 4, 1).expand(1, 3, 4, 1)
    found = align(tokens, boxes_of((0, 0, 3, 4)), 8)[0]
    wanted = ((torch.arange(8).double() + 0.5) / 2 - 0.5).clamp(0, 3)
    torch.testing.assert_close(found[:, :, 0], wanted.expand(8, 8))


def test_samples_up_to_one_cell_outside_are_the_borders_and_further_ones_are_nothing():
    tokens = tokens_of(1, 3, 4) + 5
    for place, cell in (((-1, 1), (0, 1)), ((3, 1), (2, 1)), ((1, -1), (1, 0)), ((1, 4), (1, 3)), ((-1, 4), (0, 3))):
        torch.testing.assert_close(align(tokens, boxes_of((*place, 1, 1)), 1)[0, 0, 0], tokens[0][cell])
    for place in ((-1.0625, 1), (3.0625, 1), (1, -1.0625), (1, 4.0625)):
        assert (align(tokens, boxes_of((*place, 1, 1)), 1) == 0).all()
    half = align(tokens, boxes_of((-2, 1, 2, 1)), 1)  # one sample at -2, one at -1: the mean is over both
    torch.testing.assert_close(half[0, 0, 0], tokens[0, 0, 1] / 2)


@pytest.mark.parametrize("box", [(0, 0, 0.01, 0.01), (5.99, 8.99, 0.01, 0.01), (2.495, 3.495, 0.01, 0.01), (2.5, 0, 0.01, 9)])
def test_a_tiny_box_reads_what_lies_there(box):
    """Where a hundredth of a cell lies in the middle of a cell, every bin is close to that cell."""
    tokens = tokens_of(1, 6, 9)
    found = align(tokens, boxes_of(box), 7)
    assert found.isfinite().all()
    torch.testing.assert_close(found, aligned_naively(tokens, boxes_of(box), 7))
    if box[3] < 1:
        near = tokens[0, min(int(box[0]), 5), min(int(box[1]), 8)]
        assert (found - near).abs().max() < 0.05


def test_flat_tokens_stay_flat():
    tokens = torch.full((6, 6, 9, 2), 0.7, dtype=torch.float64)
    torch.testing.assert_close(align(tokens, boxes_of(*INSIDE), 5), torch.full((6, 5, 5, 2), 0.7, dtype=torch.float64))


def test_images_keep_apart():
    tokens, boxes = tokens_of(6, 6, 9), boxes_of(*INSIDE)
    together = align(tokens, boxes, 3)
    for i in range(6):
        torch.testing.assert_close(align(tokens[i : i + 1], boxes[i : i + 1], 3)[0], together[i])
    spoilt, moved = tokens.clone(), boxes.clone()
    spoilt[2] = float("nan")
    moved[4] = torch.tensor([0.0, 0.0, 5.0, 9.0])
    others = [0, 1, 3, 4, 5]
    torch.testing.assert_close(align(spoilt, boxes, 3)[others], together[others])
    found = align(tokens, moved, 3)
    torch.testing.assert_close(found[[0, 1, 2, 3, 5]], together[[0, 1, 2, 3, 5]])
    assert not torch.allclose(found[4], together[4])


def test_a_mirrored_box_on_mirrored_tokens_is_the_mirror_image():
    tokens, boxes = tokens_of(6, 6, 9), boxes_of(*INSIDE)
    mirrored = boxes.clone()
    mirrored[:, 1] = 9 - boxes[:, 1] - boxes[:, 3]
    torch.testing.assert_close(align(tokens.flip(2), mirrored, 4), align(tokens, boxes, 4).flip(2))
    turned = boxes[:, [1, 0, 3, 2]]
    torch.testing.assert_close(align(tokens.transpose(1, 2), turned, 4), align(tokens, boxes, 4).transpose(1, 2))


@pytest.mark.parametrize("boxes", [[(0.25, 0.5, 2.5, 3.25), (0, 0, 3, 4)], [(-0.75, 2.0, 2.0, 3.0), (-2.0, 0.0, 3.0, 4.0)]])
def test_gradients_are_exact(boxes):
    tokens = tokens_of(2, 3, 4, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda t: align(t, boxes_of(*boxes), 3), (tokens,))


def test_gradients_stay_with_their_image_and_add_up():
    """Every sample inside has weights that sum to 1; cells far from the box get nothing."""
    tokens = tokens_of(2, 6, 9, 2).requires_grad_()
    found = align(tokens, boxes_of((1.0, 2.0, 2.0, 3.0), (0.0, 0.0, 6.0, 9.0)), 4)
    (gradient,) = torch.autograd.grad(found[0].sum(), tokens)
    assert gradient[0].sum().item() == pytest.approx(4 * 4 * 2)
    assert (gradient[1] == 0).all()
    far = torch.ones(6, 9, dtype=torch.bool)
    far[0:4, 1:6] = False
    assert (gradient[0][far] == 0).all()


def test_a_box_of_whole_cells_is_not_smeared_by_rounding():
    """Seven bins on seven cells are the cells, also where arithmetic made the box a little longer than it is."""
    tokens = torch.randn(4, 7, 7, 3, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.0, 0.0, 7.0, 7.0], [0, 0, 7.0000005, 7.000001], [0, 0, 6.9999995, 7.0], [0, 0, 7.00002, 7.0]])
    torch.testing.assert_close(align(tokens, boxes, 7), tokens, rtol=0, atol=1e-4)


def test_boxes_inside_need_no_look_at_their_values():
    tokens = torch.randn(3, 9, 5, 2, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[0.0, 0.0, 9.0, 5.0], [1.3, 0.2, 0.5, 4.0], [4.0, 2.0, 3.3, 1.1]])
    torch.testing.assert_close(align(tokens, boxes, 2, inside=True), align(tokens, boxes, 2))


def test_what_two_crops_share_in_the_cells_of_each():
    one, other = torch.tensor([[10.0, 20.0, 40.0, 80.0]]), torch.tensor([[30.0, 0.0, 60.0, 60.0]])
    (in_one, in_other), there = overlaps(one, other, (4, 8), (6, 6))
    assert there.tolist() == [True]
    assert in_one.tolist() == [[2.0, 0.0, 2.0, 4.0]]
    assert in_other.tolist() == [[0.0, 2.0, 2.0, 4.0]]
    _, there = overlaps(one, torch.tensor([[50.0, 20.0, 5.0, 5.0]]), (4, 8), (6, 6))
    assert there.tolist() == [False]  # they only touch
