"""Average precision: hand-made detections, and the official code on random ones.

Lin et al., Microsoft COCO, ECCV 2014; Du et al., UAVDT, ECCV 2018 (class-agnostic AP with ignored regions).
"""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from drawn_objects import boxes_of
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from densebench.bridges.torchvision.inference import Detections
from densebench.bridges.torchvision.masks import encode
from densebench.datasets.boxes import Objects
from densebench.evals.detection.average_precision import (
    CocoPrecision,
    Scored,
    agnostic_precision,
    area_under,
    ignored,
    matched,
    overlaps,
)

# UAVDT


def test_overlaps():
    boxes = np.array([[0.0, 0, 10, 10], [5, 5, 15, 15], [20, 20, 20, 30]])
    assert overlaps(boxes, boxes).round(6).tolist() == [[1, 0.142857, 0], [0.142857, 1, 0], [0, 0, 0]]


def test_only_what_lies_strictly_inside_a_region_is_ignored():
    regions = np.array([[10.0, 10, 50, 50], [60, 60, 90, 90]])
    boxes = np.array([[11.0, 11, 49, 49], [10, 11, 49, 49], [11, 11, 49, 50], [61, 70, 80, 89], [40, 40, 70, 70], [1, 1, 5, 5]])
    assert ignored(boxes, regions).tolist() == [True, False, False, True, False, False]
    assert not ignored(boxes, np.zeros((0, 4))).any()


def test_the_best_detection_chooses_first_among_free_objects():
    truth = np.array([[0.0, 0, 10, 10], [0, 2, 10, 12]])
    found = np.array([[0.0, 0, 10, 10], [0, 1, 10, 11], [0, 0, 10, 10]])
    # IoU of the second with both objects: 9/11
    assert matched(found, np.array([0.5, 0.9, 0.4]), truth, 0.6).tolist() == [True, True, False]
    assert matched(found, np.array([0.5, 0.9, 0.4]), truth, 9 / 11).tolist() == [True, True, False]  # at least
    assert matched(found, np.array([0.9, 0.5, 0.4]), truth, 0.9).tolist() == [True, False, False]
    assert matched(found, np.array([0.1, 0.5, 0.4]), truth[:0], 0.5).tolist() == [False] * 3
    assert matched(found[[0, 0]], np.array([0.4, 0.9]), truth[:1], 0.6).tolist() == [False, True]  # wherever the best stands


def test_of_objects_that_fit_as_well_the_last_is_taken():
    truth = np.array([[0.0, 0, 10, 8], [0, 2, 10, 10]])  # IoU 0.8 with the first detection, both
    found = np.array([[0.0, 0, 10, 10], [0, 0, 10, 8]])
    assert matched(found, np.array([0.9, 0.8]), truth, 0.7).tolist() == [True, True]
    assert matched(found[[0, 0]], np.array([0.9, 0.8]), truth[:1], 0.7).tolist() == [True, False]


def test_the_area_under_precision_and_recall():
    right, scores = np.array([True, False, True, False]), np.array([0.9, 0.8, 0.7, 0.6])
    assert area_under(right, scores, 4) == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)
    assert area_under(right[::-1], scores[::-1], 4) == pytest.approx(0.25 * 1 + 0.25 * 2 / 3)
    # precision may rise: the second hit has 2/3, the third 3/4, and recall 2/3 counts with the better one
    assert area_under(np.array([False, True, True, True]), np.array([4.0, 3, 2, 1]), 3) == pytest.approx(0.75)
    assert area_under(np.array([], bool), np.array([]), 3) == 0
    assert area_under(np.ones(3, bool), np.arange(3.0), 3) == 1


def test_area_under_equals_the_toolkit_restated():
    rng = np.random.default_rng(0)
    for _ in range(20):
        right, scores = rng.random(30) < 0.5, rng.random(30)
        objects = int(right.sum()) + 3
        order = np.argsort(-scores)
        hits, misses = np.cumsum(right[order]), np.cumsum(~right[order])
        recall, precision = [0.0, *(hits / objects), 1.0], [0.0, *(hits / (hits + misses)), 0.0]
        for place in range(len(precision) - 2, -1, -1):
            precision[place] = max(precision[place], precision[place + 1])
        area = sum((recall[i] - recall[i - 1]) * precision[i] for i in range(1, len(recall)))
        assert area_under(right, scores, objects) == pytest.approx(area)


