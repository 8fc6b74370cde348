"""Names in lists and annotation files stay below the folder that they are joined to, in every data set."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
from command_line import call
from PIL import Image

from densebench.cli import main
from densebench.datasets import load_dataset
from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.io.names import check_name, read_list
from densebench.errors import UserError
from densebench.evaluation.subsets import lists_digest, read_subset

EVIL = ["../evil", "a/../../evil", "/etc/evil", "..", ".", "a//b", "a\\..\\evil", "a\0b", "a\x1bb", "a\u2028b", "x" * 256]


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("DENSEBENCH_CACHE", str(folder))
    return folder


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", [*EVIL, "", "a/", "a\nb", "\ud800", 5, None, ["a"]])
def test_unfit_names_are_refused_in_one_line_with_their_place(name):
    with pytest.raises(UserError, match="the list a.txt, line 3, holds the name") as caught:
        check_name(name, "the list a.txt, line 3,")
    assert "\n" not in str(caught.value) and "\0" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["2008_000002", "train/0001TP_006690", "n01440764/n01440764_18", "a b..c", "...", "Zürich 1", "\udcff", "x" * 255]
)
def test_fit_names_stay_as_they_are(name):
    assert check_name(name, "here") == name


def test_the_line_is_that_of_the_file(tmp_path):
    path = write(tmp_path / "a.txt", "\ufb01ne\n\n  \n../evil\n")
    with pytest.raises(UserError, match=r"the list .*a\.txt, line 4, holds the name '\.\./evil', which leaves its folder"):
        read_list(path, "fetch it")


LISTS = {
    "voc": ("VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt", "val", "{}"),
    "pascal-context": ("VOCdevkit/VOC2010/ImageSets/SegmentationContext/val.txt", "val", "{}"),
    "camvid": ("CamVid/test.txt", "test", "/SegNet/CamVid/test/{} /SegNet/CamVid/testannot/a.png"),
    "davis2017": ("DAVIS/ImageSets/2017/val.txt", "val", "{}"),
    "davis2016": ("DAVIS/ImageSets/480p/val.txt", "val", "/JPEGImages/480p/{}/00000.jpg /Annotations/480p/a/00000.png"),
}


@pytest.mark.parametrize("name", ["../evil", "a\0b", "a\\b", "a\x1bb"])
@pytest.mark.parametrize("dataset", LISTS)
def test_the_list_of_a_data_set_names_its_line(tmp_path, dataset, name):
    file, split, line = LISTS[dataset]
    (tmp_path / "VOCdevkit/VOC2012/SegmentationClass").mkdir(parents=True)
    name = ".." if name == "../evil" and "/{}/" in line else name  # the sequence is one part of a path
    name = "../evil/.." if name == "../evil" and dataset == "camvid" else name  # the last two parts count
    write(tmp_path / file, "\n" + line.format(name) + "\n")
    with pytest.raises(UserError, match=rf"{os.path.basename(file)}, line 2, holds the name"):  # noqa: PTH119
        load_dataset(dataset, tmp_path).items(split)


def videos(folder, *names):
    for name in names:
        for kind, suffix in (("JPEGImages", "jpg"), ("Annotations", "png")):
            path = folder / kind / "480p" / name
            path.mkdir(parents=True, exist_ok=True)
            for frame in range(3):
                Image.new("L", (32, 32), 1 if kind == "Annotations" else 90).save(path / f"{frame:05}.{suffix}")
    return folder


def test_frames_write_nothing_outside(tmp_path):
    folder = videos(tmp_path / "mine", "good", "../evil", "../../evil")
    write(folder / "ImageSets" / "val.txt", "good\n../evil\n")
    before = {path for path in tmp_path.rglob("*") if "evil" in path.name}
    words = ["--protocol", "vos", "--dataset", f"frames:{folder}", "--backbone", "pixels:16", "--device", "cpu"]
    done = call("eval", *words, "--save-predictions", tmp_path / "masks", "--visualise", "2", folder=tmp_path)
    assert "val.txt, line 2, holds the name '../evil'" in done.error
    assert {path for path in tmp_path.rglob("*") if "evil" in path.name} == before


@pytest.mark.parametrize("name", EVIL)
def test_a_data_set_of_one_s_own_cannot_name_an_image_outside(tmp_path, name):
    class Mine(Dataset):
        def list_items(self, split):
            return [Item("a", None, None), Item(name, None, None)]

    with pytest.raises(UserError, match="mine, split val, holds the name"):
        Mine(root=tmp_path, name="mine").items("val")


@pytest.mark.parametrize("name", EVIL)
def test_splits_of_a_folder(tmp_path, name):
    write(tmp_path / "classes.toml", f'classes = ["a"]\nsplits = [{json.dumps(name)}]\n')
    with pytest.raises(UserError, match=r"splits in .*classes\.toml holds the name"):
        load_dataset(f"folder:{tmp_path}")


@pytest.mark.parametrize("name", [*EVIL, 7, None])
def test_files_of_a_panoptic_json(tmp_path, name):
    content = {"categories": [], "annotations": [{"file_name": name, "segments_info": []}]}
    write(tmp_path / "coco/annotations/panoptic_val2017.json", json.dumps(content))
    with pytest.raises(UserError, match=r"panoptic_val2017\.json, annotations, holds the name"):
        load_dataset("coco-things", tmp_path).items("val")


@pytest.mark.parametrize("name", EVIL)
def test_files_of_an_instances_json(tmp_path, name):
    images = [{"id": 1, "file_name": name, "width": 4, "height": 4}]
    content = {"images": images, "annotations": [], "categories": []}
    write(tmp_path / "coco/annotations/instances_val2017.json", json.dumps(content))
    for _ in range(2):  # also where the file was packed before
        with pytest.raises(UserError, match=r"instances_val2017\.json, images, holds the name"):
            load_dataset("coco-boxes", tmp_path).items("val")


def test_wordnet_ids_of_imagenet(tmp_path):
    write(tmp_path / "LOC_synset_mapping.txt", "n01 a fish\n../evil a name\n")
    with pytest.raises(UserError, match=r"LOC_synset_mapping\.txt, line 2, holds the name '\.\./evil'"):
        load_dataset("imagenet-boxes", tmp_path)


@pytest.mark.parametrize("read", [lambda lists: read_subset(lists, "voc", 8, ["a"]), lambda lists: lists_digest(lists, "voc")])
def test_lists_of_subsets(tmp_path, read):
    path = write(tmp_path / "voc/1_div_8/voc_8_42.txt", "a\n../evil\n")
    with pytest.raises(UserError, match=r"voc_8_42\.txt, line 2, holds the name '\.\./evil'"):
        read(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"voc_8_42\.txt is not text in UTF-8"):
        read(tmp_path)


def test_official_lists_with_folders_pass(tmp_path):
    for kind in ("test", "testannot"):
        (tmp_path / "CamVid" / kind).mkdir(parents=True)
    write(tmp_path / "CamVid/test.txt", "/SegNet/CamVid/test/0001.png /SegNet/CamVid/testannot/0001.png\n")
    [item] = load_dataset("camvid", tmp_path).items("test")
    assert (item.name, item.image) == ("0001", tmp_path / "CamVid/test/0001.png")


@pytest.mark.skipif(os.name != "posix", reason="names are bytes only there")
def test_names_that_are_no_utf_8_are_hashed_and_printed(tmp_path, monkeypatch, capsysbinary):
    root = os.fsencode(tmp_path) + b"/\xff"
    for split in (b"train", b"val"):
        for kind, value in ((b"images", 90), (b"labels", 0)):
            folder = os.path.join(root, kind, split)  # noqa: PTH118
            os.makedirs(folder)  # noqa: PTH103
            Image.fromarray(np.full((32, 32), value, np.uint8)).save(os.fsdecode(os.path.join(folder, b"a\xfe.png")))  # noqa: PTH118
    with open(os.path.join(root, b"classes.toml"), "w") as stream:  # noqa: PTH118, PTH123
        stream.write('classes = ["a", "b"]\n')
    monkeypatch.setattr(
        "sys.argv",
        ["densebench", "eval", "--protocol", "incontext", "--dataset", f"folder:{os.fsdecode(root)}", "--backbone", "pixels:16",
         "--device", "cpu", "--image-size", "32", "--neighbours", "3", "--results", str(tmp_path / "results")],
    )  # fmt: skip
    with pytest.raises(SystemExit) as caught:
        main()
    assert not caught.value.code
    assert b"\\udcff" in capsysbinary.readouterr().out
    [record] = (tmp_path / "results" / "records").glob("*.json")
    assert json.loads(record.read_text(encoding="utf-8"))["dataset"]["name"] == f"folder:{tmp_path}/\\udcff"
