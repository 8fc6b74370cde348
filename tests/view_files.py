"""Made-up files in the layouts of NAVI and ScanNet-1500: a plane in front of cameras that turn about it."""

from __future__ import annotations

import json
import math

import numpy as np
from PIL import Image

OBJECT = "navi_v1/001_cup"
ROOM = "scannet_test_1500"


def picture(path, width, height, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def whole_numbers(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, dtype=np.uint16)).save(path)


def annotation(name, degrees, size=(48, 64), focal=60.0):
    half = math.radians(degrees) / 2
    camera = {"q": [math.cos(half), 0.0, math.sin(half), 0.0], "t": [0.0, 0.0, 500.0], "focal_length": focal}
    return {"filename": f"{name}.jpg", "split": "val", "image_size": list(size), "camera": camera}


def write_navi(root, turns=(0, 40, 80, 190), folder=OBJECT, depth=500.0, size=(48, 64)):
    """Write an object of a picture for each turn of the camera; a square of it is seen, at a depth in mm."""
    height, width = size
    wild = root / folder / "wild_set"
    (root / folder / "multiview_00_phone").mkdir(parents=True)
    entries = [annotation(f"{number:03}", turn, size) for number, turn in enumerate(turns)]
    for number in range(len(turns)):
        picture(wild / "images" / f"{number:03}.jpg", 4, 4)
        picture(wild / "images" / f"downsampled_{number:03}.jpg", width, height, number)
        stored = np.zeros(size)
        stored[12:36, 20:44] = 65535 * 10 / depth
        whole_numbers(wild / "depth" / f"downsampled_{number:03}.png", stored)
    (wild / "annotations.json").write_text(json.dumps(entries))
    return wild


def write_scannet(root, frames=(0, 15, 30), names=((707, 0, 0, 15), (707, 0, 15, 30)), size=(640, 480)):
    """Write a room of frames whose cameras turn by a degree a frame, and a list of pairs."""
    room = root / ROOM / "scene0707_00"
    for frame in frames:
        picture(room / "color" / f"{frame}.jpg", *size, frame)
        whole_numbers(room / "depth" / f"{frame}.png", np.full((480, 640), 1500))
        angle = math.radians(frame)
        pose = np.eye(4)
        pose[:3, :3] = [[math.cos(angle), 0, math.sin(angle)], [0, 1, 0], [-math.sin(angle), 0, math.cos(angle)]]
        (room / "pose").mkdir(exist_ok=True)
        np.savetxt(room / "pose" / f"{frame}.txt", pose)
    np.savez(root / ROOM / "test.npz", name=np.array(names, dtype=np.uint16))
    camera = np.array([[577.0, 0, 319.5], [0, 578, 239.5], [0, 0, 1]])
    np.savez(root / ROOM / "intrinsics.npz", scene0707_00=camera)
    return room
