"""Folders without classes.toml: what the values and colours of label maps mean."""

from __future__ import annotations

import json

import numpy as np
import pytest
from dataset_files import grid, save_image, save_mask, save_text
from PIL import Image

from densebench.datasets import load_dataset
from densebench.errors import UserError

NAMES = ("a", "b", "c", "d")


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    for name in NAMES:
        save_image(folder / "images" / f"{name}.jpg")
    return folder


def masks(folder, *values, names=NAMES, **size):
    for name in names:
        save_mask(folder / "masks" / f"{name}.png", grid(*values, **size))


def pictures(folder, pixels, names=NAMES, palette=None, suffix=".png", **how):
    for name in names:
        path = folder / "masks" / f"{name}{suffix}"
        path.parent.mkdir(exist_ok=True)
        image = Image.fromarray(np.asarray(pixels))
        if palette:
            image.putpalette(palette)
        image.save(path, **how)


def first(dataset, count):
    item = next(item for split in dataset.splits for item in dataset.items(split) if item.name == "a")
    return dataset.label(item).ravel()[:count].tolist()


def test_values_are_classes_in_their_order(photos):
    masks(photos, 7, 2, 40, 255)
    dataset = load_dataset(photos)
    assert dataset.classes == ("class 2", "class 7", "class 40")
    assert first(dataset, 4) == [1, 0, 2, 255]
    assert dataset.facts()["label_values"] == [2, 7, 40]


def test_a_value_in_one_file_alone_is_a_class(photos):
    masks(photos, 0, 1)
    masks(photos, 0, 5, names=("c",))
    assert load_dataset(photos).classes == ("class 0", "class 1", "class 5")


def test_zero_and_255_alone_are_background_and_foreground(photos, capsys):
    masks(photos, 0, 255)
    dataset = load_dataset(photos)
    assert (dataset.classes, dataset.background) == (("background", "foreground"), 0)
    assert first(dataset, 2) == [0, 1]
    assert "0 is the background, 255 the foreground" in capsys.readouterr().err


def test_zero_and_255_with_another_void(photos):
    masks(photos, 0, 255, 128)
    dataset = load_dataset(f"folder:{photos}?ignore_index=128")
    assert first(dataset, 3) == [0, 1, 255]


@pytest.mark.parametrize("values", [(255,), (3,), (3, 255)])
def test_fewer_than_two_classes_are_refused(photos, values):
    masks(photos, *values)
    with pytest.raises(UserError, match=r"the label maps of .* hold .*; two are needed"):
        load_dataset(photos)


def test_void_may_be_told(photos):
    masks(photos, 0, 1, 2, 255)
    dataset = load_dataset(f"folder:{photos}?ignore_index=0")
    assert (dataset.classes, first(dataset, 4)) == (("class 1", "class 2"), [255, 0, 1, 255])


def test_a_lone_high_value_has_to_be_explained(photos):
    masks(photos, 0, 1, 2, 254)
    with pytest.raises(UserError, match=r"holds the value 254, far above .*\?ignore_index=254; .* values = \[0, 1, 2, 254\]"):
        load_dataset(photos)
    assert first(load_dataset(f"folder:{photos}?ignore_index=254"), 4) == [0, 1, 2, 255]
    save_text(photos / "classes.toml", "values = [0, 1, 2, 254]")
    assert first(load_dataset(photos), 4) == [0, 1, 2, 3]


def test_the_error_of_a_strange_value_says_the_line_to_write(photos):
    masks(photos, 0, 1, 254)
    save_text(photos / "classes.toml", 'classes = ["cat", "dog"]')
    dataset = load_dataset(photos)
    with pytest.raises(
        UserError, match=r"a.png holds the value 254, .*ignore_index = 254 in .*classes.toml or \?ignore_index=254"
    ):
        first(dataset, 3)
    assert first(load_dataset(f"folder:{photos}?ignore_index=254"), 3) == [0, 1, 255]


