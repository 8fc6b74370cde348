"""NAVI's layout: pairs, cameras and depth as its files say, and a clear line for files that do not."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from view_files import OBJECT, annotation, write_navi

from densebench.datasets import load_dataset
from densebench.datasets.navi import partners, turn_of
from densebench.errors import UserError


def navi(root):
    return load_dataset("navi", root)


def test_each_picture_is_paired_with_another_that_is_turned_by_at_most_120_degrees(tmp_path):
    write_navi(tmp_path)
    pairs = navi(tmp_path).pairs("test")
    assert [pair.source.name for pair in pairs] == [f"001_cup/{number:03}" for number in range(4)]
    turns = (0, 40, 80, 190)
    for pair in pairs:
        angle = np.degrees(np.arccos((np.trace(pair.rotation) - 1) / 2))
        first, second = (turns[int(each.name[-3:])] for each in (pair.source, pair.target))
        apart = abs(first - second)
        assert angle == pytest.approx(min(apart, 360 - apart), abs=1e-4)
        assert 0 < angle <= 120


def test_pairs_do_not_depend_on_the_order_of_the_files(tmp_path):
    wild = write_navi(tmp_path)
    before = [pair.facts() for pair in navi(tmp_path).pairs("test")]
    entries = json.loads((wild / "annotations.json").read_text())
    (wild / "annotations.json").write_text(json.dumps(entries[::-1]))
    for path in sorted((wild / "images").iterdir(), reverse=True):
        content = path.read_bytes()
        path.unlink()
        path.write_bytes(content)
    assert [pair.facts() for pair in navi(tmp_path).pairs("test")] == before


def test_a_picture_is_never_its_own_partner_and_one_alone_has_none():
    def pose(degrees):
        half = np.radians(degrees) / 2
        found = np.eye(4)
        found[:3, :3] = turn_of(np.array([np.cos(half), 0, np.sin(half), 0]))
        return found

    drawn = partners({"a": pose(0), "b": pose(170), "c": pose(169)}, torch.Generator().manual_seed(8))
    assert drawn == {"b": "c", "c": "b"}
    assert partners({"a": pose(10)}, torch.Generator()) == {}


def test_a_quaternion_of_any_length_is_a_rotation():
    assert np.allclose(turn_of(np.array([2.0, 0, 0, 2])), [[0, -1, 0], [1, 0, 0], [0, 0, 1]])


def test_depth_is_metres_and_0_where_nothing_is_seen(tmp_path):
    write_navi(tmp_path)
    dataset = navi(tmp_path)
    depth = dataset.depth(dataset.items("test")[0])
    assert depth.shape == (48, 64) and depth[0, 0] == 0
    assert depth[20, 30] == pytest.approx(0.5, rel=1e-3)


def test_the_camera_and_the_pose_are_those_of_the_annotation(tmp_path):
    write_navi(tmp_path)
    pair = navi(tmp_path).pairs("test")[0]
    camera = pair.source_camera
    assert (camera.width, camera.height, camera.focal, camera.centre) == (64, 48, (60, 60), (32, 24))
    points = np.array([[0.1, 0.2, 0.3]])  # of the object's own frame
    half = [np.radians((0, 40, 80, 190)[int(each.name[-3:])]) / 2 for each in (pair.source, pair.target)]
    first, second = (points @ turn_of(np.array([np.cos(h), 0, np.sin(h), 0])).T + [0, 0, 0.5] for h in half)
    assert np.allclose(first @ pair.rotation.T + pair.translation, second)


def test_objects_without_a_multiview_scene_and_the_large_pictures_are_left_out(tmp_path):
    write_navi(tmp_path)
    write_navi(tmp_path, folder="navi_v1/002_bowl")
    (tmp_path / "navi_v1/002_bowl/multiview_00_phone").rmdir()
    items = navi(tmp_path).items("test")
    assert {item.name.split("/")[0] for item in items} == {"001_cup"}
    assert all(item.image.name.startswith("downsampled_") for item in items)


def test_the_digest_is_of_pictures_depth_and_pairs(tmp_path):
    wild = write_navi(tmp_path)

    def digest():
        dataset = navi(tmp_path)
        return dataset.digest("test", dataset.items("test"))

    first = digest()
    assert digest() == first
    entries = json.loads((wild / "annotations.json").read_text())
    entries[1]["camera"]["t"][0] = 3.0
    (wild / "annotations.json").write_text(json.dumps(entries))
    second = digest()
    assert second != first
    values = np.array(Image.open(wild / "depth" / "downsampled_001.png"))
    values[20, 30] += 1
    Image.fromarray(values).save(wild / "depth" / "downsampled_001.png")
    assert digest() not in (first, second)


def broken(entries, change):
    change(entries[0])
    return json.dumps(entries)


HOSTILE = {
    "no JSON": (lambda entries: "[{", "no list of pictures with a filename"),
    "a list of numbers": (lambda entries: "[1, 2]", "no list of pictures with a filename"),
    "deep nesting": (lambda entries: "[" * 100_000, "no list of pictures with a filename"),
    "no camera": (lambda entries: broken(entries, lambda entry: entry.pop("camera")), "has no numbers camera.q"),
    "a text as focal length": (
        lambda entries: broken(entries, lambda entry: entry["camera"].update(focal_length="long")),
        "has no numbers camera.focal_length",
    ),
    "a focal length of 0": (lambda entries: broken(entries, lambda e: e["camera"].update(focal_length=0)), "focal length of 0"),
    "an endless shift": (
        lambda entries: broken(entries, lambda entry: entry["camera"].update(t=[0, 0, float("inf")])),
        "camera.t must be 3 finite numbers",
    ),
    "a quaternion of length 0": (lambda entries: broken(entries, lambda e: e["camera"].update(q=[0, 0, 0, 0])), "of length 0"),
    "three numbers as a quaternion": (lambda entries: broken(entries, lambda e: e["camera"].update(q=[1, 0, 0])), "4 finite"),
    "a picture that is not annotated": (lambda entries: json.dumps(entries[1:]), "has no annotation"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_annotations_that_are_wrong_are_refused_in_one_line(case, tmp_path):
    wild = write_navi(tmp_path)
    write, message = HOSTILE[case]
    entries = [annotation(f"{number:03}", 40 * number) for number in range(4)]
    (wild / "annotations.json").write_text(write(entries))
    with pytest.raises(UserError, match=message) as error:
        navi(tmp_path).pairs("test")
    assert "\n" not in str(error.value)


def test_a_depth_map_of_8_bits_is_refused(tmp_path):
    wild = write_navi(tmp_path)
    path = wild / "depth" / "downsampled_000.png"
    Image.new("L", (64, 48)).save(path)
    dataset = navi(tmp_path)
    with pytest.raises(UserError, match=r"downsampled_000.png has mode L, not one channel of 16 bits"):
        dataset.depth(dataset.items("test")[0])


def test_a_missing_folder_says_what_to_fetch(tmp_path):
    with pytest.raises(UserError, match="densebench data get navi"):
        navi(tmp_path).items("test")
    assert (tmp_path / OBJECT).exists() is False
