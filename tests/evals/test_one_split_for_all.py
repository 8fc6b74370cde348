"""Data sets that have one split for all purposes are scored by what learns nothing, and refused by what would learn from it."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_files import save_image
from PIL import Image
from voc_files import voc_object, write_voc

from densebench.errors import UserError
from densebench.evaluation.run import evaluate

SIDE = 64
SMALL = {"image_size": 32, "short_side": 32, "neighbours": "1"}


@pytest.fixture
def voc(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    objects = {"dog": (1, 1, 60, 60), "cat": (5, 5, 64, 64)}
    images = {f"{name}{i}": ((SIDE, SIDE), [voc_object(name, box)]) for name, box in objects.items() for i in range(4)}
    names = sorted(images)
    folder = write_voc(tmp_path, "2007", images, {"trainval": names, "train": names[::2], "val": names[1::2]})
    for name in names:
        save_image(folder / "JPEGImages" / f"{name}.jpg", SIDE, SIDE, 250 if name < "d" else 5)
    return tmp_path


def test_boxes_of_voc_are_scored_by_their_nearest_neighbours(voc):
    splits = {"train_split": "train", "eval_split": "val"}
    [record] = evaluate("pixels:8", "bbox-knn", "voc2007", data_root=voc, results=voc / "results", **splits, **SMALL).records
    assert record["scores"][-1]["value"] == 100.0


@pytest.mark.parametrize(
    ("protocol", "splits"),
    [
        ("bbox-knn", {}),
        ("bbox-knn", {"eval_split": "val"}),
        ("bbox-knn", {"train_split": "val"}),
        pytest.param("detection", {}, marks=pytest.mark.slow),  # imports torchvision's detectors
    ],
)
def test_images_that_would_be_learned_from_and_scored_are_refused(voc, protocol, splits):
    given = {"model": "faster-rcnn", **splits} if protocol == "detection" else {**SMALL, **splits}
    with pytest.raises(UserError, match=r"images of (trainval|val) would be both learned from and scored; name two of trainval"):
        evaluate("pixels:8", protocol, "voc2007", data_root=voc, results=voc / "results", **given)


def test_a_folder_of_boxes_says_how_to_draw_a_part(voc):
    folder = voc / "VOCdevkit" / "VOC2007"
    for path in (folder / "ImageSets" / "Main").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"draw a part by seed, boxes:DIR\?val=0.2"):
        evaluate("pixels:8", "bbox-knn", f"boxes:{folder}", results=voc / "results", **SMALL)
    [record] = evaluate("pixels:8", "bbox-knn", f"boxes:{folder}?val=0.3", results=voc / "results", **SMALL).records
    assert record["status"] == "complete"


@pytest.mark.parametrize("protocol", ["incontext", "linear"])
def test_salient_objects_are_not_learned_from(tmp_path, monkeypatch, protocol):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    for name in "ab":
        save_image(tmp_path / "ECSSD" / "img" / f"{name}.jpg", SIDE, SIDE)
        (tmp_path / "ECSSD" / "gt").mkdir(exist_ok=True)
        Image.fromarray(np.eye(SIDE, dtype=np.uint8) * 255).save(tmp_path / "ECSSD" / "gt" / f"{name}.png")
    with pytest.raises(UserError, match="ecssd: 2 images of test would be both learned from and scored; take another data set"):
        evaluate("pixels:8", protocol, "ecssd", data_root=tmp_path, results=tmp_path / "results", image_size=64)
