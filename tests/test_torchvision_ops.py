"""The torchvision of another build: importable after make_importable, and left alone where it works."""

from __future__ import annotations

import importlib
import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from densebench import torchvision_ops
from densebench.numerics import nms as suppression
from densebench.numerics import roi_align as region_pooling
from densebench.numerics.nms import suppress
from densebench.numerics.roi_align import align
from densebench.user_code import import_file


@pytest.mark.slow
def test_timm_imports_in_a_fresh_process_and_what_is_missing_is_said_once():
    code = (
        "from densebench.torchvision_ops import make_importable; print(make_importable() is None); make_importable(); "
        "import timm, torchvision"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    missing = done.stdout.strip() == "False"
    assert done.stderr.count("torchvision is not built for this torch") == missing
    assert done.stderr.count("non-maximum suppression and RoI align run in plain torch") == missing


def test_a_torchvision_that_works_is_left_alone(monkeypatch):
    torchvision_ops.make_importable()
    torchvision_ops.make_importable.cache_clear()
    monkeypatch.setattr(importlib, "import_module", lambda name: None)
    assert torchvision_ops.make_importable() is None
    torchvision_ops.make_importable.cache_clear()


def test_other_errors_are_not_hidden(monkeypatch):
    def broken(name):
        raise RuntimeError("something else")

    torchvision_ops.make_importable.cache_clear()
    monkeypatch.setattr(importlib, "import_module", broken)
    with pytest.raises(RuntimeError, match="something else"):
        torchvision_ops.make_importable()
    torchvision_ops.make_importable.cache_clear()


def test_operators_that_nothing_stands_in_for_still_say_so():
    torchvision_ops.make_importable()
    from torchvision.extension import _has_ops
    from torchvision.ops import roi_pool

    if _has_ops():
        pytest.skip("torchvision is built for this torch")

    with pytest.raises(RuntimeError, match="custom C"):
        roi_pool(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2)


def test_torchvision_calls_ours_and_they_equal_its_own(boxes_of):
    """Where the compiled operators are there, this compares with them; elsewhere, torchvision's names reach ours."""
    torchvision_ops.make_importable()
    from torchvision.ops import batched_nms, nms, roi_align

    boxes, scores = boxes_of(300, 0)
    for threshold in (0.0, 0.3, 0.5, 0.7):
        assert torch.equal(nms(boxes, scores, threshold), suppress(boxes, scores, threshold))
    classes = torch.arange(300) % 3
    kept = batched_nms(boxes, scores, classes, 0.3)
    alone = [torch.where(classes == one)[0][suppress(boxes[classes == one], scores[classes == one], 0.3)] for one in range(3)]
    assert sorted(kept.tolist()) == sorted(torch.cat(alone).tolist())
    maps = torch.randn(2, 3, 20, 30)
    regions = torch.cat([(torch.arange(300) % 2)[:, None].float(), boxes], dim=1)
    for sampling, aligned in ((2, False), (0, True)):
        found = roi_align(maps, regions, (3, 4), 0.25, sampling, aligned)
        torch.testing.assert_close(found, align(maps, regions, 0.25, (3, 4), sampling, aligned))


# Non-maximum suppression


@pytest.fixture
def boxes_of():
    def draw(count, seed, whole=False):
        random = torch.Generator().manual_seed(seed)
        corners = torch.rand(count, 4, generator=random) * 60
        corners = corners.round() if whole else corners
        boxes = torch.cat([corners[:, :2], corners[:, :2] + corners[:, 2:]], dim=1)
        return boxes, torch.rand(count, generator=random)

    return draw


def restated(boxes, scores, threshold):
    """The kernel, box by box, in its float32."""
    left, top, right, bottom = boxes.numpy().astype(np.float32).T
    areas = (right - left) * (bottom - top)
    order = sorted(range(len(boxes)), key=lambda i: -float(scores[i]))
    kept = []
    for place, i in enumerate(order):
        covered = False
        for j in [other for other in order[:place] if other in kept]:
            width = max(np.float32(0), min(right[i], right[j]) - max(left[i], left[j]))
            height = max(np.float32(0), min(bottom[i], bottom[j]) - max(top[i], top[j]))
            with np.errstate(invalid="ignore"):
                overlap = np.float32(width * height) / np.float32(areas[j] + areas[i] - np.float32(width * height))
            covered |= float(overlap) > threshold
        if not covered:
            kept.append(i)
    return kept


def test_suppression_of_hand_made_boxes():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30], [0, 0, 10, 4], [100, 0, 101, 1]])
    scores = torch.tensor([0.9, 0.95, 0.3, 0.8, 0.3])
    # IoU of the first two 0.8 (in float32 just above it); of the fourth with the second 0.5, with the first 0.4
    assert suppress(boxes, scores, 0.5).tolist() == [1, 3, 2, 4]
    assert suppress(boxes, scores, 0.49).tolist() == [1, 2, 4]
    assert suppress(boxes, scores, 0.81).tolist() == [1, 0, 3, 2, 4]


