"""UAVDT (UAV-benchmark-M): vehicles seen from drones, 50 videos of 1024 x 540 px or near, for detection.

Du et al., The Unmanned Aerial Vehicle Benchmark: Object Detection and Tracking, ECCV 2018. 30 train and 20 test videos, 24143
and 16592 frames; the test videos are those of the official evaluation code. Its categories car, truck and bus are one class
here, "vehicle", as in its detection task and the literature on it. Ignored regions are objects with `crowd` set; the official
evaluation drops all detections that lie strictly inside one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from densebench.datasets.boxes import Boxed, Objects
from densebench.datasets.dataset import Item, Source, files_in
from densebench.datasets.io.annotations import reading
from densebench.errors import UserError
from densebench.files.atomic import check_ordinary

VIDEOS = {
    "train": (
        "M0101 M0201 M0202 M0204 M0206 M0207 M0210 M0301 M0401 M0402 M0501 M0603 M0604 M0605 M0702 M0703 M0704 M0901 M0902 "
        "M1002 M1003 M1005 M1006 M1008 M1102 M1201 M1202 M1304 M1305 M1306"
    ),
    "test": (
        "M0203 M0205 M0208 M0209 M0403 M0601 M0602 M0606 M0701 M0801 M0802 M1001 M1004 M1007 M1009 M1101 M1301 M1302 M1303 M1401"
    ),
}
CATEGORIES = (1, 2, 3)  # car, truck, bus
NONE_IGNORED = ("M0209", "M0801")  # the official evaluation reads no ignored regions of these
IMAGES = "UAV-benchmark-M"
TRUTH = "UAV-benchmark-MOTD_v1.0/GT"


@dataclass(frozen=True, kw_only=True)
class Uavdt(Boxed):
    """UAV-benchmark-M/<video>/img000001.jpg (or <video>/img1/...) with UAV-benchmark-MOTD_v1.0/GT/<video>_gt_{whole,ignore}.txt.

    For training, boxes are clipped to the image, and those of which nothing remains are left out. Scoring is against all boxes
    as the files have them: the official evaluation does not clip. Items are called M0101/img000001.
    """

    name: str = "uavdt"
    title: str = "UAVDT, vehicles from drones (1 class)"
    classes: tuple[str, ...] = ("vehicle",)
    splits: tuple[str, ...] = ("train", "test")
    val_split: str = "test"
    mapping: str = "uavdt-vehicle-v2"
    licence: str = "research"

    official_counts: ClassVar[dict[str, int]] = {"train": 24143, "test": 16592}
    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            url="https://sites.google.com/view/grli-uavdt",
            gives=(IMAGES, TRUTH),
            by_hand=(
                "fetch UAV-benchmark-M.zip (images) and UAV-benchmark-MOTD_v1.0.zip (tool kit with annotations) from the page "
                f"above and unpack both in the data root, so that {IMAGES}/M0101 and {TRUTH}/M0101_gt_whole.txt exist"
            ),
        ),
    )

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the frames of the official videos of a split, in order. Raises UserError where a video is missing."""
        for video in VIDEOS[split].split():
            folder = self.root / IMAGES / video
            nested = folder / "img1"
            for image in files_in(nested if nested.is_dir() else folder, "img[0-9]*.jpg", self.remedy):
                yield Item(f"{video}/{image.stem}", image, None)

    def objects(self, item: Item) -> Objects:
        """Return the vehicles, in the order of the file, then the ignored regions, all clipped to the image."""
        whole = self.truth(item)
        boxes = np.clip(whole.boxes, 0, np.tile(np.array(self.image_size(item), np.float64), 2))
        nonempty = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
        return _vehicles(boxes[nonempty], whole.crowd[nonempty])

    def truth(self, item: Item) -> Objects:
        """Return all vehicles and ignored regions as the files have them, neither clipped nor left out."""
        vehicles, ignored = self._rows(item, "whole"), self._rows(item, "ignore")
        rows = np.concatenate([vehicles, ignored])
        boxes = np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)
        return _vehicles(boxes, np.arange(len(rows)) >= len(vehicles))

    def annotation(self, item: Item) -> Any:
        """Return left, top, width and height of vehicles and ignored regions, and the size that they are clipped to."""
        rows = [self._rows(item, kind).tolist() for kind in ("whole", "ignore")]
        return [*rows, list(self.image_size(item))]

    def _rows(self, item: Item, kind: str) -> Float[np.ndarray, "n 4"]:
        video, _, image = item.name.partition("/")
        if kind == "ignore" and video in NONE_IGNORED:
            return np.empty((0, 4))
        path = self.root / TRUTH / f"{video}_gt_{kind}.txt"
        try:
            with reading(path, self.remedy):
                check_ordinary(path)
                frames = _read(path, path.stat().st_mtime_ns, kind == "whole")
            return frames.get(int(image.removeprefix("img")), np.empty((0, 4)))
        except ValueError as error:
            raise UserError(f"{path} is no annotation of UAVDT ({error}); fetch it again") from error


def _vehicles(boxes: Float[np.ndarray, "n 4"], crowd: Bool[np.ndarray, "n"]) -> Objects:
    return Objects(boxes, np.zeros(len(boxes), np.int64), crowd, (boxes[:, 2:] - boxes[:, :2]).prod(axis=1))


@functools.lru_cache(maxsize=128)
def _read(path: Path, changed: int, vehicles: bool) -> dict[int, Float[np.ndarray, "n 4"]]:
    """Return frame -> left, top, width, height of each object. Columns: frame, target, box, out of view, occlusion, category."""
    by_frame: dict[int, list[list[float]]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        values = [float(value) for value in line.strip().rstrip(",").split(",")]
        if len(values) < (9 if vehicles else 6) or not np.isfinite(values).all():
            raise ValueError(f"line {number} is {line!r}")
        if vehicles and values[8] not in CATEGORIES:
            raise ValueError(f"line {number} has category {values[8]:g}, not one of {', '.join(map(str, CATEGORIES))}")
        by_frame.setdefault(int(values[0]), []).append(values[2:6])
    return {frame: np.array(rows) for frame, rows in by_frame.items()}
