"""The protocol `detection` as a whole, on small images."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from drawn_objects import Drawn, boxes_of, scene, small_vit
from PIL import Image

from densebench import options
from densebench.bridges.torchvision import training
from densebench.bridges.torchvision.masks import encode
from densebench.bridges.torchvision.options import iterations_of
from densebench.datasets import uavdt
from densebench.errors import UserError
from densebench.evals.detection import protocol as detection
from densebench.evals.detection.protocol import Detection
from densebench.evaluation.run import evaluate
from densebench.results.leaderboard import leaderboard
from densebench.results.summary import summary

SMALL = {
    "width": 8, "short_side": 80, "train_batch": 1, "regions": 8, "detections": 10, "iterations": 2, "workers": 0,
    "device": "cpu",
}  # fmt: skip


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A run of a small backbone on a small data set; files go to a folder of their own."""
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))

    def run(dataset=None, **given):
        asked = {"results": tmp_path / "results", **SMALL, **given}
        [record] = evaluate(small_vit(dim=16), "detection", dataset or Drawn(root=tmp_path), **asked).records
        return record

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
    given = {"iterations": 2, "model": "faster-rcnn"}
    whole = small(**given, results=tmp_path / "whole")
    monkeypatch.setattr(training, "LEAST", 1)

    def killed(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(detection, "detect", killed)
        with pytest.raises(KeyboardInterrupt):
            small(**given)
    monkeypatch.setattr(training.Trainer, "step", killed)  # no step is left to do
    again = small(**given)
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


def preset(name):
    return options.build(Detection, Detection.presets[name], {})


def test_presets_restate_the_published_runs():
    flsl, vitdet, uavdt = map(preset, ("flsl", "vitdet", "uavdt"))
    assert (flsl.model, flsl.pyramid, flsl.train_batch, flsl.short_side, flsl.longest) == ("mask-rcnn", "fpn", 8, 800, 1333)
    assert (flsl.epochs, flsl.steps, flsl.learning_rate, flsl.weight_decay) == (12, (8, 11), 5e-5, 0.05)
    assert (vitdet.augmentation, vitdet.longest, vitdet.layer_decay) == ("lsj", 1024, 0.7)
    assert (uavdt.model, uavdt.short_side, uavdt.longest, uavdt.detections) == ("faster-rcnn", 600, 1000, 500)
    headlines = [options.headline() for options in (flsl, vitdet, uavdt)]
    assert [headline["variant"] for headline in headlines] == ["box", "box", "class-agnostic"]


def test_the_length_of_the_published_runs_on_coco():
    assert iterations_of(preset("flsl"), 117_266) == 175_908
    vitdet = preset("vitdet")
    assert iterations_of(vitdet, 117_266) == pytest.approx(184_375, rel=0.01)
    assert [round(step / vitdet.epochs * 184_375) for step in vitdet.steps] == pytest.approx([163_889, 177_546], abs=2)


def test_the_square_of_large_scale_jitter_goes_with_the_short_side(tmp_path):
    def made(**given):
        own = options.build(Detection, Detection.presets["vitdet"], given).resolve(Drawn(root=tmp_path))
        assert own.settings(Drawn(root=tmp_path))["long_side"] == own.longest
        return own.short_side, own.longest

    assert made() == (1024, 1024) and made(short_side=256) == made(short_side=256, long_side=256) == (256, 256)
    assert made(short_side=256, augmentation="scales") == (256, 427)


def test_the_run_is_comparable_where_its_length_is_the_published_one(tmp_path):
    dataset = Drawn(root=tmp_path)
    assert Detection().settings(dataset)["comparable"] is True
    assert Detection(iterations=100).settings(dataset)["comparable"] is False


@pytest.mark.parametrize("runtime", [{"batch_size": 2, "visualise": 1}, pytest.param({"workers": 1}, marks=pytest.mark.slow)])
def test_runtime_options_change_no_number(runtime, small, tmp_path):
    given = {"model": "faster-rcnn", "iterations": 1}
    one, two = small(results=tmp_path / "one", **given), small(results=tmp_path / "two", **given, **runtime)
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


def test_a_folder_like_cocos(tmp_path, monkeypatch):
    coco_folder(tmp_path)
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    what = {"data_root": tmp_path, **SMALL}
    [record] = evaluate("random:test_vit", "detection", "coco-boxes", results=tmp_path / "results", **what).records
    assert record["scores"][-1]["details"]["without_objects"] == 1
    (tmp_path / "coco" / "annotations" / "instances_val2017.json").write_text("{")
    with pytest.raises(UserError, match=r"instances_val2017\.json"):
        evaluate("random:test_vit", "detection", "coco-boxes", results=tmp_path / "again", **what)


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
    [record] = evaluate(
        "timm:vit_small_patch14_dinov2", "detection", "coco-boxes", weights=weights, data_root=shared_data,
        results=tmp_path / "results", **given,
    ).records  # fmt: skip
    values = {(score["metric"], score["variant"]): score["value"] for score in record["scores"]}
    assert values["ap50", "box"] > 50
