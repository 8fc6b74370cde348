"""UAVDT's truth: clipped to learn from, as it stands in the files to score against, as the official evaluation has it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from densebench.bridges.torchvision.inference import Detections
from densebench.bridges.torchvision.options import Data
from densebench.datasets import uavdt
from densebench.datasets.uavdt import Uavdt
from densebench.evals.detection.average_precision import Scored, agnostic_precision
from densebench.evals.detection.protocol import scored_images

WHOLE = "1,1,10,20,30,5,1,1,1\n1,2,90,40,30,30,2,1,2\n1,3,100,40,30,30,1,1,2\n"  # the second reaches out, the third is out
IGNORED = "1,1,-5,-5,50,15,1,-1,-1\n"


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(uavdt, "VIDEOS", {"train": "M0101", "test": "M0203"})
    truth = tmp_path / "UAV-benchmark-MOTD_v1.0" / "GT"
    truth.mkdir(parents=True)
    for video in ("M0101", "M0203"):
        folder = tmp_path / "UAV-benchmark-M" / video
        folder.mkdir(parents=True)
        Image.new("RGB", (100, 50)).save(folder / "img000001.jpg")
        (truth / f"{video}_gt_whole.txt").write_text(WHOLE)
        (truth / f"{video}_gt_ignore.txt").write_text(IGNORED)
    return Uavdt(root=tmp_path)


@pytest.fixture
def item(dataset):
    return dataset.items("test")[0]


def found(boxes):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Detections(
        "M0203/img000001", boxes, np.linspace(0.9, 0.1, len(boxes), dtype=np.float32), np.zeros(len(boxes), np.int64), []
    )


def precision(dataset, item, boxes):
    return agnostic_precision([Scored(dataset.truth(item), found(boxes), 50, 100)], 0.7)


def test_truth_is_not_clipped_and_nothing_is_left_out(dataset, item):
    truth = dataset.truth(item)
    assert truth.boxes.tolist() == [[10, 20, 40, 25], [90, 40, 120, 70], [100, 40, 130, 70], [-5, -5, 45, 10]]
    assert truth.crowd.tolist() == [False, False, False, True] and truth.areas.tolist() == [150, 900, 900, 750]


def test_what_is_learned_from_lies_inside_the_image(dataset, item):
    objects = dataset.objects(item)
    assert objects.boxes.tolist() == [[10, 20, 40, 25], [90, 40, 100, 50], [0, 0, 45, 10]]


def test_a_detection_of_the_visible_part_misses_a_box_that_reaches_far_out(dataset, item):
    """By hand: three objects, the first one found; 100 of 900 square px are no match."""
    value, objects, gone = precision(dataset, item, [[10, 20, 40, 25], [90, 40, 100, 50]])
    assert (round(value, 6), objects, gone) == (round(100 / 3, 6), 3, 0)


def test_a_detection_at_the_edge_lies_inside_a_region_that_reaches_out(dataset, item):
    value, objects, gone = precision(dataset, item, [[0, 0, 20, 8], [10, 20, 40, 25]])
    assert (round(value, 6), objects, gone) == (round(100 / 3, 6), 3, 1)


def test_the_protocol_scores_against_the_truth(dataset, item, tmp_path, monkeypatch):
    from densebench.evals.detection import protocol as detection

    monkeypatch.setattr(detection, "read_detections", lambda _folder: iter([found([[10, 20, 40, 25]])]))
    [one] = scored_images(Data(dataset, [], [item], agnostic=True), [item], tmp_path)
    assert one.truth.boxes.tolist() == dataset.truth(item).boxes.tolist()


def test_records_of_the_clipped_truth_do_not_compare(dataset):
    assert dataset.mapping == "uavdt-vehicle-v2"
