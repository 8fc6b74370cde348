"""Average precision of hand-made detections, and the protocol `detection` as a whole.

Lin et al., Microsoft COCO, ECCV 2014; Du et al., UAVDT, ECCV 2018 (class-agnostic AP with ignored regions).
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from densebench.evals.detection import protocol as detection
from densebench.evals.detection.average_precision import (
    CocoPrecision,
    Seen,
    agnostic_precision,
    area_under,
    ignored,
    matched,
    overlaps,
)
from densebench.evals.detection.protocol import Detection
from drawn_objects import Drawn, boxes_of, scene, small_vit
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from densebench import options
from densebench.bridges.torchvision import training
from densebench.bridges.torchvision.inference import Found
from densebench.bridges.torchvision.masks import encode
from densebench.datasets import uavdt
from densebench.datasets.boxes import Objects
from densebench.errors import UserError
from densebench.evaluation import run as evaluation
from densebench.evaluation.run import Backbones, evaluate
from densebench.results.leaderboard import leaderboard
from densebench.results.summary import summary

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


def seen(truth, boxes, scores, classes=None, name="x", masks=(), size=(100, 100)):
    boxes = np.array(boxes, dtype=float).reshape(-1, 4)
    kinds = np.zeros(len(boxes), int) if classes is None else np.array(classes, int)
    return Seen(truth, Found(name, boxes, np.array(scores, dtype=float), kinds, tuple(masks)), *size)


def test_class_agnostic_precision_by_hand():
    region = [40, 40, 90, 90]
    one = seen(
        objects([[0, 0, 10, 10], [20, 0, 30, 10], region], classes=[0, 1, 0], crowd=[False, False, True]),
        [[0, 0, 10, 10], [50, 50, 60, 60], [30, 50, 60, 60], [20, 0, 30, 8]], [0.9, 0.95, 0.8, 0.7], classes=[1, 0, 0, 0],
    )  # fmt: skip
    two = seen(objects([[0, 0, 10, 10]]), [[0, 0, 10, 6.9]], [0.85])
    # by score: 0.95 is taken away; right, wrong (IoU 0.69), wrong (half outside the region), right (IoU 0.8)
    value, count, gone = agnostic_precision([one, two], 0.7)
    assert (count, gone) == (3, 1)
    assert value == pytest.approx(100 * (1 / 3 * 1 + 1 / 3 * 2 / 4))
    assert agnostic_precision([one, two], 0.6)[0] == pytest.approx(100 * (1 / 3 + 1 / 3 + 1 / 3 * 3 / 4))
    assert agnostic_precision([], 0.7) == (0.0, 0, 0)


# COCO


def judged(images, classes=("a", "b"), masks=False):
    judge = CocoPrecision(classes, masks)
    for one in images:
        judge.add(one)
    return judge.values()


def test_what_is_perfect_scores_100():
    truth = objects([[0, 0, 10, 10], [20, 20, 60, 60]], classes=[0, 1])
    values = judged([seen(truth, truth.boxes, [0.5, 0.6], truth.classes)])
    assert {metric: round(value, 6) for metric, (value, _) in values.items()} == {
        "ap": 100, "ap50": 100, "ap75": 100, "ap_small": 100, "ap_medium": 100,
    }  # fmt: skip
    assert values["ap"][1] == {"a": pytest.approx(100), "b": pytest.approx(100)}
    assert values["ap_small"][1] == {"a": pytest.approx(100), "b": None}


def test_average_precision_by_hand():
    """Two objects of a class; IoU 1 and, behind a false one, IoU 0.8."""
    truth = objects([[0, 0, 10, 10], [20, 20, 30, 30]])
    image = seen(truth, [[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 28]], [0.9, 0.8, 0.7])
    # recalls 0, 0.01, ..., 0.5 (51 of 101) have precision 1; the other 50 have 2/3 up to IoU 0.8 and 0 above
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 101
    values = judged([image])
    assert values["ap50"][0] == pytest.approx(100 * low) and values["ap75"][0] == pytest.approx(100 * low)
    above = sum(iou > 0.8 + 1e-9 for iou in np.linspace(0.5, 0.95, 10))
    assert above == 3
    assert values["ap"][0] == pytest.approx(100 * (7 * low + 3 * high) / 10, abs=1e-6)
    assert values["ap"][1] == {"a": pytest.approx(values["ap"][0]), "b": None}


def test_groups_are_neither_missed_nor_found():
    truth = objects([[0, 0, 10, 10], [40, 40, 90, 90]], crowd=[False, True])
    without = judged([seen(truth, [[0, 0, 10, 10]], [0.5])])
    inside = judged([seen(truth, [[0, 0, 10, 10], [45, 45, 60, 60], [50, 50, 70, 70]], [0.5, 0.9, 0.8])])
    assert without["ap"][0] == inside["ap"][0] == pytest.approx(100)
    outside = judged([seen(truth, [[0, 0, 10, 10], [45, 0, 60, 20]], [0.5, 0.9])])
    assert outside["ap"][0] == pytest.approx(50)


def test_nothing_found_and_images_without_objects():
    truth = objects([[0, 0, 10, 10]])
    assert judged([seen(truth, [], []), seen(objects([]), [], [], name="y")])["ap"][0] == 0
    fine = [seen(truth, [[0, 0, 10, 10]], [0.9])]
    assert judged([*fine, seen(objects([]), [[0, 0, 5, 5]], [0.1], name="y")])["ap"][0] == pytest.approx(100)
    assert judged([*fine, seen(objects([]), [[0, 0, 5, 5]], [0.95], name="y")])["ap"][0] == pytest.approx(50)
    assert judged([seen(objects([]), [], [])]) == {}


def test_mask_sizes_are_of_masks_not_of_boxes():
    """A thin diagonal in a large box is small: a false one of its like spoils the small objects alone."""
    diagonal, shifted = np.eye(100, dtype=np.uint8), np.eye(100, dtype=np.uint8)[::-1]
    text, other = (encode(one[None])[0] for one in (diagonal, np.ascontiguousarray(shifted)))
    large = np.zeros((100, 100), np.uint8)
    large[:98, :98] = 1
    masks = [{"size": [100, 100], "counts": text}, {"size": [100, 100], "counts": encode(large[None])[0]}]
    truth = Objects(np.array([[0.0, 0, 100, 100], [0, 0, 98, 98]]), np.zeros(2, int), np.zeros(2, bool),
                    np.array([100.0, 98 * 98]), tuple(masks))  # fmt: skip
    image = seen(truth, [[0, 0, 100, 100]] * 3, [0.9, 0.8, 0.95], masks=(text, masks[1]["counts"], other))
    values = judged([image], masks=True)
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
        images.append(seen(truth, boxes_of(found_masks), scores, kinds, str(number), found_texts, (90, 100)))
        for place in range(4):
            left, top, right, bottom = truth.boxes[place].tolist()
            annotations.append({
                "id": len(annotations) + 1, "image_id": number, "category_id": int(classes[place]), "iscrowd": int(crowd[place]),
                "bbox": [left, top, right - left, bottom - top], "area": float(truth.areas[place]), "segmentation": rle[place],
            })  # fmt: skip
        for place in range(8):
            left, top, right, bottom = images[-1].found.boxes[place].tolist()
            shape = {"segmentation": {"size": [90, 100], "counts": found_texts[place]}} if masks else {
                "bbox": [left, top, right - left, bottom - top]}  # fmt: skip
            results.append({"image_id": number, "category_id": int(kinds[place]), "score": float(scores[place]), **shape})
    values = judged(images, ("a", "b", "c"), masks)
    whole = {"images": [{"id": n, "height": 90, "width": 100} for n in range(5)], "annotations": annotations,
             "categories": [{"id": n, "name": str(n)} for n in range(3)], "info": {}}  # fmt: skip
    for name, content in (("truth", whole), ("results", results)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        judge = COCOeval(truth, truth.loadRes(str(tmp_path / "results.json")), "segm" if masks else "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    for metric, value in zip(("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"), judge.stats, strict=False):
        assert values.get(metric, (-100,))[0] == pytest.approx(100 * value), metric
    assert 5 < values["ap"][0] < 95


def test_the_evaluator_says_nothing_on_stdout_and_can_be_asked_twice(capsys):
    judge = CocoPrecision(("a",))
    judge.add(seen(objects([[0, 0, 10, 10]]), [[0, 0, 10, 10]], [0.9]))
    assert judge.values() == judge.values()
    assert capsys.readouterr().out == ""


# The protocol


SMALL = {
    "width": 8, "short_side": 80, "train_batch": 1, "regions": 8, "detections": 10, "iterations": 2, "workers": 0,
    "device": "cpu",
}  # fmt: skip


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The command's ways to a backbone and a data set lead to the small ones; files go to a folder of their own."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluation, "load_backbone", lambda *_, **__: small_vit(dim=16))

    def run(dataset=None, **given):
        chosen = dataset or Drawn(root=tmp_path)
        monkeypatch.setattr(evaluation, "load_dataset", lambda *_: chosen)
        asked = {"backbones": ["small"], "datasets": ["drawn"], "results": tmp_path / "results", **SMALL, **given}
        return next(iter(evaluate("detection", **asked)))

    return run


def test_a_run_gives_all_scores_and_a_record(small, tmp_path, capsys):
    record = small(Drawn(root=tmp_path, empty=("train-1",)), visualise=2)
    found = {(score["metric"], score["variant"]): score for score in record["scores"]}
    kinds = {(metric, variant) for metric in ("ap", "ap50", "ap75", "ap_small", "ap_medium") for variant in ("box", "mask")}
    assert kinds == set(found)
    assert record["status"] == "complete" and all(0 <= score["value"] <= 100 for score in found.values())
    assert set(found["ap", "box"]["per_class"]) == {"rectangle", "disc"} and "per_class" not in found["ap50", "mask"]
    details = found["ap", "box"]["details"]
    assert (details["images"], details["without_objects"], details["iterations"]) == (2, 1, 2) and details["loss"] > 0
    assert record["protocol"]["settings"]["comparable"] is False and record["protocol"]["settings"]["iterations"] == 2
    assert record["protocol"]["settings"]["long_side"] == 133
    assert "1 of 3 training images show no object" in capsys.readouterr().err
    assert "box ap in %" in summary(record)
    pictures = sorted((tmp_path / "results" / "pictures" / record["id"]).iterdir())
    assert [path.name for path in pictures] == ["val-0.png", "val-2.png"] or len(pictures) == 2
    assert not list((tmp_path / "cache" / "scoring").glob("*"))  # nothing stays of the work


def test_tables_of_short_runs_say_so_and_do_without_intervals(small, tmp_path):
    small()
    tables = leaderboard(tmp_path / "results").tables
    assert len(tables) == 1
    assert "box AP in %" in tables[0].caption and "80 px" in tables[0].caption
    assert "2 iterations (not comparable with published runs)" in tables[0].caption
    assert tables[0].cells.shape[0] == 1 and "value" in tables[0].cells.columns


def test_a_killed_run_goes_on_and_ends_with_the_same_scores(small, tmp_path, monkeypatch):
    whole = small(iterations=3, results=tmp_path / "whole")
    monkeypatch.setattr(training, "LEAST", 1)
    looked = detection.detect

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(detection, "detect", killed)
    with pytest.raises(KeyboardInterrupt):
        small(iterations=3)
    monkeypatch.setattr(detection, "detect", looked)
    monkeypatch.setattr(training._Run, "_step", killed)  # no step is left to do
    again = small(iterations=3)
    assert [(s["metric"], s["variant"], s["value"]) for s in again["scores"]] == [
        (s["metric"], s["variant"], s["value"]) for s in whole["scores"]
    ]


def test_class_agnostic_scores(small, tmp_path):
    record = small(Drawn(root=tmp_path, crowds=("val-0",)), preset="uavdt", short_side=80, long_side=133)
    assert [(score["metric"], score["variant"]) for score in record["scores"]] == [("ap", "class-agnostic")]
    assert record["scores"][0]["details"]["objects"] == 5 and record["scores"][0]["details"]["iou"] == 0.7
    assert record["protocol"]["headline"] == {"metric": "ap", "variant": "class-agnostic"}


class Boxes(Drawn):
    has_masks = False


@pytest.mark.parametrize(("given", "message"), [
    ({"drop_path": 1.0}, "--drop-path 1: it is the share"),
    ({"iou": 1.5}, "--iou 1.5"),
    ({"long_side": 40}, "--long-side 40: it is shorter than --short-side 80"),
    ({"augmentation": "lsj", "long_side": 100}, "--long-side 100: --augmentation lsj cuts images to a square of --short-side 80"),
    ({"train_batch": 3, "gpus": 2}, "--train-batch 3 cannot be divided among 2 processes"),
    ({"train_batch": 3, "at_once": 2}, "with --at-once 2"),
    ({"train_split": "nowhere"}, "nowhere"),
    ({"precision": "fp16"}, "takes a GPU"),
])  # fmt: skip
def test_what_does_not_go_together(small, given, message):
    with pytest.raises(UserError, match=message):
        small(**given)


def test_masks_need_masks_and_objects_need_to_be_there(small, tmp_path):
    with pytest.raises(UserError, match="drawn has boxes without masks; use --model faster-rcnn"):
        small(Boxes(root=tmp_path))
    assert {score["variant"] for score in small(Boxes(root=tmp_path), model="faster-rcnn")["scores"]} == {"box"}
    nothing = tuple(f"{split}-{number}" for split in ("train", "val") for number in range(3))
    with pytest.raises(UserError, match="drawn has no object in the 3 training images"):
        small(Drawn(root=tmp_path, empty=nothing))
    with pytest.raises(UserError, match="drawn has no object in the 3 images that are scored"):
        small(Drawn(root=tmp_path, empty=nothing[3:]))


def test_presets_restate_the_published_runs():
    def made(preset):
        own = options.build(Detection, Detection.presets[preset], {})
        return own, own.recipe(117_266)

    flsl, one = made("flsl")
    assert (one.iterations, one.batch, one.steps) == (175_908, 8, (8 / 12, 11 / 12))
    assert (one.masks, one.pyramid, one.square, one.short, one.long) == (True, "fpn", False, 800, 1333)
    vitdet, two = made("vitdet")
    assert two.iterations == pytest.approx(184_375, rel=0.01) and (two.square, two.long, two.layer_decay) == (True, 1024, 0.7)
    assert [round(step * 184_375) for step in two.steps] == pytest.approx([163_889, 177_546], abs=2)
    uavdt, three = made("uavdt")
    assert (three.masks, three.short, three.long, three.detections) == (False, 600, 1000, 500)
    assert uavdt.headline()["variant"] == "class-agnostic" and flsl.headline() == vitdet.headline() == {
        "metric": "ap",
        "variant": "box",
    }


def test_the_square_of_large_scale_jitter_goes_with_the_short_side(tmp_path):
    def made(**given):
        own = options.build(Detection, Detection.presets["vitdet"], given).resolve(Drawn(root=tmp_path))
        assert own.settings(Drawn(root=tmp_path))["long_side"] == own.longest
        return own.recipe(1).short, own.recipe(1).long

    assert made() == (1024, 1024) and made(short_side=256) == made(short_side=256, long_side=256) == (256, 256)
    assert made(short_side=256, augmentation="scales") == (256, 427)


def test_the_run_is_comparable_where_its_length_is_the_published_one(tmp_path):
    dataset = Drawn(root=tmp_path)
    assert Detection().settings(dataset)["comparable"] is True
    assert Detection(iterations=100).settings(dataset)["comparable"] is False


def test_means_change_no_number(small, tmp_path):
    one, two = (small(results=tmp_path / f"by-{size}", batch_size=size, workers=size - 1, visualise=size - 1) for size in (1, 2))
    assert one["id"] == two["id"]
    assert [score["value"] for score in one["scores"]] == [score["value"] for score in two["scores"]]


def coco_folder(root: Path) -> None:
    """Four of the made-up images in COCO's layout, one without an object."""
    from densebench.datasets import load_dataset

    names = load_dataset("coco-boxes", root).classes
    for split in ("train", "val"):
        folder = root / "coco" / f"{split}2017"
        folder.mkdir(parents=True)
        images, annotations = [], []
        for number in range(1, 5):
            pixels, masks = scene(f"{split}-{number}")
            Image.fromarray(pixels).save(folder / f"{number:012}.jpg", quality=95)
            images.append({"id": number, "file_name": f"{number:012}.jpg", "height": 80, "width": 96})
            for place, mask in enumerate(masks if number > 1 else ()):
                left, top, right, bottom = boxes_of(mask[None])[0].tolist()
                annotations.append({
                    "id": len(annotations) + 1, "image_id": number, "category_id": place + 1, "iscrowd": 0,
                    "area": int(mask.sum()), "bbox": [left, top, right - left, bottom - top],
                    "segmentation": {"size": [80, 96], "counts": encode(mask[None])[0]},
                })  # fmt: skip
        categories = [{"id": place + 1, "name": name} for place, name in enumerate(names)]
        (root / "coco" / "annotations").mkdir(exist_ok=True)
        content = {"images": images, "annotations": annotations, "categories": categories}
        (root / "coco" / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))


