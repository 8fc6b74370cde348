"""Folders without classes.toml: which image belongs to which label map."""

from __future__ import annotations

import os

import pytest
from dataset_files import grid, save_image, save_mask, save_text
from PIL import Image

from densebench.datasets import load_dataset
from densebench.errors import UserError

LAYOUTS = {
    "images and masks": ("images/{}.jpg", "masks/{}.png"),
    "labels": ("images/{}.jpg", "labels/{}.png"),
    "other names in another case": ("Img/{}.JPG", "GT/{}.png"),
    "annotations": ("image/{}.jpeg", "annotations/{}.bmp"),
    "voc": ("JPEGImages/{}.jpg", "SegmentationClass/{}.png"),
    "suffix": ("images/{}.jpg", "masks/{}_mask.png"),
    "cityscapes": ("leftImg8bit/{}_leftImg8bit.png", "gtFine/{}_gtFine_labelIds.png"),
    "both have an ending": ("images/{}_img.png", "masks/{}_mask.png"),
    "an ending that is part of the name": ("images/{}_img.png", "masks/{}_img.png"),
    "photographs at the top": ("{}.jpg", "masks/{}.png"),
    "side by side": ("{}.png", "{}_label.png"),
    "side by side in images": ("images/{}.jpg", "images/{}-mask.png"),
    "one name, two formats": ("{}.jpg", "{}.png"),
}
NAMES = ("a", "b", "c", "d")


def write(folder, layout, names=NAMES, split=""):
    image, mask = LAYOUTS[layout]
    for number, name in enumerate(names):
        save_image(folder / image.format(name), value=number)
        save_mask(folder / mask.format(name), grid(number % 2, 2, 255))


@pytest.fixture
def photos(tmp_path):
    return tmp_path / "photos"


def labels(dataset):
    return {item.name.removesuffix("_img"): dataset.label(item) for split in ("train", "val") for item in dataset.items(split)}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_image_gets_its_own_label_map(photos, layout):
    write(photos, layout)
    dataset = load_dataset(photos)
    assert dataset.classes == ("class 0", "class 1", "class 2")
    found = labels(dataset)
    assert sorted(found) == list(NAMES)
    assert [found[name][0, :4].tolist() for name in NAMES] == [[0, 2, 255, 0], [1, 2, 255, 1], [0, 2, 255, 0], [1, 2, 255, 1]]
    assert dataset.verify(full=True) == []


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("images/{split}/{name}.jpg", "labels/{split}/{name}.png"),
        ("{split}/images/{name}.jpg", "{split}/masks/{name}.png"),
        ("{split}/{name}.jpg", "{split}annot/{name}.png"),
        ("{split}/{name}.jpg", "{split}/{name}_mask.png"),
    ],
)
def test_folders_of_splits(photos, image, mask):
    for split, names in (("training", "ab"), ("valid", "cd"), ("test", "e")):
        for name in names:
            save_image(photos / image.format(split=split, name=name))
            save_mask(photos / mask.format(split=split, name=name), grid(0, 1))
    dataset = load_dataset(photos)
    assert (dataset.splits, dataset.train_split, dataset.val_split) == (("training", "valid", "test"), "training", "valid")
    assert [[item.name for item in dataset.items(split)] for split in dataset.splits] == [["a", "b"], ["c", "d"], ["e"]]


def test_without_a_validation_split_the_test_split_is_evaluated(photos):
    for split in ("train", "test"):
        write(photos / split, "images and masks")
    assert load_dataset(photos).val_split == "test"


def test_images_without_a_label_map_are_counted_and_left_out(photos, capsys):
    write(photos, "images and masks")
    for number in range(30):
        save_image(photos / "images" / f"more{number}.jpg")
    assert sorted(labels(load_dataset(photos))) == list(NAMES)
    assert "4 images with label maps (images/ and masks/); 30 images without a label map are left out" in capsys.readouterr().err


def test_what_was_taken_is_said_in_one_line(photos, capsys):
    write(photos, "images and masks")
    dataset = load_dataset(photos)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    split = ", ".join(f"{len(dataset.items(split))} {split}" for split in ("train", "val"))
    assert line == (
        "photos: 4 images with label maps (images/ and masks/); classes 0, 1, 2 from the values of the label maps; 255 is void; "
        f"split by seed 0: {split}; write classes.toml to fix this"
    )


def test_label_maps_that_mostly_lack_an_image_are_refused(photos):
    write(photos, "images and masks")
    for number in range(9):
        save_mask(photos / "masks" / f"more{number}.png", grid(0, 1))
    with pytest.raises(UserError, match=r"only 4 of 13 label maps in .* have an image \(more0.png has none\)"):
        load_dataset(photos)


def test_two_kinds_of_label_maps_are_refused_until_one_is_named(photos):
    write(photos, "cityscapes")
    for name in NAMES:
        save_mask(photos / "gtFine" / f"{name}_gtFine_labelTrainIds.png", grid(7, 8))
    with pytest.raises(UserError, match=r"several label maps .* \?suffix=_gtFine_labelIds"):
        load_dataset(photos)
    dataset = load_dataset(f"folder:{photos}?suffix=_gtFine_labelTrainIds")
    assert dataset.classes == ("class 7", "class 8")


