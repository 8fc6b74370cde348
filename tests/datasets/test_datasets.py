from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

import densebench.datasets.io.digests as digests_module
from densebench.datasets import load_dataset
from densebench.datasets.catalog import present, titles
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.io.digests import FileDigests
from densebench.errors import UserError
from densebench.files.atomic import file_digest
from densebench.pictures.palette import distinct_palette, voc_palette

NAMES = {
    "ade20k", "camvid", "cityscapes", "coco-boxes", "coco-stuff164k", "coco-things", "coco-stuff", "davis2016", "davis2017",
    "imagenet-boxes", "pascal-context", "pascal-context-59", "scenes", "uavdt", "voc",
}  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DENSEBENCH_CACHE", str(folder))
    digests_module.shared_digests.cache_clear()
    return folder


def save_image(path, height=4, width=6, value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(path)


def save_mask(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = Image.fromarray(np.array(rows, np.uint8))
    if path.parent.name.startswith("Segmentation"):  # paletted, as VOC's
        mask = mask.convert("P")
        mask.putdata(np.array(rows).ravel().tolist())
        mask.putpalette(list(range(256)) * 3)
    mask.save(path)


def save_text(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def grid(*values, height=4, width=6):
    """A mask whose first pixels are `values` and whose others are values[0]."""
    mask = np.full(height * width, values[0], np.uint8)
    mask[: len(values)] = values
    return mask.reshape(height, width)


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


# Names


def test_listing_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, densebench.datasets.catalog as d; names = d.titles(); "
        "print(len(names), sorted({'torch', 'numpy', 'PIL', 'timm'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.split(maxsplit=1) == [str(len(NAMES)), "[]\n"]
    assert set(titles()) == NAMES
    assert all(titles().values())


def test_names_load_and_the_rest_is_an_error_with_a_hint(tmp_path):
    for name in NAMES:
        dataset = load_dataset(name, tmp_path)
        assert dataset.name == name and dataset.title == titles()[name] and dataset.root == tmp_path
        assert {dataset.train_split, dataset.val_split} <= set(dataset.splits)
        assert len(set(dataset.classes)) == len(dataset.classes) == len(set(dataset.palette()))
        assert dataset.mapping and dataset.licence and dataset.ignore_index == 255
    with pytest.raises(UserError, match="unknown data set 'coco-thing': did you mean 'coco-things'"):
        load_dataset("coco-thing")
    with pytest.raises(UserError, match=r"no file nowhere.py"):
        load_dataset("nowhere.py")
    assert present(tmp_path) == ["scenes"]


def test_number_of_classes(tmp_path):
    counts = {name: len(load_dataset(name, tmp_path).classes) for name in NAMES}
    assert counts == {
        "ade20k": 150, "camvid": 11, "cityscapes": 19, "coco-boxes": 80, "coco-stuff164k": 171, "coco-things": 12,
        "coco-stuff": 15, "davis2016": 0, "davis2017": 0, "imagenet-boxes": 0, "pascal-context": 60, "pascal-context-59": 59,
        "scenes": 8, "uavdt": 1, "voc": 21,
    }  # fmt: skip


def test_the_root_is_the_argument_or_the_variable_or_data(monkeypatch, tmp_path):
    monkeypatch.delenv("DENSEBENCH_DATA", raising=False)
    assert str(load_dataset("voc").root) == "data"
    monkeypatch.setenv("DENSEBENCH_DATA", str(tmp_path))
    assert load_dataset("voc").root == tmp_path
    assert load_dataset("voc", tmp_path / "x").root == tmp_path / "x"


def test_a_data_set_of_one_s_own_file_also_in_another_process(tmp_path):
    source = (
        "from dataclasses import dataclass\nfrom densebench.datasets.dataset import Dataset, Item\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Mine(Dataset):\n    name: str = 'mine'\n"
        "    classes: tuple[str, ...] = ('x',)\n"
        "    def list_items(self, split):\n        return [Item(split, None, None)]\n"
    )
    for text in (source, source + "DATASET = Mine\n"):
        save_text(tmp_path / "mine.py", text)
        dataset = load_dataset(str(tmp_path / "mine.py"), tmp_path)
        assert [item.name for item in dataset.items("val")] == ["val"]
    (tmp_path / "p").write_bytes(pickle.dumps(dataset))
    code = "import pickle, sys; d = pickle.load(open(sys.argv[1], 'rb')); print(d.name, d.root)"
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "p"], capture_output=True, text=True, check=True)
    assert result.stdout.split() == ["mine", str(tmp_path)]
    save_text(tmp_path / "empty.py", "x = 1\n")
    with pytest.raises(UserError, match="no class that derives from Dataset"):
        load_dataset(str(tmp_path / "empty.py"))


def test_pickling_leaves_digests_behind(voc):
    voc.digest("val", voc.items("val"))
    copy = pickle.loads(pickle.dumps(voc))
    assert copy == voc and "_digests" in vars(voc) and "_digests" not in vars(copy)


# Splits and files


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


# Label mappings


def test_ade20k_reduces_the_zero_label(tmp_path):
    folder = tmp_path / "ADEChallengeData2016"
    for name, mask in (("ADE_val_2", grid(0, 1, 2, 150)), ("ADE_val_1", grid(151))):
        save_image(folder / "images" / "validation" / f"{name}.jpg")
        save_mask(folder / "annotations" / "validation" / f"{name}.png", mask)
    dataset = load_dataset("ade20k", tmp_path)
    bad, good = dataset.items("val")
    assert (bad.name, good.name) == ("ADE_val_1", "ADE_val_2")  # sorted
    assert dataset.label(good).ravel()[:5].tolist() == [255, 0, 1, 149, 255]
    assert dataset.reduce_zero_label and dataset.classes[0] == "wall" and dataset.classes[149] == "flag"
    with pytest.raises(UserError, match="value 151"):
        dataset.label(bad)
    save_mask(good.label, grid(255))
    with pytest.raises(UserError, match="value 255"):
        dataset.label(good)


def test_cityscapes_keeps_nineteen_of_thirty_four_ids(tmp_path):
    folder = tmp_path / "cityscapes"
    for city in ("ulm", "bonn"):
        save_image(folder / "leftImg8bit" / "val" / city / f"{city}_1_leftImg8bit.png", 6, 6)
        save_mask(folder / "gtFine" / "val" / city / f"{city}_1_gtFine_labelIds.png", np.arange(36).reshape(6, 6).clip(max=33))
    dataset = load_dataset("cityscapes", tmp_path)
    items = dataset.items("val")
    assert [item.name for item in items] == ["bonn_1", "ulm_1"]
    ids = dataset.label(items[0]).ravel()[:34].tolist()
    kept = {7: "road", 8: "sidewalk", 11: "building", 12: "wall", 13: "fence", 17: "pole", 19: "traffic light",
            20: "traffic sign", 21: "vegetation", 22: "terrain", 23: "sky", 24: "person", 25: "rider", 26: "car", 27: "truck",
            28: "bus", 31: "train", 32: "motorcycle", 33: "bicycle"}  # fmt: skip
    assert [dataset.classes[i] if i != 255 else None for i in ids] == [kept.get(raw) for raw in range(34)]
    save_mask(items[0].label, grid(34, height=6))
    with pytest.raises(UserError, match="value 34"):
        dataset.label(items[0])


def test_camvid_takes_relative_and_absolute_lists(tmp_path):
    folder = tmp_path / "CamVid"
    save_image(folder / "test" / "f1.png")
    save_mask(folder / "testannot" / "f1.png", grid(0, 10, 11))
    for prefix in ("CamVid/", "/SegNet/CamVid/"):
        save_text(folder / "test.txt", f"{prefix}test/f1.png {prefix}testannot/f1.png\n")
        dataset = load_dataset("camvid", tmp_path)
        (item,) = dataset.items("test")
        assert item == Item("f1", folder / "test" / "f1.png", folder / "testannot" / "f1.png")
        assert dataset.label(item).ravel()[:4].tolist() == [0, 10, 255, 0]
    assert (dataset.train_split, dataset.val_split) == ("train", "test")
    save_mask(item.label, grid(12))
    with pytest.raises(UserError, match="value 12"):
        dataset.label(item)
    save_text(folder / "test.txt", "one.png\n")
    with pytest.raises(UserError, match=r"test.txt holds 'one.png'"):
        dataset.items("test")


def test_pascal_context_with_and_without_background(tmp_path):
    folder = tmp_path / "VOCdevkit" / "VOC2010"
    save_image(folder / "JPEGImages" / "x.jpg")
    save_mask(folder / "SegmentationClassContext" / "x.png", grid(0, 1, 59))
    save_text(folder / "ImageSets" / "SegmentationContext" / "val.txt", "x\n")
    with_background, without = (load_dataset(name, tmp_path) for name in ("pascal-context", "pascal-context-59"))
    (item,) = with_background.items("val")
    assert with_background.label(item).ravel()[:4].tolist() == [0, 1, 59, 0]
    assert without.label(item).ravel()[:4].tolist() == [255, 0, 58, 255]
    assert with_background.classes[1:] == without.classes and without.classes[0] == "aeroplane"
    assert (with_background.background, without.background) == (0, None)
    assert with_background.label_digest(item) != without.label_digest(item)
    assert with_background.image_digest(item) == without.image_digest(item) == file_digest(item.image)


def test_coco_stuff164k_closes_the_gaps(tmp_path):
    save_image(tmp_path / "coco" / "val2017" / "1.jpg", 14, 14)
    raw = [value for value in range(182) if value not in {11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90}]
    mask = np.full(196, 255, np.uint8)
    mask[: len(raw)] = raw
    save_mask(tmp_path / "coco" / "stuffthingmaps" / "val2017" / "1.png", mask.reshape(14, 14))
    dataset = load_dataset("coco-stuff164k", tmp_path)
    (item,) = dataset.items("val")
    assert dataset.label(item).ravel().tolist() == [*range(171), *[255] * 25]
    names = dict(zip(raw, dataset.classes, strict=True))  # raw value + 1 is the id of labels.txt
    assert [names[i - 1] for i in (1, 13, 27, 31, 46, 84, 90, 92, 97, 124, 149, 169, 182)] == [
        "person", "stop sign", "backpack", "handbag", "wine glass", "book", "toothbrush", "banner", "bush", "grass", "road",
        "tree", "wood",
    ]  # fmt: skip
    save_mask(item.label, grid(11, height=14, width=14))
    with pytest.raises(UserError, match="value 11"):
        dataset.label(item)


THING_NAMES = [
    "accessory", "animal", "appliance", "electronic", "food", "furniture", "indoor", "kitchen", "outdoor", "person", "sports",
    "vehicle",
]  # fmt: skip
STUFF_NAMES = [
    "building", "ceiling", "floor", "food-stuff", "furniture-stuff", "ground", "plant", "raw-material", "sky", "solid",
    "structural", "textile", "wall", "water", "window",
]  # fmt: skip


@pytest.fixture
def coco(tmp_path):
    """Two images of 4 x 6; thing category i has id i + 1, stuff category i has id i + 92, in reverse order of their names."""
    things = [{"id": i + 1, "isthing": 1, "supercategory": name} for i, name in enumerate(reversed(THING_NAMES))]
    stuff = [{"id": i + 92, "isthing": 0, "supercategory": name} for i, name in enumerate(reversed(STUFF_NAMES))]
    segments = [
        {"id": 3 + 256 * 5 + 65536 * 7, "category_id": 1, "iscrowd": 0},  # vehicle
        {"id": 9, "category_id": 12, "iscrowd": 1},  # accessory
        {"id": 300, "category_id": 92, "iscrowd": 0},  # window
    ]
    annotations = [{"file_name": f"{name}.png", "image_id": 1, "segments_info": segments} for name in ("2", "1")]
    folder = tmp_path / "coco"
    for split in ("train", "val"):
        save_text(
            folder / "annotations" / f"panoptic_{split}2017.json",
            json.dumps({"categories": things + stuff, "annotations": annotations}),
        )
        for name in ("1", "2"):
            save_image(folder / f"{split}2017" / f"{name}.jpg")
            png = np.zeros((4, 6, 3), np.uint8)
            png[0, :3] = (3, 5, 7), (9, 0, 0), (44, 1, 0)
            save_mask(folder / "annotations" / f"panoptic_{split}2017" / f"{name}.png", png)
    return tmp_path


def test_coco_things_and_stuff_from_panoptic_files(coco):
    things, stuff = load_dataset("coco-things", coco), load_dataset("coco-stuff", coco)
    assert list(things.classes) == THING_NAMES and list(stuff.classes) == STUFF_NAMES
    items = things.items("val")
    assert [item.name for item in items] == ["1", "2"] == [item.name for item in stuff.items("val")]
    assert things.label(items[0]).ravel()[:5].tolist() == [11, 0, 255, 255, 255]
    assert stuff.label(items[0]).ravel()[:5].tolist() == [255, 255, 14, 255, 255]
    assert things.label(items[0]).dtype == np.uint8
    assert stuff.labels_from == stuff.facts()["labels_from"] == "panoptic"
    assert things.label_digest(items[0]) != stuff.label_digest(items[0])
    assert things.presence(items).sum(0).tolist() == [2, *[0] * 10, 2]
    save_mask(items[0].label, np.full((4, 6, 3), 1, np.uint8))
    with pytest.raises(UserError, match=r"1.png holds the segment 65793, which .*panoptic_val2017.json lacks"):
        things.label(items[0])
    save_mask(items[0].label, np.zeros((5, 6, 3), np.uint8))
    with pytest.raises(UserError, match=r"1.png is 6 x 5 but its image"):
        things.label(items[0])


def test_the_panoptic_json_is_part_of_the_label_digest(coco):
    dataset = load_dataset("coco-things", coco)
    item = dataset.items("val")[0]
    before = dataset.label_digest(item)
    path = coco / "coco" / "annotations" / "panoptic_val2017.json"
    text = path.read_text()
    path.write_text(text.replace('"category_id": 12', '"category_id": 11'))
    assert dataset.label_digest(item) != before
    assert dataset.label(item).ravel()[1] == 1
    path.write_text(text.replace('"vehicle"', '"car"'))
    with pytest.raises(UserError, match=r"has the supercategories accessory, .*car.* not the official"):
        dataset.label(item)
    path.write_text("{}")
    with pytest.raises(UserError, match="is no COCO panoptic file"):
        dataset.items("val")
    path.unlink()
    with pytest.raises(UserError, match=r"panoptic_val2017.json is missing; run `densebench data get coco-things`"):
        dataset.items("val")


def test_coco_stuff_prefers_the_pixel_maps(coco):
    folder = coco / "coco" / "annotations"
    dataset = load_dataset("coco-stuff", coco)
    from_panoptic = dataset.items("val")[0]
    digest_before, label_before = dataset.label_digest(from_panoptic), dataset.label(from_panoptic)
    categories = [{"id": i + 92, "supercategory": name} for i, name in enumerate(STUFF_NAMES)]
    save_text(folder / "stuff_val2017.json", json.dumps({"categories": [*categories, {"id": 183, "supercategory": "other"}]}))
    save_mask(folder / "stuff_val2017_pixelmaps" / "2.png", grid(0, 92, 106, 183))
    assert dataset.labels_from == "pixelmaps"
    (item,) = dataset.items("val")
    assert dataset.label(item).ravel()[:5].tolist() == [255, 0, 14, 255, 255]
    assert dataset.facts()["labels_from"] == "pixelmaps"
    assert dataset.label_digest(item) != digest_before
    assert (dataset.label(from_panoptic) == label_before).all()
    with pytest.raises(UserError, match="stuff_train2017_pixelmaps is missing"):  # the two sources are never mixed
        dataset.items("train")
    save_mask(item.label, grid(1))
    with pytest.raises(UserError, match="value 1,"):
        dataset.label(item)


# A folder of one's own


@pytest.fixture
def own(tmp_path):
    folder = tmp_path / "own"
    save_text(folder / "classes.toml", 'classes = ["cat", "dog"]\n')
    for split in ("train", "val"):
        save_image(folder / "images" / split / "x.PNG")
        save_image(folder / "images" / split / "a.jpg")
        save_text(folder / "images" / split / "notes.txt", "")
        for name in ("a", "x"):
            save_mask(folder / "labels" / split / f"{name}.png", grid(0, 1, 255))
    return folder


def test_a_folder_of_images_and_masks(own):
    dataset = load_dataset(f"folder:{own}")
    assert [item.name for item in dataset.items("train")] == ["a", "x"]
    assert dataset.label(dataset.items("val")[1]).ravel()[:4].tolist() == [0, 1, 255, 0]
    assert (dataset.name, dataset.train_split, dataset.val_split) == (f"folder:{own}", "train", "val")
    assert dataset.verify() == [] and dataset.state() == "present"
    plain = dataset.mapping
    (own / "classes.toml").write_text(
        'classes = ["cat", "dog"]\nreduce_zero_label = true\nignore_index = 9\nsplits = ["val"]\nbackground = "dog"\n'
    )
    save_mask(own / "labels" / "val" / "a.png", grid(0, 1, 2, 9))
    dataset = load_dataset(f"folder:{own}")
    assert dataset.label(dataset.items("val")[0]).ravel()[:5].tolist() == [255, 0, 1, 255, 255]
    assert (dataset.splits, dataset.train_split, dataset.background) == (("val",), "val", 1)
    assert dataset.mapping != plain
    assert pickle.loads(pickle.dumps(dataset)) == dataset


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes = 3", "classes in .* is 3, not a list"),
        ("classes = []", r"classes in .* is \[\], not a list of different names"),
        ('classes = ["a", "a"]', "not a list of different names"),
        ('classes = ["a"]\nsplit = ["x"]', "unknown key in .*'split': did you mean 'splits'"),
        ('classes = ["a"]\nignore_index = 0', r"ignore_index 0 in .* no class's id \(0..0\); use 255"),
        ('classes = ["a"]\nignore_index = 300', "ignore_index 300"),
        ('classes = ["a"]\nignore_index = true', "ignore_index in .* is True, not a int"),
        ('classes = ["a"]\nbackground = "b"', "unknown background class 'b'"),
        ("classes =", "is not valid TOML"),
        ("", r"classes in .* is \[\], not a list of different names"),
        (f"classes = {[str(i) for i in range(255)]}", "lists 255 classes; label maps of 8 bits allow 254"),
    ],
)
def test_a_wrong_classes_toml_is_explained(own, text, message):
    (own / "classes.toml").write_text(text)
    with pytest.raises(UserError, match=message):
        load_dataset(f"folder:{own}")


