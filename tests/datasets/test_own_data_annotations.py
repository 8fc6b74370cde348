"""Folders whose labels are shapes: COCO's JSON, CVAT's XML and LabelMe's JSONs."""

from __future__ import annotations

import base64
import io
import json
import pickle

import numpy as np
import pytest
from dataset_files import save_image, save_text
from PIL import Image
from shape_files import BOX, CVAT, NAMES, POLYGONS, coco, shape

from densebench.datasets import load_dataset
from densebench.errors import UserError

PAINTED = [[0, 0, 0, 0, 0, 0], [0, 1, 2, 1, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0]]


@pytest.fixture
def photos(tmp_path):
    for name in NAMES:
        save_image(tmp_path / "photos" / "images" / f"{name}.jpg")
    return tmp_path / "photos"


def write_coco(folder, content, name="coco.json"):
    save_text(folder / name, json.dumps(content))


def write_cvat(folder, shapes=POLYGONS, names=NAMES):
    images = [f'<image id="{i}" name="{name}.jpg" width="6" height="4">{shapes}</image>' for i, name in enumerate(names)]
    save_text(folder / "annotations.xml", CVAT.format("".join(images)))


def write_labelme(folder, shapes=None, names=NAMES):
    shapes = shapes or [shape("dog", [[4, 3], [1, 1]], "rectangle"), shape("cat", [[2, 1], [3, 1], [3, 2], [2, 2]])]
    for name in names:
        content = {"imagePath": f"..\\images\\{name}.jpg", "imageWidth": 6, "imageHeight": 4, "shapes": shapes, "imageData": None}
        save_text(folder / f"{name}.json", json.dumps(content))


def first(dataset):
    return dataset.label(next(item for split in dataset.splits for item in dataset.items(split) if item.name == "a")).tolist()


def changed_ids(rows, *ids):
    return [[ids[value] for value in row] for row in rows]


def test_coco_paints_the_smaller_object_on_top_whatever_the_order(photos, capsys):
    write_coco(photos, coco())
    dataset = load_dataset(f"folder:{photos}?labels=coco.json")
    assert (dataset.classes, dataset.background) == (("background", "dog", "cat"), 0)
    assert first(dataset) == PAINTED
    assert "4 images with shapes in coco.json (COCO); classes background, dog, cat; pixels outside" in capsys.readouterr().err
    assert dataset.verify(full=True) == []


@pytest.mark.parametrize("name", ["coco.json", "annotations/instances.json"])
def test_the_only_annotation_file_is_found(photos, name):
    write_coco(photos, coco(), name)
    assert first(load_dataset(photos)) == PAINTED


def test_run_lengths_of_coco(photos):
    counts = [5, 2, 2, 2, 2, 2, 9]  # down the columns of 4
    write_coco(photos, coco([(1, {"size": [4, 6], "counts": counts})]))
    assert first(load_dataset(photos)) == [[int(value > 0) for value in row] for row in PAINTED]


def test_crowds_are_painted_as_their_class(photos):
    write_coco(photos, coco(crowd=1))
    assert first(load_dataset(photos)) == PAINTED


def test_pixels_outside_all_shapes_may_be_void(photos):
    write_coco(photos, coco())
    dataset = load_dataset(f"folder:{photos}?labels=coco.json&ignore_background=true")
    assert dataset.classes == ("dog", "cat")
    assert first(dataset) == changed_ids(PAINTED, 255, 0, 1)


def test_classes_toml_may_choose_and_order_the_labels(photos):
    write_coco(photos, coco())
    save_text(photos / "classes.toml", 'labels = "coco.json"\nclasses = ["cat"]\nbackground = "other"\n')
    dataset = load_dataset(photos)
    assert dataset.classes == ("other", "cat")
    assert first(dataset) == changed_ids(PAINTED, 0, 255, 1)
    save_text(photos / "classes.toml", 'labels = "coco.json"\nclasses = ["cat", "dgo"]\n')
    with pytest.raises(UserError, match="unknown class 'dgo': did you mean 'dog'"):
        load_dataset(photos)


def test_a_label_called_background_is_the_background(photos):
    content = coco()
    content["categories"][0]["name"] = "background"
    write_coco(photos, content)
    dataset = load_dataset(photos)
    assert (dataset.classes, dataset.background) == (("dog", "background"), 1)
    assert first(dataset) == changed_ids(PAINTED, 1, 0, 1)


def test_cvat_goes_by_z_order(photos):
    write_cvat(photos)
    dataset = load_dataset(photos)
    assert dataset.classes == ("background", "dog", "cat")
    assert first(dataset) == PAINTED


