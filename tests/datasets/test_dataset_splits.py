"""Which images a split has, errors that name the file, and what `verify` reports."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_files import grid, save_image, save_mask, save_text
from PIL import Image

from densebench.datasets import load_dataset
from densebench.datasets.dataset import Item
from densebench.errors import UserError


def test_voc_reads_aug_labels_for_trainaug_only(voc):
    assert [item.name for item in voc.items("train")] == ["b", "a"]  # the list's order
    assert voc.label(voc.items("train")[0]).ravel()[:3].tolist() == [0, 3, 0]
    assert voc.label(voc.items("trainaug")[0]).ravel()[:3].tolist() == [1, 3, 1]
    assert voc.label(voc.items("trainaug")[1]).ravel()[:3].tolist() == [1, 255, 1]
    assert voc.label(voc.items("val")[0]).ravel()[:3].tolist() == [0, 20, 0]
    label = voc.label(voc.items("val")[0])
    assert label.dtype == np.uint8 and label.shape == (4, 6)
    assert voc.image(voc.items("val")[0]).size == (6, 4) == voc.image_size(voc.items("val")[0])
    assert voc.train_split == "trainaug" and voc.background == 0


def test_missing_lists_folders_and_splits_are_named(voc, tmp_path):
    with pytest.raises(UserError, match="unknown split 'vol': did you mean 'val'"):
        voc.items("vol")
    voc_lists = tmp_path / "VOCdevkit" / "VOC2012" / "ImageSets" / "Segmentation"
    (voc_lists / "trainaug.txt").unlink()
    with pytest.raises(UserError, match=r"the list .*trainaug.txt is missing; run `densebench data get voc`"):
        voc.items("trainaug")
    (voc_lists / "val.txt").write_text("\n")
    with pytest.raises(UserError, match="no image in split 'val'"):
        voc.items("val")
    with pytest.raises(UserError, match=r"SegmentationClass is missing"):
        (tmp_path / "VOCdevkit" / "VOC2012" / "SegmentationClass").rename(tmp_path / "gone")
        voc.items("train")
    with pytest.raises(UserError, match=r"leftImg8bit/val is missing; see `densebench data get cityscapes`"):
        load_dataset("cityscapes", tmp_path).items("val")


def test_broken_files_are_named(voc):
    item = voc.items("val")[0]
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(item.image)
    with pytest.raises(UserError, match=r"label map .*c.png is 6 x 4 but its image .*c.jpg is 64 x 64"):
        voc.label(item)
    item.image.write_bytes(item.image.read_bytes()[:1500])
    with pytest.raises(UserError, match=r"image .*c.jpg cannot be decoded \(image file is truncated"):
        voc.image(item)
    item.image.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"c.jpg cannot be decoded"):
        voc.image(item)
    with pytest.raises(UserError, match=r"c.jpg cannot be opened"):
        voc.label(item)
    item.image.unlink()
    with pytest.raises(UserError, match=r"image .*c.jpg is missing"):
        voc.image(item)
    item.label.unlink()
    with pytest.raises(UserError, match=r"label map .*c.png is missing"):
        voc.label(item)
    Image.new("RGB", (6, 4)).save(item.label)
    with pytest.raises(UserError, match="has mode RGB, not one id a pixel"):
        voc.label(item)
    item.label.write_bytes(b"")
    with pytest.raises(UserError, match=r"c.png cannot be decoded"):
        voc.label(item)
    save_image(item.image)
    save_mask(item.label, grid(0, 21, 30))
    with pytest.raises(UserError, match=r"c.png holds the value 21, which voc does not have \(2 such values"):
        voc.label(item)
    with pytest.raises(UserError, match="scene has no file"):
        voc.image(Item("scene", None, None))


def test_verify_reports_counts_missing_files_and_bad_values(voc):
    counts = [f"{split}: {n} of the official {official} images" for split, n, official in
              (("train", 2, 1464), ("val", 1, 1449), ("trainval", 3, 2913), ("trainaug", 2, 10582))]  # fmt: skip
    assert voc.verify() == voc.verify(full=True) == counts
    item = voc.items("val")[0]
    save_mask(item.label, grid(77))
    assert any(line.startswith("val: the label map") and "value 77" in line for line in voc.verify())
    item.image.unlink()
    assert f"val: 1 files are missing, the first is {item.image}" in voc.verify()


def test_verify_opens_a_sample_or_everything(tmp_path):
    folder = tmp_path / "own"
    save_text(folder / "classes.toml", 'classes = ["x"]\nsplits = ["val"]\n')
    for index in range(100):
        save_image(folder / "images" / "val" / f"{index:03}.png")
        save_mask(folder / "labels" / "val" / f"{index:03}.png", grid(1 if index == 1 else 0))
    dataset = load_dataset(f"folder:{folder}")
    assert dataset.verify() == []
    assert len(dataset.verify(full=True)) == 1