def test_a_wrong_folder_is_explained(own):
    (own / "labels" / "train" / "x.png").unlink()
    with pytest.raises(UserError, match=r"x.PNG has no label map .*x.png; add it"):
        load_dataset(f"folder:{own}").items("train")
    save_image(own / "images" / "val" / "a.png")
    with pytest.raises(UserError, match=r"two images in .* are called a"):
        load_dataset(f"folder:{own}").items("val")
    (own / "classes.toml").unlink()
    with pytest.raises(UserError, match=r"classes.toml is missing; write for example classes = "):
        load_dataset(f"folder:{own}")


# Digests and presence


def test_digests_follow_bytes_and_not_places(voc, tmp_path):
    items = voc.items("trainval")
    assert voc.image_digests(items) == [file_digest(item.image) for item in items]
    before, item = voc.digest("trainval", items), items[0]
    parts = voc.image_digest(item), voc.label_digest(item)
    (tmp_path / "VOCdevkit").rename(tmp_path / "elsewhere")
    (tmp_path / "root2").mkdir()
    (tmp_path / "elsewhere").rename(tmp_path / "root2" / "VOCdevkit")
    moved = load_dataset("voc", tmp_path / "root2")
    assert moved.digest("trainval", moved.items("trainval")) == before
    assert moved.digest("trainval", moved.items("trainval")[:2]) != before
    assert moved.digest("trainval", moved.items("trainval")[::-1]) != before
    item = moved.items("trainval")[0]
    save_image(item.image, value=101)
    assert moved.image_digest(item) != parts[0] and moved.label_digest(item) == parts[1]
    assert moved.item_digest(item) != parts[2]
    other_image = moved.digest("trainval", moved.items("trainval"))
    save_mask(item.label, grid(0, 4))
    assert moved.label_digest(item) != parts[1]
    assert len({before, other_image, moved.digest("trainval", moved.items("trainval"))}) == 3


