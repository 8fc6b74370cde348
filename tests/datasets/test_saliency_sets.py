"""Salient objects: both layouts of each data set, masks of any kind, and every grey above 0."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_files import save_image
from PIL import Image

from densebench.datasets import load_dataset
from densebench.errors import UserError

LAYOUTS = [
    ("ecssd", "ECSSD/images", "ECSSD/ground_truth_mask"),
    ("ecssd", "ECSSD/img", "ECSSD/gt"),
    ("duts-te", "DUTS-TE/DUTS-TE-Image", "DUTS-TE/DUTS-TE-Mask"),
    ("duts-te", "DUTS_Test/img", "DUTS_Test/gt"),
    ("dut-omron", "DUT-OMRON/DUT-OMRON-image", "DUT-OMRON/pixelwiseGT-new-PNG"),
    ("dut-omron", "DUT_OMRON/img", "DUT_OMRON/gt"),
]
GREYS = np.array([[0, 1, 127, 128, 254, 255], [0] * 6, [255] * 6, [0, 0, 9, 9, 0, 0]], np.uint8)


def write(root, images, masks, names=("b", "a")):
    for name in names:
        save_image(root / images / f"{name}.jpg")
        (root / masks).mkdir(parents=True, exist_ok=True)
        Image.fromarray(GREYS).save(root / masks / f"{name}.png")


@pytest.mark.parametrize(("name", "images", "masks"), LAYOUTS)
def test_layouts(tmp_path, name, images, masks):
    assert load_dataset(name, tmp_path).state() == "absent"
    write(tmp_path, images, masks)
    dataset = load_dataset(name, tmp_path)
    assert dataset.state() == "present"
    assert [item.name for item in dataset.items("test")] == ["a", "b"]
    assert (dataset.classes, dataset.background) == (("background", "object"), 0)
    assert dataset.verify(full=True) == [f"test: 2 of the official {dataset.official_images('test')} images"]


@pytest.fixture
def ecssd(tmp_path):
    write(tmp_path, "ECSSD/img", "ECSSD/gt")
    return load_dataset("ecssd", tmp_path)


def test_every_grey_above_zero_is_the_object(ecssd):
    assert ecssd.label(ecssd.items("test")[0]).tolist() == (GREYS > 0).astype(int).tolist()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "LA", "P"])
def test_masks_of_several_kinds_say_the_same(ecssd, mode):
    item = ecssd.items("test")[0]
    mask = Image.fromarray(GREYS)
    if mode == "P":  # the palette's colours count, not its indices
        mask = Image.fromarray((GREYS == 0).astype(np.uint8)).convert("P")
        mask.putpalette([200, 200, 200, 0, 0, 0])
    mask.convert(mode).save(item.label)
    assert ecssd.label(item).tolist() == (GREYS > 0).astype(int).tolist()


def test_a_mask_of_one_bit(ecssd):
    item = ecssd.items("test")[0]
    Image.fromarray(GREYS >= 128).save(item.label)
    assert ecssd.label(item).tolist() == (GREYS >= 128).astype(int).tolist()


def test_broken_masks_are_one_line_each(ecssd):
    first, second = ecssd.items("test")
    Image.fromarray(GREYS.astype(np.uint16)).save(first.label)
    second.label.write_bytes(b"no picture")
    flaws = [line for line in ecssd.verify(full=True) if "official" not in line]
    assert len(flaws) == 2 and "has mode I;16" in flaws[0] and "cannot be decoded" in flaws[1]
    first.label.unlink()
    assert any("1 files are missing" in line for line in ecssd.verify())


def test_a_mask_of_another_size_is_refused(ecssd):
    item = ecssd.items("test")[0]
    Image.fromarray(GREYS[:3]).save(item.label)
    with pytest.raises(UserError, match="is 6 x 3 but its image .* is 6 x 4"):
        ecssd.label(item)


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(UserError, match=r"the folder .*DUTS-TE-Image is missing; run `densebench data get duts-te`"):
        load_dataset("duts-te", tmp_path).items("test")