def test_a_mask_of_cvat_is_a_block_of_runs_along_the_rows(photos):
    write_cvat(photos, '<mask label="cat" rle="1, 2, 2, 1" left="1" top="2" width="3" height="2"/>')
    assert first(load_dataset(photos)) == [[0] * 6, [0] * 6, [0, 0, 2, 2, 0, 0], [0, 0, 0, 2, 0, 0]]


def test_an_ellipse_of_cvat(photos):
    write_cvat(photos, '<ellipse label="dog" cx="2.5" cy="1.5" rx="1.2" ry="1.2"/>')
    assert first(load_dataset(photos)) == [[0, 0, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 1, 0, 0, 0], [0] * 6]


@pytest.mark.parametrize("folder", ["images", "labels", ""])
def test_labelme_goes_by_the_order_of_the_file(photos, folder):
    write_labelme(photos / folder)
    dataset = load_dataset(photos)
    assert dataset.classes == ("background", "cat", "dog")
    assert first(dataset) == changed_ids(PAINTED, 0, 2, 1)


def test_circles_masks_and_special_labels_of_labelme(photos):
    stream = io.BytesIO()
    Image.fromarray(np.array([[0, 1], [1, 1]], np.uint8)).save(stream, "PNG")
    mask = base64.b64encode(stream.getvalue()).decode()
    shapes = [
        shape("dog", [[2.5, 1.5], [2.5, 2.7]], "circle"),
        shape("__ignore__", [[0, 0], [1, 0], [1, 4], [0, 4]]),
        shape("cat", [[4, 2], [5, 3]], "mask", mask=mask),
        shape("_background_", [[2, 1], [3, 1], [3, 2], [2, 2]]),
    ]
    write_labelme(photos / "images", shapes)
    v = 255
    assert first(load_dataset(photos)) == [[v, 0, 2, 0, 0, 0], [v, 2, 0, 2, 0, 0], [v, 0, 2, 0, 0, 1], [v, 0, 0, 0, 1, 1]]


def test_images_without_a_shape_are_background_or_left_out(photos, capsys):
    content = coco()
    content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"]]
    content["images"].append({"id": 9, "file_name": "e.jpg", "width": 6, "height": 4})
    save_image(photos / "images" / "e.jpg")
    write_coco(photos, content)
    assert first(load_dataset(photos)) == [[0] * 6] * 4
    assert "1 without a shape" not in (said := capsys.readouterr().err) and "2 without a shape are all background" in said
    content["annotations"].append({"image_id": 9, "category_id": 1, "segmentation": [BOX]})
    write_coco(photos, content)
    dataset = load_dataset(f"folder:{photos}?labels=coco.json&ignore_background=true")
    assert sorted(item.name for split in dataset.splits for item in dataset.items(split)) == ["b", "c", "d", "e"]


def test_images_that_are_not_there_are_counted(photos, capsys):
    content = coco()
    content["images"].append({"id": 9, "file_name": "e.jpg", "width": 6, "height": 4})
    write_coco(photos, content)
    load_dataset(photos)
    assert "1 images that it lists are not there and left out" in capsys.readouterr().err
    for name in NAMES:
        (photos / "images" / f"{name}.jpg").unlink()
    with pytest.raises(UserError, match=r"its images, such as a.jpg, are not in .* say where they are: \?images=DIR"):
        load_dataset(photos)


def test_an_image_that_may_be_either_of_two_files_is_refused(photos):
    write_coco(photos, coco())
    save_image(photos / "more" / "a.jpg")
    with pytest.raises(UserError, match=r"names a.jpg, which may be .*images/a.jpg or .*more/a.jpg; .*\?images=DIR"):
        load_dataset(photos)
    assert first(load_dataset(f"folder:{photos}?labels=coco.json&images=images")) == PAINTED


def test_names_below_folders_of_splits_are_split_by_them(photos):
    content = coco()
    for image, split in zip(content["images"], ("train", "train", "val", "val"), strict=True):
        save_image(photos / "images" / split / image["file_name"])
        image["file_name"] = f"{split}/{image['file_name']}"
    write_coco(photos, content)
    dataset = load_dataset(photos)
    assert [item.name for item in dataset.items("val")] == ["val/c", "val/d"]
    assert dataset.label(dataset.items("train")[0]).tolist() == PAINTED


def test_a_size_that_differs_from_the_image_is_refused(photos):
    write_coco(photos, coco(size=(8, 4)))
    with pytest.raises(UserError, match=r"the labels of a in .*coco.json are 8 x 4 but the image .* is 6 x 4"):
        first(load_dataset(photos))