def test_sixteen_bits_hold_ids_up_to_255(photos):
    pictures(photos, grid(0, 1).astype(np.uint16))
    assert first(load_dataset(photos), 2) == [0, 1]
    wide = grid(0, 1).astype(np.uint16)
    wide[0, 2] = 65535
    pictures(photos, wide)
    with pytest.raises(UserError, match=r"holds the value 65535; ids go up to 255; if it is void, .*ignore_index=65535"):
        load_dataset(photos)
    for void in (65535, -1):
        assert first(load_dataset(f"folder:{photos}?ignore_index={void}"), 3) == [0, 1, 255]
    wide[0, 2] = 1000
    pictures(photos, wide)
    with pytest.raises(UserError, match="holds the value 1000; ids go up to 255; renumber the classes"):
        load_dataset(photos)


def test_signed_values_may_hold_minus_one_as_void(photos):
    signed = grid(0, 1).astype(np.int32)
    signed[0, 2] = -1
    pictures(photos, signed, suffix=".tif")
    assert first(load_dataset(f"folder:{photos}?ignore_index=-1"), 3) == [0, 1, 255]
    signed[0, 2] = -7
    pictures(photos, signed, suffix=".tif")
    with pytest.raises(UserError, match="holds the value -7; ids count from 0"):
        load_dataset(f"folder:{photos}?ignore_index=-1")


def colours(*rows):
    """A picture whose first pixels have these colours, and all others the first."""
    pixels = np.zeros((4, 6, 3), np.uint8) + np.array(rows[0], np.uint8)
    pixels[0, : len(rows)] = rows
    return pixels


def test_colours_are_classes_named_by_them(photos):
    pictures(photos, colours((0, 0, 0), (128, 0, 0), (0, 1, 2), (224, 224, 192)))
    dataset = load_dataset(photos)
    assert dataset.classes == ("#000000", "#000102", "#800000")
    assert first(dataset, 4) == [0, 2, 1, 255]  # the last is VOC's border
    dataset = load_dataset(f"folder:{photos}?ignore_index=#000000")
    assert (dataset.classes, first(dataset, 3)) == (("#000102", "#800000", "#e0e0c0"), [255, 1, 0])


def test_a_strange_colour_is_named(photos):
    pictures(photos, colours((0, 0, 0), (128, 0, 0)))
    save_text(photos / "classes.toml", 'values = ["#000000", "#00ff00"]')
    with pytest.raises(UserError, match=r'holds the value #800000, .*ignore_index = "#800000" in'):
        first(load_dataset(photos), 2)


def test_grey_stored_as_rgb_is_grey(photos):
    pictures(photos, colours((0, 0, 0), (3, 3, 3), (255, 255, 255)))
    assert load_dataset(photos).classes == ("class 0", "class 3")


def test_alpha_is_dropped(photos):
    pixels = np.concatenate([colours((0, 0, 0), (9, 0, 0)), np.full((4, 6, 1), 7, np.uint8)], axis=2)
    pictures(photos, pixels)
    assert first(load_dataset(photos), 2) == [0, 1]


def test_indices_of_a_palette_count_and_not_its_colours(photos):
    pictures(photos, grid(4, 1, 255), palette=[200, 0, 0] * 256)
    dataset = load_dataset(photos)
    assert (dataset.classes, first(dataset, 3)) == (("class 1", "class 4"), [1, 0, 255])


def test_palettes_that_disagree_are_refused(photos):
    pictures(photos, grid(0, 1), palette=[0, 0, 0, 200, 0, 0])
    pictures(photos, grid(0, 1), palette=[0, 0, 0, 0, 200, 0], names=("c",))
    with pytest.raises(UserError, match=r"palettes .* disagree: 1 is #c80000 in .*a.png and #00c800 in .*c.png"):
        load_dataset(photos)


def test_numbers_and_colours_together_are_refused(photos):
    masks(photos, 0, 1)
    pictures(photos, colours((0, 0, 0), (128, 0, 0)), names=("d",))
    with pytest.raises(UserError, match=r"label map .*a.png holds numbers, .*d.png colours"):
        load_dataset(photos)


def test_jpegs_are_refused_as_label_maps_even_under_another_name(photos):
    pictures(photos, grid(0, 1), suffix=".jpg")
    with pytest.raises(UserError, match=r"a.jpg is a JPEG, whose compression changes the values"):
        load_dataset(photos)
    for path in (photos / "masks").iterdir():
        path.rename(path.with_suffix(".png"))
    with pytest.raises(UserError, match=r"a.png is a JPEG"):
        load_dataset(photos)