def test_a_suppressed_box_suppresses_nothing():
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    assert suppress(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.4).tolist() == [0, 2]


def test_of_equal_scores_the_first_box_stays():
    boxes = torch.tensor([[0.0, 0, 9, 10], [0, 0, 10, 10], [0, 0, 10, 10]])
    assert suppress(boxes, torch.tensor([0.5, 0.5, 0.5]), 0.5).tolist() == [0]
    assert suppress(boxes, torch.tensor([0.5, 0.6, 0.6]), 0.5).tolist() == [1]


def test_degenerate_boxes_and_none():
    flat = torch.tensor([[5.0, 5, 5, 9], [5, 5, 5, 9], [7, 7, 7, 7]])
    assert suppress(flat, torch.tensor([0.1, 0.2, 0.3]), 0.0).tolist() == [2, 1, 0]
    assert suppress(torch.zeros(0, 4), torch.zeros(0), 0.5).tolist() == []


def test_an_overlap_that_equals_the_threshold_is_judged_in_double_as_the_kernel_judges_it():
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 3], [0, 20, 10, 30], [0, 20, 10, 27]])
    scores = torch.tensor([0.9, 0.8, 0.7, 0.6])
    # float32(0.3) lies above 0.3 and goes; float32(0.7) lies below 0.7 and stays
    assert suppress(boxes, scores, 0.3).tolist() == [0, 2]
    assert suppress(boxes, scores, 0.7).tolist() == [0, 1, 2, 3]
    assert suppress(boxes.double(), scores.double(), 0.3).tolist() == [0, 1, 2]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("block", [7, 1024])
def test_suppression_equals_the_kernel_restated(boxes_of, monkeypatch, seed, block):
    monkeypatch.setattr(suppression, "BLOCK", block)
    boxes, scores = boxes_of(60, seed, whole=seed % 2 == 0)
    scores = (scores * 10).round() / 10 if seed > 1 else scores  # ties
    for threshold in (0.0, 0.25, 0.5, 1.0):
        assert suppress(boxes, scores, threshold).tolist() == restated(boxes, scores, threshold)


def test_thousands_of_boxes_of_half_precision(boxes_of):
    boxes, scores = boxes_of(3000, 1)
    assert torch.equal(suppress(boxes.bfloat16(), scores, 0.5), suppress(boxes.bfloat16().float(), scores, 0.5))


# RoI align


def pooled(feature, box, scale, size, sampling, aligned):
    """The kernel for one map [h, w] and one region, sample by sample."""
    height, width = feature.shape
    left, top, right, bottom = (float(value) * scale - 0.5 * aligned for value in box)
    across, down = (right - left, bottom - top) if aligned else (max(right - left, 1.0), max(bottom - top, 1.0))
    bins = down / size[0], across / size[1]
    grid = [sampling if sampling > 0 else math.ceil(extent) for extent in bins]
    found = np.zeros(size)
    for row, column in np.ndindex(*size):
        for i, j in itertools.product(range(grid[0]), range(grid[1])):
            y = top + row * bins[0] + (i + 0.5) * bins[0] / grid[0]
            x = left + column * bins[1] + (j + 0.5) * bins[1] / grid[1]
            if y < -1 or y > height or x < -1 or x > width:
                continue
            y, x = max(y, 0.0), max(x, 0.0)
            y0, x0 = min(int(y), height - 1), min(int(x), width - 1)
            y1, x1 = min(y0 + 1, height - 1), min(x0 + 1, width - 1)
            v, u = (0.0 if y0 == height - 1 else y - y0), (0.0 if x0 == width - 1 else x - x0)
            upper = feature[y0, x0] * (1 - u) + feature[y0, x1] * u
            found[row, column] += upper * (1 - v) + (feature[y1, x0] * (1 - u) + feature[y1, x1] * u) * v
    return found / max(grid[0] * grid[1], 1)


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("sampling", [0, 1, 2])
@pytest.mark.parametrize("gathering", [0, 10**9])
@pytest.mark.parametrize("entries", [200, 2**22])
def test_pooling_equals_the_kernel_restated(monkeypatch, aligned, sampling, gathering, entries):
    monkeypatch.setattr(region_pooling, "GATHERING", gathering)  # samples one by one; matrix products
    monkeypatch.setattr(region_pooling, "ENTRIES", entries)
    random = torch.Generator().manual_seed(3)
    maps = torch.randn(2, 3, 7, 9, generator=random)
    boxes = torch.tensor([
        [4.0, 4, 20, 12], [0, 0, 36, 28], [-30, -9, 3, 50], [10, 10, 10, 10], [30, 20, 50, 60], [1, 2, 33, 3], [80, 80, 90, 90],
    ])  # fmt: skip
    which = torch.tensor([0, 1, 0, 1, 1, 0, 1])
    found = align(maps, torch.cat([which[:, None].float(), boxes], dim=1), 0.25, (2, 3), sampling, aligned)
    for place, (number, box) in enumerate(zip(which.tolist(), boxes, strict=True)):
        for channel in range(3):
            truth = pooled(maps[number, channel].double().numpy(), box, 0.25, (2, 3), sampling, aligned)
            np.testing.assert_allclose(found[place, channel].numpy(), truth, atol=1e-5)