def test_two_folders_of_label_maps_are_refused_until_one_is_named(photos):
    write(photos, "images and masks")
    write(photos, "labels")
    with pytest.raises(UserError, match=r"holds labels and masks, .* say which one: .*\?labels=labels"):
        load_dataset(photos)
    assert "images/ and masks/" in load_dataset(f"folder:{photos}?labels=masks").facts()["layout"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ((), r"no images with label maps that belong together by their names \(it holds nothing\)"),
        (("x/1.jpg", "y/1.png"), r"it holds x/, y/\); call them images/x.jpg and labels/x.png"),
        (("images/1.jpg", "masks/2.png"), "no image and label map in .* belong together by their names"),
        (("images/1.jpg", "images/1.png", "masks/1.png"), "two images in .* are called 1"),
    ],
)
def test_what_is_not_recognised_is_refused_in_one_line(photos, files, message):
    photos.mkdir()
    for file in files:
        (save_image if file.startswith(("images", "x")) else lambda path: save_mask(path, grid(0, 1)))(photos / file)
    with pytest.raises(UserError, match=message) as caught:
        load_dataset(photos)
    assert "\n" not in str(caught.value)


def test_folders_can_be_told(photos):
    for name in NAMES:
        save_image(photos / "x" / f"{name}.jpg")
        save_mask(photos / "y" / f"{name}.png", grid(0, 1))
    assert len(labels(load_dataset(f"folder:{photos}?images=x&labels=y"))) == 4


@pytest.mark.parametrize("query", ["images=../x", "labels=/etc", "images=x", "labels=nowhere.json", "labels=a//b"])
def test_folders_that_leave_the_folder_or_are_missing_are_refused(photos, query):
    write(photos, "images and masks")
    with pytest.raises(UserError, match="leaves its folder|is an absolute path|has an empty part|but there is no") as caught:
        load_dataset(f"folder:{photos}?{query}")
    assert "\n" not in str(caught.value)


def test_links_are_followed_and_a_pipe_or_a_broken_link_is_refused(photos, tmp_path):
    write(tmp_path / "elsewhere", "images and masks")
    photos.mkdir()
    for kind in ("images", "masks"):
        (photos / kind).symlink_to(tmp_path / "elsewhere" / kind)
    assert len(labels(load_dataset(photos))) == 4
    mask = tmp_path / "elsewhere" / "masks" / "a.png"
    mask.unlink()
    mask.symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="a.png"):
        load_dataset(photos)
    mask.unlink()
    os.mkfifo(mask)
    with pytest.raises(UserError, match="is a pipe, a socket or a device"):
        load_dataset(photos)


def test_sizes_that_differ_are_refused_when_a_label_is_read(photos):
    write(photos, "images and masks")
    save_image(photos / "images" / "a.jpg", height=6, width=4)
    dataset = load_dataset(photos)
    with pytest.raises(UserError, match=r"the labels of a in .*a.png are 6 x 4 but the image .* is 4 x 6"):
        labels(dataset)


def test_lists_of_names_split_the_images(photos):
    write(photos, "voc", ("a", "b", "c", "d", "e"))
    save_text(photos / "ImageSets/Segmentation/train.txt", "b\na\n")
    save_text(photos / "ImageSets/Segmentation/val.txt", "JPEGImages/c.jpg SegmentationClass/c.png\nd.jpg\n")
    dataset = load_dataset(photos)
    assert [item.name for item in dataset.items("train")] == ["b", "a"]
    assert [item.name for item in dataset.items("val")] == ["c", "d"]


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ("a\nx\n", "line 2, names 'x', which is no image with a label map"),
        ("a\na\n", "line 2, names 'a' a second time"),
        ("a\nc\n", "1 images of .*, such as c, are in the splits train and val"),
        ("../a\n", "leaves its folder"),
        ("\n", "is empty"),
    ],
)
def test_lists_that_are_wrong_are_refused(photos, train, message):
    write(photos, "images and masks")
    save_text(photos / "train.txt", train)
    save_text(photos / "val.txt", "c\nd\n")
    with pytest.raises(UserError, match=message):
        load_dataset(photos)


def test_a_list_beside_train_and_val_may_name_images_that_are_not_there(photos, capsys):
    write(photos, "voc")
    for name, text in (("train", "a\nb\n"), ("val", "c\n"), ("trainaug", "a\nz\n")):
        save_text(photos / f"ImageSets/Segmentation/{name}.txt", text)
    assert load_dataset(photos).splits == ("train", "val")
    assert "trainaug.txt is left out" in capsys.readouterr().err


def test_a_test_split_without_label_maps_is_left_out(photos, capsys):
    for split in ("train", "val", "test"):
        write(photos / split, "labels")
        for kind in ("images", "labels"):
            (photos / kind).mkdir(exist_ok=True)
            (photos / split / kind).rename(photos / kind / split)
        (photos / split).rmdir()
    for path in (photos / "labels" / "test").iterdir():
        path.unlink()
    (photos / "labels" / "test").rmdir()
    assert load_dataset(photos).splits == ("train", "val")
    assert "4 images without a label map are left out" in capsys.readouterr().err


def turned(path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4)).save(path, exif=exif)


def test_photographs_that_the_camera_stored_turned(photos, capsys):
    write(photos, "images and masks")
    load_dataset(photos)
    assert "EXIF" not in capsys.readouterr().err
    turned(photos / "images" / "a.jpg", 6)
    load_dataset(photos)
    assert "a.jpg is displayed turned, by its EXIF, but read as it is stored" in capsys.readouterr().err
    save_mask(photos / "masks" / "a.png", grid(0, 2, height=6, width=4))
    with pytest.raises(UserError, match="the camera stored it turned, and EXIF says so; save it upright"):
        labels(load_dataset(photos))
