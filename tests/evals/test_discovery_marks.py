"""What a box and a mask get: IoU of boxes, IoU, accuracy and F of masks, and the views that decide where a patch lies."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from densebench.backbones.loading import load_backbone
from densebench.evals.discovery.findings import box_of, found, without_graph
from densebench.evals.discovery.marks import (
    THRESHOLDS,
    Marks,
    MaskMarks,
    box_ious,
    box_mask,
    centre_box,
    f_curve,
    f_measure,
    lost_box_ious,
    marks_of,
    mask_marks,
    upsampled,
    whole_picture,
)
from densebench.evals.discovery.scoring import metrics, values_of
from densebench.evals.discovery.truth import Truth
from densebench.evals.discovery.views import Padded, Patches, Resized, patches_of, view_of
from densebench.features.extract import Normalisation

FOUND, TRUE = (16.0, 16.0, 48.0, 48.0), np.array([[16.0, 16.0, 48.0, 80.0]])


def boxes_as_truth(*boxes, classes=None):
    return Truth(np.array(boxes, np.float64).reshape(-1, 4), np.array(classes or [0] * len(boxes), np.int64))


def test_an_iou_of_exactly_one_half_is_a_hit():
    assert box_ious(FOUND, TRUE).tolist() == [0.5]
    assert marks_of(FOUND, None, Truth(TRUE, np.zeros(1, np.int64)), "exact").hit


def test_the_1e_7_of_the_reference_vanishes_in_float32_and_misses_in_float64():
    assert lost_box_ious(FOUND, TRUE, torch.float32)[0] == 0.5
    assert lost_box_ious(FOUND, TRUE, torch.float64)[0] < 0.5
    assert marks_of(FOUND, None, Truth(TRUE, np.zeros(1, np.int64)), "lost").hit


def test_the_reference_rounds_corners_and_ours_does_not():
    truth = np.array([[16.4, 16.4, 48.4, 80.4]])
    assert lost_box_ious(FOUND, truth)[0] == 0.5 and box_ious(FOUND, truth)[0] < 0.5


def naive_iou(one, other):
    """Intersection over union of two boxes of whole px, counted px by px."""
    cells = [{(x, y) for x in range(left, right) for y in range(top, bottom)} for left, top, right, bottom in (one, other)]
    return len(cells[0] & cells[1]) / len(cells[0] | cells[1])


def test_ious_are_those_of_counted_pixels():
    rng = np.random.default_rng(0)
    corners = rng.integers(0, 9, (40, 2, 2))
    boxes = [(*low, *(high + 1)) for low, high in zip(corners.min(1), corners.max(1), strict=True)]
    for own, other in zip(boxes[::2], boxes[1::2], strict=True):
        ours = box_ious(tuple(map(float, own)), np.array([other], np.float64))
        assert ours[0] == pytest.approx(naive_iou(own, other))


def test_a_box_of_no_size_has_an_iou_of_zero():
    assert box_ious((5.0, 5.0, 5.0, 9.0), np.array([[5.0, 5.0, 5.0, 9.0]])).tolist() == [0]
    assert marks_of(None, None, boxes_as_truth((0, 0, 4, 4)), "exact").iou == 0


def test_a_class_is_hit_by_a_box_around_one_of_its_objects():
    truth = boxes_as_truth((0, 0, 10, 10), (30, 30, 40, 40), (0, 0, 9, 10), classes=[2, 5, 7])
    marks = marks_of((0.0, 0.0, 10.0, 10.0), None, truth, "exact")
    assert marks.iou == 1 and marks.hit and marks.classes == {2: True, 5: False, 7: True}


def test_f_is_the_formula():
    precision, recall = np.array([1.0, 0.5, 0.0]), np.array([1.0, 1.0, 0.0])
    assert f_measure(precision, recall).tolist() == pytest.approx([1, 1.3 * 0.5 / (0.15 + 1), 0])
    assert f_measure(precision, recall)[1] == pytest.approx(0.5652, abs=5e-5)


def naive_f(prediction, truth):
    """F at every threshold, one after the other."""
    curve = []
    for threshold in THRESHOLDS:
        own = prediction > threshold
        precision = (own & truth).sum() / own.sum() if own.any() else 1.0
        recall = (own & truth).sum() / truth.sum()
        curve.append(1.3 * precision * recall / (0.3 * precision + recall) if precision + recall else 0.0)
    return curve


def test_f_at_every_threshold_is_that_of_a_loop():
    rng = np.random.default_rng(1)
    soft, truth = rng.random(60), rng.random(60) < 0.4
    soft[:4] = 0, 1, THRESHOLDS[7], 0.5
    assert f_curve(soft, truth) == pytest.approx(naive_f(soft, truth))
    for mask in (soft > 0.5, np.zeros(60, bool), np.ones(60, bool)):
        assert f_curve(mask, truth) == pytest.approx(naive_f(mask.astype(float), truth))


def test_f_is_averaged_over_pictures_before_its_maximum():
    """Each picture is best at a threshold that is bad for the other."""
    truth = np.array([True, False, False, False])
    curves = [f_curve(np.array([0.3, 0.2, 0.0, 0.0]), truth), f_curve(np.array([0.9, 0.8, 0.8, 0.8]), truth)]
    marks = [Marks(mask=MaskMarks(0.0, 0.0, curve)) for curve in curves]
    assert values_of(marks, "max_f").mean() == pytest.approx(100 * np.mean(curves, 0).max())
    assert np.mean(curves, 0).max() < np.mean([curve.max() for curve in curves])


def test_pixels_without_a_label_do_not_count():
    mask, scored = np.zeros((4, 4), bool), np.ones((4, 4), bool)
    mask[:2], scored[:, 3] = True, False
    prediction = np.zeros((4, 4), bool)
    prediction[:, 3] = prediction[:2, :2] = True
    marks = mask_marks(prediction, Truth(mask=mask & scored, scored=scored))
    assert marks.iou == pytest.approx(4 / 6) and marks.accuracy == pytest.approx(10 / 12)


@pytest.mark.parametrize("size", [(64, 40), (61, 47), (40, 33)])
def test_pixels_take_the_patch_that_lies_over_them(size):
    rng, (width, height) = np.random.default_rng(2), size
    padded = rng.random((-(-height // 8), -(-width // 8))) < 0.5
    assert upsampled(padded, size, 8).tolist() == [[padded[y // 8, x // 8] for x in range(width)] for y in range(height)]
    whole = padded[: height // 8, : width // 8]
    beyond = [
        [y // 8 < len(whole) and x // 8 < len(whole[0]) and whole[y // 8, x // 8] for x in range(width)] for y in range(height)
    ]
    assert upsampled(whole, size, 8).tolist() == beyond
    rows, columns = padded.shape
    resized = [[padded[y * rows // height, x * columns // width] for x in range(width)] for y in range(height)]
    assert upsampled(padded, size, None).tolist() == resized


def test_the_guesses_are_the_picture_and_half_of_it():
    left, top, right, bottom = centre_box(80, 60)
    assert (right - left) * (bottom - top) == pytest.approx(80 * 60 / 2)
    assert (left + right, top + bottom) == pytest.approx((80, 60)) and (right - left) / (bottom - top) == pytest.approx(4 / 3)
    assert box_mask(whole_picture(80, 60), 80, 60).all()
    assert box_mask((1.0, 0.0, 3.0, 1.6), 4, 3).tolist() == [[False, True, True, False], [False, True, True, False], [False] * 4]


def test_padding_is_zero_after_normalisation():
    statistics = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    view = view_of("pad", load_backbone("pixels:14"))
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 45, 3), dtype=np.uint8))
    pixels = statistics(view.image(image, "")[None])[0]
    assert pixels.shape == (3, 42, 56) == (3, *view.shape(45, 30))
    assert not pixels[:, 30:].any() and not pixels[:, :, 45:].any()
    direct = statistics(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255)[0]
    assert torch.equal(pixels[:, :30, :45], direct)


def test_resized_pictures_round_to_the_nearest_multiple_and_ties_to_the_even_one():
    view = Resized(16)
    assert view.shape(500, 375) == (368, 496) and view.shape(24, 40) == (32, 32) and view.shape(3, 8) == (16, 16)
    assert view.shape(int(16 * 2.5), int(16 * 3.5)) == (64, 32)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (30, 45, 3), dtype=np.uint8))
    expected = np.array(image.resize((48, 32), Image.Resampling.LANCZOS))
    assert (view.image(image, "") * 255).round().byte().permute(1, 2, 0).numpy().tolist() == expected.tolist()


def test_views_of_one_stride_have_identities_of_their_own():
    views = [Padded(16), Padded(16, fill=(0.5, 0.5, 0.5)), Resized(16)]
    assert len({str(view.identity()) for view in views}) == 3


def test_patches_that_hold_padding_are_left_out_or_kept():
    view = Padded(16)
    left_out, kept = (patches_of(view, 16, 100, 70, padded) for padded in ("left-out", "kept"))
    assert (left_out.rows, left_out.columns) == (4, 6) and (kept.rows, kept.columns) == (5, 7)
    resized = patches_of(Resized(16), 16, 100, 70, "kept")
    assert (resized.rows, resized.columns) == (4, 6) and resized.down == 70 / 4 and resized.across == 100 / 6
    finer = patches_of(view, 8, 100, 70, "left-out")
    assert (finer.rows, finer.columns, finer.down) == (8, 12, 8), "of features with two to a patch of the network"
    assert (patches_of(view, 16, 12, 70, "left-out").columns, patches_of(view, 16, 12, 70, "kept").columns) == (0, 1)


def test_boxes_end_where_the_picture_ends():
    where = Patches(100, 70, 5, 7, 16.0, 16.0)
    assert box_of(np.ones((5, 7), bool), where) == (0, 0, 100, 70)
    corner = np.zeros((5, 7), bool)
    corner[4, 6] = True
    assert box_of(corner, where) == (96, 64, 100, 70) and box_of(np.zeros((5, 7), bool), where) is None


@pytest.mark.parametrize("miss", [True, False])
def test_a_degenerate_graph_is_a_miss_or_scored_as_it_is(miss):
    where = Patches(64, 64, 4, 4, 16.0, 16.0)
    whole = found(np.ones((4, 4), bool), 3, 0.5, 0.1, where, miss)
    assert whole.flaw == "whole picture" and whole.box == (None if miss else (0, 0, 64, 64)) and whole.mask.any() != miss
    fine = found(np.eye(4, dtype=bool), 0, 0.5, 0.1, where, miss)
    assert not fine.flaw and fine.box == (0, 0, 16, 16)
    for rows, columns in ((1, 1), (0, 3)):
        single = without_graph(Patches(16, 16, rows, columns, 16.0, 16.0), miss)
        assert single.flaw == "one patch" and (single.box is None) == (miss or not rows)


def test_the_headline_is_corloc_where_there_are_boxes():
    assert metrics("both")[-1] == metrics("boxes")[-1] == "corloc" and metrics("masks")[-1] == "iou"


def test_the_thresholds_of_f_are_those_of_eight_bits():
    assert pytest.approx(np.arange(255) / 255) == THRESHOLDS


@pytest.mark.parametrize("scored", [True, False])
def test_an_object_without_pixels_is_missed_by_every_mask(scored):
    truth = Truth(mask=np.zeros((4, 4), bool), scored=np.full((4, 4), scored))
    for prediction in (np.zeros((4, 4), bool), np.eye(4, dtype=bool)):
        marks = mask_marks(prediction, truth)
        assert marks.iou == 0 and not marks.f.any() and marks.accuracy == (~prediction).mean() * scored