@pytest.mark.parametrize("colour", [False, True])
def test_smoothed_edges_are_refused_with_the_file_and_the_number(photos, colour):
    disc = Image.new("L", (400, 400))
    disc.paste(255, (100, 100, 301, 301))
    disc = np.array(disc.rotate(20, Image.Resampling.BICUBIC).resize((64, 64), Image.Resampling.BILINEAR))
    count = len(np.unique(disc))
    assert 30 < count < 254
    smooth = np.stack([disc, np.zeros_like(disc), np.zeros_like(disc)], -1) if colour else disc
    masks(photos, 0, 255, height=64, width=64)
    pictures(photos, smooth, names=("b",) if not colour else NAMES)
    kind = "colours" if colour else "values"
    with pytest.raises(UserError, match=rf"label map .*\.png has {count} {kind}, .* smoothed or scaled"):
        load_dataset(photos)


def test_many_classes_are_no_smoothed_edges(photos):
    blocks = np.repeat(np.repeat(np.arange(150, dtype=np.uint8).reshape(10, 15), 2, 0), 2, 1)
    pictures(photos, blocks)
    assert len(load_dataset(photos).classes) == 150


def test_more_than_254_values_are_refused(photos):
    pictures(photos, np.repeat(np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16), 2, 0), 2, 1))
    with pytest.raises(UserError, match="has 256 values"):
        load_dataset(photos)


def test_the_mapping_is_part_of_every_label_digest(photos):
    masks(photos, 0, 1, 2)
    digests = {}
    for query in ("", "?ignore_index=2", "?ignore_index=0"):
        dataset = load_dataset(f"folder:{photos}{query}")
        digests[query] = dataset.label_digest(dataset.items("val")[0])
    masks(photos, 0, 9, names=("d",))  # one more class, in one file
    dataset = load_dataset(photos)
    item = next(item for split in dataset.splits for item in dataset.items(split) if item.name == "a")
    assert len({*digests.values(), dataset.label_digest(item)}) == 4


@pytest.mark.parametrize("values", [(0, 5, 9), ("#000000", "#050505", "#090909")])
def test_the_order_of_listed_values_is_part_of_every_label_digest(photos, values):
    masks(photos, 0, 5, 9)
    digests = set()
    for listed in (values, (values[0], values[2], values[1])):
        save_text(photos / "classes.toml", f"values = {json.dumps(listed)}\n")
        dataset = load_dataset(photos)
        digests.add(dataset.label_digest(dataset.items("val")[0]))
    assert len(digests) == 2


def test_label_maps_are_scanned_once(photos, capsys):
    masks(photos, 0, 1)
    load_dataset(photos)
    assert "values of the label maps" in capsys.readouterr().err
    load_dataset(photos)
    assert "values of the label maps of photos: " not in capsys.readouterr().err


def test_labelmap_txt_of_cvat_names_the_colours(photos):
    save_text(photos / "labelmap.txt", "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\ndog:0,1,2::\n")
    pictures(photos, colours((0, 0, 0), (0, 1, 2), (128, 0, 0)))
    dataset = load_dataset(photos)
    assert (dataset.classes, dataset.background, first(dataset, 3)) == (("background", "cat", "dog"), 0, [0, 2, 1])
    pictures(photos, grid(0, 1, 2), palette=[0, 0, 0, 128, 0, 0, 0, 1, 2])
    assert first(load_dataset(photos), 3) == [0, 1, 2]


@pytest.mark.parametrize("text", ["cat\n", "cat:1,2::\n", "cat:1,2,300::\n", "cat:1,2,3::\ncat:3,2,1::\n", "#\n"])
def test_a_labelmap_txt_that_is_wrong_is_refused(photos, text):
    masks(photos, 0, 1)
    save_text(photos / "labelmap.txt", text)
    with pytest.raises(UserError, match="export it again") as caught:
        load_dataset(photos)
    assert "\n" not in str(caught.value)