def test_pooling_of_a_ramp_gives_the_centres_of_the_bins():
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    found = align(ramp, torch.tensor([[0.0, 8, 8, 24, 24]]), 0.5, (2, 2), 2, True)
    # cells 4 to 12 in two bins whose centres are 6 and 10; cell centres lie half a cell further
    assert found[0, 0].tolist() == [[5.5, 9.5], [5.5, 9.5]]


def test_pooling_of_nothing_keeps_the_gradient():
    maps = torch.randn(1, 2, 4, 4, requires_grad=True)
    found = align(maps, torch.zeros(0, 5), 1.0, (7, 7), 2, False)
    assert found.shape == (0, 2, 7, 7)
    found.sum().backward()
    assert maps.grad is not None and not maps.grad.any()


@pytest.mark.parametrize("gathering", [0, 10**9])
def test_the_gradient_of_pooling(monkeypatch, gathering):
    monkeypatch.setattr(region_pooling, "GATHERING", gathering)
    maps = torch.randn(1, 2, 5, 6, requires_grad=True)
    regions = torch.tensor([[0.0, 0.3, 0.7, 4.1, 4.4], [0, 2, 1, 5, 3]])
    align(maps, regions, 1.0, (2, 2), 2, False).square().sum().backward()
    shift = torch.zeros_like(maps.detach())
    shift[0, 1, 2, 3] = 1e-2
    low, high = (align(maps.detach() + sign * shift, regions, 1.0, (2, 2), 2, False).square().sum() for sign in (-1, 1))
    torch.testing.assert_close(maps.grad[0, 1, 2, 3], (high - low) / 2e-2, atol=1e-3, rtol=1e-3)


def test_roi_align_keeps_double_precision():
    maps = torch.rand(1, 2, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rois = torch.tensor([[0, 0.3, 1.2, 6.1, 7.9]], dtype=torch.float64)
    found = align(maps, rois, 1.0, (3, 3), 2, True)
    assert found.dtype == torch.float64
    near = align(maps + 1e-9, rois, 1.0, (3, 3), 2, True)
    torch.testing.assert_close(near - found, torch.full_like(found, 1e-9), rtol=1e-4, atol=0)


def test_torchvision_is_made_importable_before_a_file_runs(tmp_path, monkeypatch):
    order = []
    monkeypatch.setattr("densebench.user_code.make_importable", lambda: order.append("importable"))
    monkeypatch.setattr(sys, "order_of_this_test", order, raising=False)
    (tmp_path / "mine.py").write_text("import sys\nsys.order_of_this_test.append('file')\n")
    import_file(tmp_path / "mine.py", "mine_of_this_test")
    assert order == ["importable", "file"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["./mine.py", "hub"])
def test_code_of_the_users_own_may_import_timm_first(kind, tmp_path):
    """In a process where nobody has imported timm or torchvision before."""
    body = "import timm\n\n\ndef {}():\n    return timm.create_model('test_vit', num_classes=0, dynamic_img_size=True)\n"
    if kind == "hub":
        (tmp_path / "hubconf.py").write_text(body.format("small"))
        spec = f"hub:{tmp_path}:small"
    else:
        (tmp_path / "mine.py").write_text(
            "import timm\nimport torch\n\n\nclass Grid(torch.nn.Module):\n    def forward(self, images):\n"
            "        return torch.nn.functional.pixel_unshuffle(images, 16)\n\n\ndef load():\n    return Grid()\n"
        )
        spec = str(tmp_path / "mine.py")
    code = f"from densebench.backbones.loading import load_backbone; print(load_backbone({spec!r}).stride)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "16"
