"""A cache of its own for every test, and a small Pascal VOC."""

from __future__ import annotations

import pytest
from dataset_files import grid, save_image, save_mask, save_text

from densebench.datasets import load_dataset


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DENSEBENCH_CACHE", str(folder))
    return folder


@pytest.fixture
def voc(tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2012"
    for name, value in (("b", 3), ("a", 255), ("c", 20)):
        save_image(folder / "JPEGImages" / f"{name}.jpg")
        save_mask(folder / "SegmentationClass" / f"{name}.png", grid(0, value))
        save_mask(folder / "SegmentationClassAug" / f"{name}.png", grid(1, value))
    for split, names in (("train", "b\na\n"), ("val", "c\n"), ("trainval", "b\na\nc\n"), ("trainaug", "b\na\n")):
        save_text(folder / "ImageSets" / "Segmentation" / f"{split}.txt", names)
    return load_dataset("voc", tmp_path)