def test_digests_change_with_shapes_labels_and_what_is_outside(photos):
    seen = []
    for category, segmentation, names, query in (
        (1, BOX, ("cat", "dog"), ""),
        (3, BOX, ("cat", "dog"), ""),
        (1, [*BOX[:-1], 2.7], ("cat", "dog"), ""),
        (1, BOX, ("cat", "cow"), ""),
        (1, BOX, ("cat", "dog"), "&ignore_background=true"),
    ):
        content = coco([(category, [segmentation])])
        content["categories"] = [{"id": 3, "name": names[0]}, {"id": 1, "name": names[1]}]
        write_coco(photos, content)
        dataset = load_dataset(f"folder:{photos}?labels=coco.json{query}")
        seen.append(dataset.label_digest(dataset.items("val")[0]))
    assert len(set(seen)) == 5


def test_what_was_painted_before_is_the_same_and_passes_to_other_processes(photos):
    write_coco(photos, coco())
    dataset = load_dataset(photos)
    copy = pickle.loads(pickle.dumps(dataset))
    assert copy == dataset
    assert first(dataset) == first(copy) == first(dataset)


def test_the_classes_toml_that_it_writes_gives_the_same_labels(photos):
    write_cvat(photos)
    inferred = load_dataset(f"folder:{photos}?labels=annotations.xml")
    (photos / "classes.toml").write_text(inferred.classes_toml())
    written = load_dataset(photos)
    assert (written.classes, written.mapping, written.background) == (inferred.classes, inferred.mapping, 0)
    assert written.digest("val", written.items("val")) == inferred.digest("val", inferred.items("val"))


@pytest.mark.parametrize("key", ["values", "ignore_index", "suffix", "reduce_zero_label"])
def test_keys_of_label_maps_are_refused_beside_shapes(photos, key):
    write_coco(photos, coco())
    value = {"values": "[0, 1]", "ignore_index": "0", "suffix": '"_x"', "reduce_zero_label": "true"}[key]
    save_text(photos / "classes.toml", f'labels = "coco.json"\n{key} = {value}\n')
    with pytest.raises(UserError, match=f"{key} in .* is about label maps, but .* holds shapes; leave it out"):
        load_dataset(photos)


def halves():
    """COCO's JSON in two: the images a and b, and c and d."""
    for split, ids in (("train", (0, 1)), ("val", (2, 3))):
        content = coco()
        content["images"] = [image for image in content["images"] if image["id"] in ids]
        content["annotations"] = [entry for entry in content["annotations"] if entry["image_id"] in ids]
        yield split, content


@pytest.mark.parametrize(
    ("annotations", "images"),
    [
        ("annotations/instances_{}2017.json", "images/{}.jpg"),
        ("{}.json", "images/{}.jpg"),
        ("annotations/{}.json", "images/{split}/{}.jpg"),
        ("{}/_annotations.coco.json", "{split}/{}.jpg"),
    ],
)
def test_one_coco_json_a_split(photos, annotations, images):
    for name, split in zip(NAMES, ("train", "train", "val", "val"), strict=True):
        path = photos / images.format(name, split=split)
        path.parent.mkdir(exist_ok=True)
        (photos / "images" / f"{name}.jpg").rename(path)
    for split, content in halves():
        write_coco(photos, content, annotations.format(split))
    dataset = load_dataset(photos)
    assert [[item.name for item in dataset.items(split)] for split in dataset.splits] == [
        ["train/a", "train/b"],
        ["val/c", "val/d"],
    ]
    assert dataset.classes == ("background", "dog", "cat")
    assert dataset.label(dataset.items("val")[0]).tolist() == PAINTED


def test_images_of_two_splits_may_have_one_name(photos):
    for split, value in (("train", 10), ("val", 200)):
        content = coco()
        write_coco(photos, content, f"annotations/{split}.json")
        for name in NAMES:
            save_image(photos / "images" / split / f"{name}.jpg", value=value)
            (photos / "images" / f"{name}.jpg").unlink(missing_ok=True)
    dataset = load_dataset(photos)
    assert [dataset.image(dataset.items(split)[0]).getpixel((0, 0))[0] for split in ("train", "val")] == [10, 200]


def test_two_coco_jsons_with_other_categories_are_refused(photos):
    for split, content in halves():
        content["categories"][0]["name"] = f"cat of {split}"
        write_coco(photos, content, f"{split}.json")
    with pytest.raises(UserError, match=r"train.json and .*val.json list different categories"):
        load_dataset(photos)