def test_presence_is_decoded_once(voc, monkeypatch):
    items = voc.items("trainval")
    table = voc.presence(items)
    assert table.shape == (3, 21) and table.dtype == bool
    assert [np.flatnonzero(row).tolist() for row in table] == [[0, 3], [0], [0, 20]]
    monkeypatch.setattr(Dataset, "label", lambda self, item: pytest.fail("decoded again"))
    assert (voc.presence(items) == table).all()
    monkeypatch.undo()


def old(path, seconds=60.0):
    """Pretend that `seconds` pass: the change time of a file cannot be set, so the clock moves on."""
    return path.stat().st_ctime + seconds


def test_a_file_at_rest_is_hashed_once(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    monkeypatch.setattr(time, "time", lambda: old(path))
    calls = []
    monkeypatch.setattr(digests_module, "file_digest", lambda path: calls.append(path) or file_digest(path))
    digests = FileDigests(tmp_path / "index.json")
    first = digests.digest(path)
    assert digests.digest(path) == first == file_digest(path) and len(calls) == 1
    digests.save()
    assert FileDigests(tmp_path / "index.json").digest(path) == first and len(calls) == 1
    path.write_bytes(b"two")  # same size; the change time differs
    assert FileDigests(tmp_path / "index.json").digest(path) == file_digest(path) != first
    assert len(calls) == 2


def test_a_fresh_file_is_not_remembered(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    digests = FileDigests(tmp_path / "index.json")
    digests.digest(path)
    digests.save()
    assert not (tmp_path / "index.json").exists()
    with pytest.raises(UserError, match="cannot read"):
        digests.digest(tmp_path / "none")


@pytest.mark.parametrize("change", [0, 1, 2, 3])
def test_every_part_of_the_stamp_counts(tmp_path, monkeypatch, change):
    path = tmp_path / "x"
    path.write_bytes(b"one")
    monkeypatch.setattr(time, "time", lambda: old(path))
    digests = FileDigests(tmp_path / "index.json")
    digests.digest(path)
    (key,) = digests.fresh
    stamp, _ = digests.fresh[key]
    digests.fresh[key] = (stamp, "remembered")
    assert digests.digest(path) == "remembered"
    digests.fresh[key] = (tuple(value + (place == change) for place, value in enumerate(stamp)), "remembered")
    assert digests.digest(path) == file_digest(path)


def test_two_writers_lose_nothing_and_a_broken_index_is_replaced(tmp_path, monkeypatch, capsys):
    a, b, index = tmp_path / "a", tmp_path / "b", tmp_path / "index.json"
    a.write_bytes(b"a")
    b.write_bytes(b"b")
    monkeypatch.setattr(time, "time", lambda: old(b))
    first, second = FileDigests(index), FileDigests(index)
    first.digest(a)
    second.digest(b)
    first.save()
    second.save()
    assert {path.rsplit("/")[-1] for path in FileDigests(index).known} == {"a", "b"}
    for broken in ("{", "[1]", '{"x": [1]}'):
        index.write_text(broken)
        assert FileDigests(index).digest(a) == file_digest(a)
        assert "is unreadable" in capsys.readouterr().err


# Palettes


def test_palettes():
    colours = voc_palette(21)
    assert [colours[i] for i in (0, 1, 2, 3, 8, 15, 20)] == [
        (0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (64, 0, 0), (192, 128, 128), (0, 64, 128),
    ]  # fmt: skip
    assert voc_palette(256)[255] == (224, 224, 192)
    assert len(set(distinct_palette(171))) == 171
    assert distinct_palette(171)[:11] == distinct_palette(11)


# Command line


def test_the_data_commands(voc, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from densebench.cli.data import app

    monkeypatch.setenv("COLUMNS", "200")
    run = CliRunner().invoke
    listed = json.loads(run(app, ["ls", "--json", "--data-root", str(tmp_path)]).stdout)
    assert {row["name"]: row["present"] for row in listed} == dict.fromkeys(NAMES, "absent") | {
        "scenes": "present", "voc": "present",
    }  # fmt: skip
    assert "Pascal VOC 2012" in run(app, ["ls"]).stdout
    result = run(app, ["verify", "voc", "--data-root", str(tmp_path)])
    assert result.exit_code == 1 and result.stdout.splitlines()[1] == "val: 1 of the official 1449 images"
    result = run(app, ["verify", "scenes"])
    assert (result.exit_code, result.stdout) == (0, "")
    result = run(app, ["get", "cityscapes", "--data-root", str(tmp_path)])
    assert result.exit_code == 0 and result.stdout.startswith("by hand: register")
    assert isinstance(run(app, ["verify", "vok"]).exception, UserError)


# Real data


def test_real_voc(shared_data):
    voc = load_dataset("voc", shared_data)
    assert [len(voc.items(split)) for split in voc.splits] == [437, 300, 737, 497]
    assert voc.verify()[0] == "train: 437 of the official 1464 images" and len(voc.verify()) == 4
    counts = {
        "background": 297, "bird": 1, "bottle": 2, "bus": 1, "car": 5, "cat": 74, "chair": 10, "cow": 51, "diningtable": 3,
        "dog": 84, "horse": 57, "motorbike": 3, "person": 67, "pottedplant": 4, "sheep": 38, "sofa": 11, "tvmonitor": 2,
    }  # fmt: skip
    shown = voc.presence(voc.items("val")).sum(0)
    assert {name: count for name, count in zip(voc.classes, shown.tolist(), strict=True) if count} == counts


def test_real_camvid(shared_data):
    camvid = load_dataset("camvid", shared_data)
    assert camvid.verify() == []
    label = camvid.label(camvid.items("test")[0])
    raw = np.asarray(Image.open(camvid.items("test")[0].label))
    assert label.shape == (360, 480) and ((label == 255) == (raw == 11)).all()


def test_real_ade20k(shared_data):
    ade = load_dataset("ade20k", shared_data)
    items = ade.items("val")
    assert [item.name for item in items] == ["ADE_val_00000001", "ADE_val_00000002", "ADE_val_00000003"]
    lines = (shared_data / "ADEChallengeData2016" / "objectInfo150.txt").read_text().splitlines()[1:]
    assert list(ade.classes) == [line.split("\t")[4].split(",")[0].strip() for line in lines]
    raw = np.asarray(Image.open(items[0].label)).astype(int)
    assert (ade.label(items[0]) == np.where(raw == 0, 255, raw - 1)).all()


@pytest.mark.parametrize(("name", "isthing"), [("coco-things", 1), ("coco-stuff", 0)])
def test_real_coco_against_a_loop_over_segments(shared_data, name, isthing):
    dataset = load_dataset(name, shared_data)
    content = json.loads((shared_data / "coco" / "annotations" / "panoptic_val2017.json").read_text())
    categories = {category["id"]: category for category in content["categories"]}
    names = sorted({c["supercategory"] for c in categories.values() if c["isthing"] == isthing})
    assert list(dataset.classes) == names and len(dataset.items("val")) == 100
    for annotation in content["annotations"][:5]:
        item = next(item for item in dataset.items("val") if f"{item.name}.png" == annotation["file_name"])
        pixels = np.asarray(Image.open(item.label)).astype(int) @ [1, 256, 65536]
        expected = np.full(pixels.shape, 255)
        for segment in annotation["segments_info"]:
            category = categories[segment["category_id"]]
            if category["isthing"] == isthing:
                expected[pixels == segment["id"]] = names.index(category["supercategory"])
        assert (dataset.label(item) == expected).all()
    assert dataset.verify() == ["train: 100 of the official 118287 images", "val: 100 of the official 5000 images"]