def test_the_command_on_a_folder_like_cocos(tmp_path, monkeypatch):
    coco_folder(tmp_path)
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in SMALL.items()]
    what = ["--protocol", "detection", "--backbone", "random:vit_tiny_patch16_224", "--dataset", "coco-boxes"]
    where = ["--data-root", str(tmp_path), "--results", str(tmp_path / "results")]
    command = [sys.executable, "-m", "densebench", "eval", *what, *where, "--json", *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["scores"][-1]["details"]["without_objects"] == 1
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_text("{")
    done = subprocess.run([*command, "--rerun"], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "instances_val2017.json" in done.stderr and "Traceback" not in done.stderr


def test_made_up_videos_in_the_layout_of_uavdt(small, tmp_path, monkeypatch):
    """Two frames a split, the discs of the scored ones inside ignored regions: what is found there is taken away."""
    monkeypatch.setattr(uavdt, "VIDEOS", {"train": "M0101", "test": "M0203"})
    truth = tmp_path / "UAV-benchmark-MOTD_v1.0" / "GT"
    truth.mkdir(parents=True)
    for video in ("M0101", "M0203"):
        folder = tmp_path / "UAV-benchmark-M" / video
        folder.mkdir(parents=True)
        lines: dict[str, list[str]] = {"whole": [], "ignore": []}
        for frame in (1, 2):
            pixels, masks = scene(f"{video}-{frame}")
            Image.fromarray(pixels).save(folder / f"img{frame:06}.jpg", quality=95)
            for place, (left, top, right, bottom) in enumerate(boxes_of(masks).astype(int).tolist()):
                kind = "ignore" if place and video == "M0203" else "whole"
                lines[kind].append(f"{frame},{place + 1},{left},{top},{right - left},{bottom - top},1,1,{place + 1}")
        for kind, own in lines.items():
            (truth / f"{video}_gt_{kind}.txt").write_text("\n".join(own) + "\n")
    dataset = uavdt.Uavdt(root=tmp_path)

    def perfect(_detector, data, _recipe, folder, *_):
        lines = []
        for item in data.val:
            rectangle, region = data.dataset.objects(item).boxes.tolist()
            left, top, right, bottom = region
            found = [rectangle, [left + 1, top + 1, right - 1, bottom - 1], region]
            lines.append(json.dumps({"image": item.name, "boxes": found, "scores": [0.5, 0.9, 0.4], "classes": [0, 0, 0]}))
        (folder / "found-000.jsonl").write_text("\n".join(lines) + "\n")

    monkeypatch.setattr(detection, "detect", perfect)
    score = small(dataset, preset="uavdt", short_side=80, long_side=133)["scores"][0]
    assert score["value"] == pytest.approx(100)  # the wrong ones that are left come last
    assert (score["details"]["objects"], score["details"]["ignored"], score["details"]["images"]) == (2, 2, 2)


@pytest.mark.slow
def test_a_detector_overfits_real_images(shared_data, tmp_path, monkeypatch):
    """Two images of COCO's train split are learned and looked at again, at 160 px, by a ViT-S/14 with real weights."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    given = {"train_split": "train", "eval_split": "train", "limit": 2, "iterations": 150, "short_side": 160, "width": 64}
    given |= {
        "train_batch": 1,
        "regions": 32,
        "clip": 1.0,
        "augmentation": "flip",
        "learning_rate": 5e-4,
        "detections": 30,
        "warmup": 10,
    }
    weights = shared_data / "weights" / "vit_small_patch14_dinov2_imgfocus.fp16.safetensors"
    record = next(evaluate(
        "detection", backbones=Backbones(["timm:vit_small_patch14_dinov2"], weights), datasets=["coco-boxes"],
        data_root=shared_data, results=tmp_path / "results", **given,
    ))  # fmt: skip
    values = {(score["metric"], score["variant"]): score["value"] for score in record["scores"]}
    assert values["ap50", "box"] > 50
