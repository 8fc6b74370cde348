"""The layout of ScanNet-1500: pairs, cameras, poses and depth as its files say; nothing in them is executed."""

from __future__ import annotations

import numpy as np
import pytest
from view_files import ROOM, write_scannet

from densebench.datasets import load_dataset
from densebench.errors import UserError


def scannet(root):
    return load_dataset("scannet1500", root)


def test_pairs_come_in_the_order_of_the_list_with_their_poses(tmp_path):
    write_scannet(tmp_path)
    first, second = scannet(tmp_path).pairs("test")
    assert (first.source.name, first.target.name) == ("scene0707_00/0", "scene0707_00/15")
    assert second.name == "0001-scene0707_00-15-30"
    angle = np.radians(-15)
    assert np.allclose(first.rotation, [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]])
    assert np.allclose(first.translation, 0)


def test_the_camera_is_that_of_the_scene_in_px_of_640_by_480(tmp_path):
    write_scannet(tmp_path)
    camera = scannet(tmp_path).pairs("test")[0].source_camera
    assert (camera.width, camera.height, camera.focal, camera.centre) == (640, 480, (577, 578), (319.5, 239.5))
    quarter = camera.resized(160, 120)
    assert quarter.focal == (577 / 4, 578 / 4) and quarter.centre == (319.5 / 4, 239.5 / 4)


def test_depth_is_in_metres(tmp_path):
    write_scannet(tmp_path)
    dataset = scannet(tmp_path)
    assert (dataset.depth(dataset.items("test")[0]) == 1.5).all()


def test_pictures_of_several_pairs_are_listed_once(tmp_path):
    write_scannet(tmp_path)
    assert [item.name[-2:] for item in scannet(tmp_path).items("test")] == ["/0", "15", "30"]


class Bomb:
    """What a pickle of it would do when it is loaded."""

    def __reduce__(self):
        return (print, ("executed",))


def test_lists_with_python_objects_are_refused_with_the_remedy(tmp_path, capsys):
    write_scannet(tmp_path)
    names = np.empty((1, 4), dtype=object)
    names[:] = [[Bomb(), 0, 0, 15]]
    np.savez(tmp_path / ROOM / "test.npz", name=names)
    with pytest.raises(UserError, match="holds Python objects, which are not loaded since they may run code; save it again"):
        scannet(tmp_path).pairs("test")
    assert "executed" not in capsys.readouterr().out


def rewrite(root, **arrays):
    np.savez(root / ROOM / "test.npz", **arrays)


HOSTILE = {
    "no archive": (lambda root: (root / ROOM / "test.npz").write_bytes(b"PK\x03\x04 broken"), "no .npz file, or damaged"),
    "an empty file": (lambda root: (root / ROOM / "test.npz").write_bytes(b""), "no .npz file, or damaged"),
    "no list": (lambda root: (root / ROOM / "test.npz").unlink(), "test.npz is missing"),
    "another name": (lambda root: rewrite(root, names=np.zeros((1, 4), int)), "must hold `name`"),
    "three columns": (lambda root: rewrite(root, name=np.zeros((1, 3), int)), "must hold `name`"),
    "fractions": (lambda root: rewrite(root, name=np.zeros((1, 4))), "must hold `name`"),
    "a frame below 0": (lambda root: rewrite(root, name=np.array([[707, 0, -1, 15]])), "must hold `name`"),
    "a scene without a camera": (lambda root: rewrite(root, name=np.array([[1, 0, 0, 15]])), "no camera for scene0001_00"),
    "a camera with skew": (
        lambda root: np.savez(root / ROOM / "intrinsics.npz", scene0707_00=np.array([[5.0, 1, 2], [0, 5, 2], [0, 0, 1]])),
        "the camera of scene0707_00",
    ),
    "a camera of no number": (
        lambda root: np.savez(root / ROOM / "intrinsics.npz", scene0707_00=np.full((3, 3), np.nan)),
        "the camera of scene0707_00",
    ),
    "a pose in words": (lambda root: (root / ROOM / "scene0707_00/pose/0.txt").write_text("one 0 0 0"), "something else than"),
    "a pose of three rows": (
        lambda root: np.savetxt(root / ROOM / "scene0707_00/pose/0.txt", np.eye(4)[:3]),
        "no rotation and translation, 4 x 4",
    ),
    "a lost frame": (
        lambda root: np.savetxt(root / ROOM / "scene0707_00/pose/0.txt", np.full((4, 4), -np.inf)),
        "no rotation and translation, 4 x 4",
    ),
    "a mirrored pose": (
        lambda root: np.savetxt(root / ROOM / "scene0707_00/pose/0.txt", np.diag([1.0, 1, -1, 1])),
        "has a pose that is no rotation",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_files_that_are_wrong_are_refused_in_one_line(case, tmp_path):
    write_scannet(tmp_path)
    change, message = HOSTILE[case]
    change(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        scannet(tmp_path).pairs("test")
    assert "\n" not in str(error.value)
