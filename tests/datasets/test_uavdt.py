"""Boxes of UAVDT: frames in order, vehicles and ignored regions, errors that name the file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from densebench.datasets import load_dataset, uavdt
from densebench.errors import UserError


def touch(path):
    """Let a file that was written again be newer, whatever the clock of the file system."""
    later = path.stat().st_mtime_ns + 10**9
    os.utime(path, ns=(later, later))


def said(error):
    """An error for people: one line."""
    assert "\n" not in str(error.value)
    return str(error.value)


def save_image(path, size):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (9, 99, 199)).save(path, format="JPEG")


@pytest.fixture
def drone(tmp_path, monkeypatch):
    monkeypatch.setitem(uavdt.VIDEOS, "train", "M0101 M0201")
    monkeypatch.setitem(uavdt.VIDEOS, "test", "M0203")
    for video, nested, frames in (("M0101", "", (1, 2, 10)), ("M0201", "img1", (1,)), ("M0203", "", (1, 2))):
        for frame in frames:
            save_image(tmp_path / "UAV-benchmark-M" / video / nested / f"img{frame:06}.jpg", (100, 50))
        truth = tmp_path / "UAV-benchmark-MOTD_v1.0" / "GT"
        truth.mkdir(parents=True, exist_ok=True)
        (truth / f"{video}_gt_whole.txt").write_text("")
        (truth / f"{video}_gt_ignore.txt").write_text("")
    (truth / "M0101_gt_whole.txt").write_text(
        "1,1,10,20,30,5,1,1,1\n10,1,12,20,30,5,1,1,3\n1,2,90,40,30,30,2,1,2\n1,3,100,40,30,30,1,1,2\n"
    )
    (truth / "M0101_gt_ignore.txt").write_text("1,1,0,0,200,10,1,-1,-1\n2,1,5,5,5,5,1,-1,-1,\n")
    return load_dataset("uavdt", tmp_path)


def test_uavdt_frames_are_those_of_the_official_videos_in_order(drone, tmp_path):
    save_image(tmp_path / "UAV-benchmark-M" / "M9999" / "img000001.jpg", (10, 10))
    names = [item.name for item in drone.items("train")]
    assert names == ["M0101/img000001", "M0101/img000002", "M0101/img000010", "M0201/img000001"]
    assert [item.name for item in drone.items("test")] == ["M0203/img000001", "M0203/img000002"]
    assert drone.val_split == "test" and drone.classes == ("vehicle",)


def test_uavdt_objects_by_hand(drone):
    first, second, tenth, other = (drone.objects(item) for item in drone.items("train"))
    # A truck reaches over the corner, another lies outside; the region comes last.
    assert first.boxes.tolist() == [[10, 20, 40, 25], [90, 40, 100, 50], [0, 0, 100, 10]]
    assert first.crowd.tolist() == [False, False, True] and first.classes.tolist() == [0, 0, 0]
    assert first.areas.tolist() == [150, 100, 1000]
    assert second.boxes.tolist() == [[5, 5, 10, 10]] and second.crowd.tolist() == [True]
    assert tenth.boxes.tolist() == [[12, 20, 42, 25]] and not tenth.crowd.any()
    assert len(other) == 0
    assert [line for line in drone.verify(full=True) if "official" not in line] == []


def test_uavdt_digests_follow_the_frame(drone, tmp_path):
    items = drone.items("train")
    before = drone.label_digests(items)
    path = tmp_path / "UAV-benchmark-MOTD_v1.0" / "GT" / "M0101_gt_ignore.txt"
    path.write_text("1,1,0,0,200,10,1,-1,-1\n2,1,5,5,5,6,1,-1,-1\n")
    touch(path)
    after = drone.label_digests(items)
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, False, True, True]


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        ("whole", "1,1,10,20,30,5,1,1\n", "line 1 is"),
        ("whole", "\n1,1,10,20,30,5,1,1,4\n", "line 2 has category 4"),
        ("whole", "1,1,10,20,x,5,1,1,1\n", "could not convert"),
        ("whole", "1,1,10,20,nan,5,1,1,1\n", "line 1 is"),
        ("ignore", "1,1,10,20,30\n", "line 1 is"),
    ],
)
def test_uavdt_refuses_broken_annotations(drone, tmp_path, kind, text, message):
    path = tmp_path / "UAV-benchmark-MOTD_v1.0" / "GT" / f"M0101_gt_{kind}.txt"
    path.write_text(text)
    touch(path)
    with pytest.raises(UserError, match=message) as error:
        drone.objects(drone.items("train")[0])
    assert str(path) in said(error)


def test_uavdt_says_what_is_missing(drone, tmp_path):
    (tmp_path / "UAV-benchmark-MOTD_v1.0" / "GT" / "M0101_gt_ignore.txt").unlink()
    with pytest.raises(UserError, match=r"M0101_gt_ignore.txt is missing; see `densebench data get uavdt`"):
        drone.objects(drone.items("train")[0])
    with pytest.raises(UserError, match="the folder .*M0101 is missing"):
        load_dataset("uavdt", tmp_path / "elsewhere").items("train")


def test_uavdt_split_is_the_official_one():
    train, test = (uavdt.VIDEOS[split].split() for split in ("train", "test"))
    assert (len(train), len(test), len({*train, *test})) == (30, 20, 50)
    # The lengths that the official evaluation gives for its videos are this many frames.
    assert load_dataset("uavdt", Path()).official_counts == {"train": 40735 - 16592, "test": 16592}


def test_two_videos_have_no_ignored_regions(drone, tmp_path, monkeypatch):
    """The official evaluation has none for M0209 and M0801, whatever files there are."""
    monkeypatch.setitem(uavdt.VIDEOS, "test", "M0209")
    (tmp_path / "UAV-benchmark-M" / "M0203").rename(tmp_path / "UAV-benchmark-M" / "M0209")
    truth = tmp_path / "UAV-benchmark-MOTD_v1.0" / "GT"
    (truth / "M0203_gt_whole.txt").rename(truth / "M0209_gt_whole.txt")
    (truth / "M0209_gt_ignore.txt").write_text("1,1,0,0,20,10,1,-1,-1\n")
    first = drone.items("test")[0]
    assert first.name == "M0209/img000001" and not drone.objects(first).crowd.any()
