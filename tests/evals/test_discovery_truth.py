"""What counts as an object of a picture in object discovery: boxes with marks, crowds, unions of masks, unlabelled pixels."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import drawn_parts
import numpy as np
import pytest
from dataset_files import save_image
from discovery_toys import DATA, Rectangles, configured, named, score

from densebench.datasets import load_dataset
from densebench.evals.discovery.truth import truth_of


@pytest.mark.parametrize("mark", ["difficult", "truncated"])
@pytest.mark.parametrize("hard", [True, False])
def test_marked_objects_count_unless_they_are_left_out(mark, hard):
    """A picture of marked objects alone is then left out, and a marked one is no longer hit."""

    class Marked(Rectangles):
        def objects(self, item):
            one = super().objects(item)
            count = len(one.boxes) + (item.name == "val-1")
            boxes = np.concatenate([one.boxes, [[0, 0, 5, 6]]])[:count]
            marked = np.arange(count) < (item.name in ("val-0", "val-1"))
            return replace(one, **{mark: marked}, boxes=boxes, classes=np.zeros(count, np.int64), crowd=np.zeros(count, bool))

    dataset = Marked(root=Path())
    options = configured(dataset=dataset, hard=hard)
    shown = [item.name for item in options.scored(dataset.items("val"), dataset)]
    assert ("val-0" in shown) == hard and "val-1" in shown and "val-2" in shown
    boxes = truth_of(dataset, dataset.items("val")[1], "boxes", hard).boxes.tolist()
    assert boxes == ([DATA.objects(DATA.items("val")[1]).boxes[0].tolist()] if hard else []) + [[0, 0, 5, 6]]


SQUARE, BESIDE = [[0, 0, 4, 0, 4, 4, 0, 4]], [[6, 0, 10, 0, 10, 4, 6, 4]]
NOTHING = {"size": [8, 12], "counts": [96]}


def written(root, *annotations):
    """A folder of one picture of 12 x 8 px, with objects in COCO's format; annotations are masks and whether they are crowds."""
    save_image(root / "images" / "0.png", 8, 12)
    rows = [
        {"id": number, "image_id": 0, "category_id": 1, "bbox": [0, 0, 4, 4], "area": 16, "iscrowd": crowd, "segmentation": mask}
        for number, (mask, crowd) in enumerate(annotations, 1)
    ]
    about = {"images": [{"id": 0, "file_name": "0.png", "width": 12, "height": 8}], "categories": [{"id": 1, "name": "a"}]}
    (root / "x.json").write_text(json.dumps({**about, "annotations": rows}))
    return load_dataset(f"boxes:{root}")


def test_the_mask_is_the_union_of_objects_and_pixels_of_a_crowd_alone_are_not_scored(tmp_path):
    pytest.importorskip("pycocotools")
    halves = {"size": [8, 12], "counts": [8 * 2, 8 * 6, 8 * 4]}  # columns 2 to 8
    dataset = written(tmp_path, (SQUARE, 0), (BESIDE, 0), (halves, 1))
    truth = truth_of(dataset, dataset.items("all")[0], "both", True)
    objects, crowd = np.zeros((8, 12), bool), np.zeros((8, 12), bool)
    objects[:4, :4] = objects[:4, 6:10] = crowd[:, 2:8] = True
    assert truth.mask.tolist() == objects.tolist() and truth.scored.tolist() == (objects | ~crowd).tolist()
    assert len(truth.boxes) == 2


def test_an_object_with_a_box_and_no_pixel_gives_finite_scores(tmp_path):
    pytest.importorskip("pycocotools")
    dataset = written(tmp_path, (NOTHING, 0))
    found = named(score(dataset=dataset, truth="both"))
    assert found["iou", "whole picture", 0.2].value == found["max_f", "whole picture", 0.2].value == 0
    assert all(np.isfinite(one.value) for one in found.values())
    assert found["corloc", "whole picture", 0.2].ci95 is None, "of one picture"


def test_unlabelled_pixels_are_neither_object_nor_ground():
    class Maps(type(drawn_parts.DATA)):
        def label(self, item):
            return np.array([[0, 1, 255], [2, 0, 0]])

    dataset = Maps(root=Path())
    assert (dataset.background, dataset.ignore_index) == (0, 255)
    truth = truth_of(dataset, dataset.items("val")[0], "masks", True)
    assert truth.mask.tolist() == [[False, True, False], [True, False, False]]
    assert truth.scored.tolist() == [[True, True, False], [True, True, True]]