def objects(boxes, classes=None, crowd=None, masks=()):
    boxes = np.array(boxes, dtype=float).reshape(-1, 4)
    zeros = np.zeros(len(boxes), int)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    crowd = zeros.astype(bool) if crowd is None else np.array(crowd, bool)
    return Objects(boxes, zeros if classes is None else np.array(classes), crowd, areas, tuple(masks))


def scored(truth, boxes, scores, classes=None, name="x", masks=(), size=(100, 100)):
    boxes = np.array(boxes, dtype=float).reshape(-1, 4)
    kinds = np.zeros(len(boxes), int) if classes is None else np.array(classes, int)
    return Scored(truth, Detections(name, boxes, np.array(scores, dtype=float), kinds, tuple(masks)), *size)


def test_class_agnostic_precision_by_hand():
    region = [40, 40, 90, 90]
    one = scored(
        objects([[0, 0, 10, 10], [20, 0, 30, 10], region], classes=[0, 1, 0], crowd=[False, False, True]),
        [[0, 0, 10, 10], [50, 50, 60, 60], [30, 50, 60, 60], [20, 0, 30, 8]], [0.9, 0.95, 0.8, 0.7], classes=[1, 0, 0, 0],
    )  # fmt: skip
    two = scored(objects([[0, 0, 10, 10]]), [[0, 0, 10, 6.9]], [0.85])
    # by score: 0.95 is taken away; right, wrong (IoU 0.69), wrong (half outside the region), right (IoU 0.8)
    value, count, gone = agnostic_precision([one, two], 0.7)
    assert (count, gone) == (3, 1)
    assert value == pytest.approx(100 * (1 / 3 * 1 + 1 / 3 * 2 / 4))
    assert agnostic_precision([one, two], 0.6)[0] == pytest.approx(100 * (1 / 3 + 1 / 3 + 1 / 3 * 3 / 4))
    assert agnostic_precision([], 0.7) == (0.0, 0, 0)


# COCO


def coco_values(images, classes=("a", "b"), masks=False):
    metric = CocoPrecision(classes, masks)
    for image in images:
        metric.add(image)
    return metric.values()


def test_what_is_perfect_scores_100():
    truth = objects([[0, 0, 10, 10], [20, 20, 60, 60]], classes=[0, 1])
    values = coco_values([scored(truth, truth.boxes, [0.5, 0.6], truth.classes)])
    assert {metric: round(value, 6) for metric, (value, _) in values.items()} == {
        "ap": 100, "ap50": 100, "ap75": 100, "ap_small": 100, "ap_medium": 100,
    }  # fmt: skip
    assert values["ap"][1] == {"a": pytest.approx(100), "b": pytest.approx(100)}
    assert values["ap_small"][1] == {"a": pytest.approx(100), "b": None}


def test_average_precision_by_hand():
    """Two objects of a class; IoU 1 and, behind a false one, IoU 0.8."""
    truth = objects([[0, 0, 10, 10], [20, 20, 30, 30]])
    image = scored(truth, [[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 28]], [0.9, 0.8, 0.7])
    # recalls 0, 0.01, ..., 0.5 (51 of 101) have precision 1; the other 50 have 2/3 up to IoU 0.8 and 0 above
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 101
    values = coco_values([image])
    assert values["ap50"][0] == pytest.approx(100 * low) and values["ap75"][0] == pytest.approx(100 * low)
    above = sum(iou > 0.8 + 1e-9 for iou in np.linspace(0.5, 0.95, 10))
    assert above == 3
    assert values["ap"][0] == pytest.approx(100 * (7 * low + 3 * high) / 10, abs=1e-6)
    assert values["ap"][1] == {"a": pytest.approx(values["ap"][0]), "b": None}


def test_groups_are_neither_missed_nor_found():
    truth = objects([[0, 0, 10, 10], [40, 40, 90, 90]], crowd=[False, True])
    without = coco_values([scored(truth, [[0, 0, 10, 10]], [0.5])])
    inside = coco_values([scored(truth, [[0, 0, 10, 10], [45, 45, 60, 60], [50, 50, 70, 70]], [0.5, 0.9, 0.8])])
    assert without["ap"][0] == inside["ap"][0] == pytest.approx(100)
    outside = coco_values([scored(truth, [[0, 0, 10, 10], [45, 0, 60, 20]], [0.5, 0.9])])
    assert outside["ap"][0] == pytest.approx(50)


