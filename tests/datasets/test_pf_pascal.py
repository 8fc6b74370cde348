"""PF-PASCAL: places of the lists, px of 300, fillings, classes, annotations in MATLAB files, errors that name the file."""

from __future__ import annotations

import numpy as np
import pytest
from dataset_files import save_text
from keypoint_files import PF_HEAD, pf_row, said, write_pf_pascal
from scipy.io import savemat

from densebench.datasets import load_dataset
from densebench.errors import UserError


@pytest.mark.parametrize("outer", ["pf-pascal", "."])
@pytest.mark.parametrize(
    "place",
    [
        "image_pairs/test_pairs.csv",
        "image_pairs/test_pairs_pf_pascal.csv",
        "test_pairs.csv",
        "PF-dataset-PASCAL/test_pairs.csv",
        "PF-dataset-PASCAL/test_pairs_pf_pascal.csv",
    ],
)
def test_a_list_is_found_where_any_code_keeps_it(tmp_path, outer, place):
    write_pf_pascal(tmp_path / outer, [pf_row()], place)
    dataset = load_dataset("pf-pascal", tmp_path)
    [pair] = dataset.pairs("test")
    assert (pair.name, pair.source.name, pair.target.name, pair.category) == ("0001-a-b", "a", "b", "cat")
    assert pair.source_points.tolist() == [[1, 3], [2, 4]] and pair.target_points.tolist() == [[5, 7], [6, 8]]
    assert (pair.parts.tolist(), pair.source_box, pair.target_box, pair.levels) == ([-1, -1], None, None, ())
    assert dataset.state() == "present" and dataset.image(pair.target).size == (150, 300)


def test_points_are_put_on_a_picture_of_another_size(tmp_path):
    write_pf_pascal(tmp_path, [pf_row()], sizes=(("a", (500, 333)), ("b", (150, 200))))
    [pair] = load_dataset("pf-pascal", tmp_path).pairs("test")
    assert np.allclose(pair.source_points, np.array([[1, 3], [2, 4]]) * 500 / 300)
    assert np.allclose(pair.target_points, np.array([[5, 7], [6, 8]]) * 200 / 300)


def test_points_in_px_of_vocs_pictures_are_refused(tmp_path):
    write_pf_pascal(tmp_path, [pf_row(points=("1;340.5", "3;4", "5;6", "7;8"))], sizes=(("a", (500, 333)), ("b", (500, 333))))
    with pytest.raises(
        UserError, match=r"line 2, has a keypoint at 340.5 px in a; .* px of pictures whose longer side is 300"
    ) as error:
        load_dataset("pf-pascal", tmp_path).items("test")
    said(error)


def test_points_that_only_fill_a_row_are_left_out(tmp_path):
    write_pf_pascal(tmp_path, [pf_row(points=("1;-1;2", "3;-1;4", "5;-1;6", "7;-1;8")), pf_row(points=("-1", "-1", "-1", "-1"))])
    first, second = load_dataset("pf-pascal", tmp_path).pairs("test")
    assert first.source_points.tolist() == [[1, 3], [2, 4]] and len(second.parts) == 0


def test_a_point_outside_is_kept_and_counted(tmp_path):
    write_pf_pascal(tmp_path, [pf_row(points=("1;2", "3;200.5", "5;6", "7;8"))])
    dataset = load_dataset("pf-pascal", tmp_path)
    assert len(dataset.pairs("test")[0].parts) == 2
    assert dataset.extent("test", None) == {"pairs": 1, "official_pairs": 299, "keypoints": 2, "keypoints_outside": 1}
    assert dataset.verify() == ["test: 2 of the official 506 images", "test: 1 of the official 299 pairs"]


BROKEN = {
    "a column": ([PF_HEAD.replace("XB", "X"), pf_row()], r"has no column XB; its head must name .*; fetch it again"),
    "a short row": ([PF_HEAD, pf_row().rpartition(",")[0]], r"line 2, ends before the column YB"),
    "lengths": ([PF_HEAD, pf_row(points=("1;2", "3;4", "5;6", "7"))], r"line 2: .* 2 in XA and 2 in YA and 2 in XB and 1 in YB"),
    "no number": ([PF_HEAD, pf_row(points=("1;x", "3;4", "5;6", "7;8"))], r"line 2: could not convert"),
    "nan": ([PF_HEAD, pf_row(points=("1;nan", "3;4", "5;6", "7;8"))], r"line 2: XA holds nan"),
    "nothing": ([PF_HEAD, pf_row(points=("", "3;4", "5;6", "7;8"))], r"line 2: could not convert"),
    "class 0": ([PF_HEAD, pf_row(number=0)], r"line 2, has the class '0', which is none of 1 to 20"),
    "class 21": ([PF_HEAD, pf_row(number=21)], r"has the class '21'"),
    "a class in words": ([PF_HEAD, pf_row(number="cat")], r"has the class 'cat'"),
    "a path": ([PF_HEAD, pf_row(source="../../x")], r"line 2, holds the name .* leaves its folder"),
    "a picture": ([PF_HEAD, pf_row(source="c")], r"c.jpg is missing"),
    "a quote": ([PF_HEAD, '"' + pf_row()], r"is no CSV table"),
    "empty": ([""], r"has no column source_image"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_list_is_one_line_that_names_it(tmp_path, what):
    write_pf_pascal(tmp_path, [])
    lines, message = BROKEN[what]
    path = tmp_path / "image_pairs" / "test_pairs.csv"
    save_text(path, "\n".join(lines) + "\n")
    with pytest.raises(UserError, match=message) as error:
        load_dataset("pf-pascal", tmp_path).items("test")
    assert str(path) in said(error) or what == "a picture"


def test_bytes_that_are_no_text_are_refused(tmp_path):
    write_pf_pascal(tmp_path, [])
    (tmp_path / "image_pairs" / "test_pairs.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="no CSV table in UTF-8"):
        load_dataset("pf-pascal", tmp_path).items("test")


def write_annotated(root, split="val", first=((1, 2), (np.nan, np.nan), (5, 6)), second=((7, 8), (9, 10), (11, 12))):
    write_pf_pascal(root, [])
    rows = ["source_image,target_image,class,flip", ",".join([*pf_row().split(",")[:3], "1"])]
    save_text(root / "image_pairs" / f"{split}_pairs.csv", "\n".join(rows) + "\n")
    folder = root / "PF-dataset-PASCAL" / "Annotations" / "cat"
    folder.mkdir(parents=True)
    for name, points in (("a", first), ("b", second)):
        savemat(folder / f"{name}.mat", {"kps": np.array(points, float)})
    return load_dataset("pf-pascal", root)


@pytest.mark.parametrize("split", ["val", "trn", "train"])
def test_lists_without_keypoints_take_those_that_both_pictures_have(tmp_path, split):
    dataset = write_annotated(tmp_path, split)
    [pair] = dataset.pairs("train" if split == "trn" else split)
    assert pair.parts.tolist() == [0, 2]
    assert pair.source_points.tolist() == [[1, 2], [5, 6]] and pair.target_points.tolist() == [[7, 8], [11, 12]]


def test_without_annotations_only_the_test_pairs_can_be_opened(tmp_path):
    dataset = write_annotated(tmp_path)
    for path in (tmp_path / "PF-dataset-PASCAL" / "Annotations").rglob("*.mat"):
        path.unlink()
    with pytest.raises(UserError, match=r"a.mat is missing"):
        dataset.items("val")
    (tmp_path / "PF-dataset-PASCAL" / "Annotations" / "cat").rmdir()
    (tmp_path / "PF-dataset-PASCAL" / "Annotations").rmdir()
    with pytest.raises(
        UserError, match=r"only that of the split test has keypoints, .*Annotations.* is missing; evaluate test"
    ) as error:
        dataset.items("val")
    said(error)


def test_annotations_of_different_lengths_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"line 2: a and b have 2 and 3 keypoints"):
        write_annotated(tmp_path, first=((1, 2), (3, 4))).items("val")


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file" + bytes(200), b"import os", bytes(600)])
def test_a_broken_matlab_file_is_one_line(tmp_path, content):
    dataset = write_annotated(tmp_path)
    path = tmp_path / "PF-dataset-PASCAL" / "Annotations" / "cat" / "a.mat"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a.mat is no MATLAB file with kps") as error:
        dataset.items("val")
    said(error)


def test_a_matlab_file_of_another_shape_is_refused(tmp_path):
    dataset = write_annotated(tmp_path, first=((1, 2, 3),))
    with pytest.raises(UserError, match=r"kps of shape \(1, 3\), not n x 2"):
        dataset.items("val")