def test_nothing_found_and_images_without_objects():
    truth = objects([[0, 0, 10, 10]])
    assert coco_values([scored(truth, [], []), scored(objects([]), [], [], name="y")])["ap"][0] == 0
    fine = [scored(truth, [[0, 0, 10, 10]], [0.9])]
    assert coco_values([*fine, scored(objects([]), [[0, 0, 5, 5]], [0.1], name="y")])["ap"][0] == pytest.approx(100)
    assert coco_values([*fine, scored(objects([]), [[0, 0, 5, 5]], [0.95], name="y")])["ap"][0] == pytest.approx(50)
    assert coco_values([scored(objects([]), [], [])]) == {}


def test_mask_sizes_are_of_masks_not_of_boxes():
    """A thin diagonal in a large box is small: a false one of its like spoils the small objects alone."""
    diagonal, shifted = np.eye(100, dtype=np.uint8), np.eye(100, dtype=np.uint8)[::-1]
    text, other = (encode(one[None])[0] for one in (diagonal, np.ascontiguousarray(shifted)))
    large = np.zeros((100, 100), np.uint8)
    large[:98, :98] = 1
    masks = [{"size": [100, 100], "counts": text}, {"size": [100, 100], "counts": encode(large[None])[0]}]
    truth = Objects(np.array([[0.0, 0, 100, 100], [0, 0, 98, 98]]), np.zeros(2, int), np.zeros(2, bool),
                    np.array([100.0, 98 * 98]), tuple(masks))  # fmt: skip
    image = scored(truth, [[0, 0, 100, 100]] * 3, [0.9, 0.8, 0.95], masks=(text, masks[1]["counts"], other))
    values = coco_values([image], masks=True)
    assert values["ap_large"][0] == pytest.approx(100)
    assert values["ap_small"][0] == pytest.approx(50)


@pytest.mark.parametrize("masks", [False, True])
def test_values_equal_the_library_on_random_detections(masks, tmp_path):
    rng = np.random.default_rng(4)
    images, annotations, results = [], [], []
    for number in range(5):
        truth_masks = np.zeros((4, 90, 100), np.uint8)
        for mask in truth_masks:
            top, left = rng.integers(0, 40, 2)
            mask[top : top + rng.integers(5, 50), left : left + rng.integers(5, 60)] = 1
        found_masks = np.concatenate([np.roll(truth_masks, rng.integers(-3, 4), axis=2), truth_masks[::-1]])
        texts, found_texts = encode(truth_masks), encode(found_masks)
        classes, crowd = rng.integers(0, 3, 4), np.array([False, False, False, number == 2])
        rle = tuple({"size": [90, 100], "counts": text} for text in texts)
        truth = Objects(boxes_of(truth_masks), classes, crowd, truth_masks.sum((1, 2)).astype(float), rle)
        scores, kinds = rng.random(8).round(1), rng.integers(0, 3, 8)
        images.append(scored(truth, boxes_of(found_masks), scores, kinds, str(number), found_texts, (90, 100)))
        for place in range(4):
            left, top, right, bottom = truth.boxes[place].tolist()
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": int(classes[place]), "iscrowd": int(crowd[place]),
                "bbox": [left, top, right - left, bottom - top], "area": float(truth.areas[place]), "segmentation": rle[place],
            })  # fmt: skip
        for place in range(8):
            left, top, right, bottom = images[-1].detections.boxes[place].tolist()
            shape = {"segmentation": {"size": [90, 100], "counts": found_texts[place]}} if masks else {
                "bbox": [left, top, right - left, bottom - top]}  # fmt: skip
            results.append({"image_id": number, "category_id": int(kinds[place]), "score": float(scores[place]), **shape})
    values = coco_values(images, ("a", "b", "c"), masks)
    whole = {"images": [{"id": n, "height": 90, "width": 100} for n in range(5)], "annotations": annotations,
             "categories": [{"id": n, "name": str(n)} for n in range(3)], "info": {}}  # fmt: skip
    for name, content in (("truth", whole), ("results", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        evaluator = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "segm" if masks else "bbox")
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    for metric, value in zip(("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"), evaluator.stats, strict=False):
        assert values.get(metric, (-100,))[0] == pytest.approx(100 * value), metric
    assert 5 < values["ap"][0] < 95


def test_the_evaluator_says_nothing_on_stdout_and_can_be_asked_twice(capsys):
    metric = CocoPrecision(("a",))
    metric.add(scored(objects([[0, 0, 10, 10]]), [[0, 0, 10, 10]], [0.9]))
    assert metric.values() == metric.values()
    assert capsys.readouterr().out == ""
