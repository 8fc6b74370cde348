"""ScanNet-1500: 1,500 pairs of views of rooms, with measured depth (Dai et al., CVPR 2017; the pairs are SuperGlue's, CVPR 2020).

Layout: scannet_test_1500/test.npz (`name`: room, sequence, frame, frame), intrinsics.npz (a camera for each scene, in px of 640
x 480) and scene<rrrr>_<ss>/{color/<i>.jpg, depth/<i>.png in millimetres, pose/<i>.txt from camera to world}. The .npz files are
read as plain arrays; one that holds Python objects is refused.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from densebench.datasets.dataset import Item, Source
from densebench.datasets.io.names import read_lines
from densebench.datasets.view_pairs import Camera, ViewPair, ViewPairs, read_whole_numbers, relative_pose
from densebench.errors import UserError
from densebench.files.atomic import check_ordinary

FOLDER = "scannet_test_1500"
SIZE = (640, 480)  # width and height of the depth maps, to which the cameras belong
PLAIN = "save it again as plain arrays: numpy.savez(FILE, **{name: array}) without dtype=object"


@dataclass(frozen=True, kw_only=True)
class ScanNet1500(ViewPairs):
    """1,500 pairs of 2,940 or so pictures of rooms."""

    name: str = "scannet1500"
    title: str = "ScanNet-1500 (pairs of views of rooms)"
    splits: tuple[str, ...] = ("test",)
    train_split: str = "test"
    val_split: str = "test"
    mapping: str = "scannet1500-v1"
    image_size_hint: int = 480
    licence: str = "ScanNet Terms of Use (non-commercial research)"

    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            "https://github.com/zju3dv/LoFTR",
            (FOLDER,),
            by_hand=f"agree to ScanNet's terms, fetch the test set of LoFTR and SuperGlue, scannet_test_1500, and unpack it to "
            f"{FOLDER}/ with test.npz and intrinsics.npz inside",
        ),
    )

    @property
    def folder(self) -> Path:
        """The folder of the scenes."""
        return self.root / FOLDER

    def list_pairs(self, split: str) -> list[ViewPair]:
        """Return the pairs in the order of test.npz."""
        cameras = {name: _camera(matrix, name) for name, matrix in self._arrays("intrinsics.npz").items()}
        return [self._pair(number, row, cameras) for number, row in enumerate(self._rows().tolist())]

    def depth(self, item: Item) -> Float[np.ndarray, "h w"]:
        """Return the depth in metres."""
        assert item.label is not None
        return read_whole_numbers(item.label) / 1000

    def _rows(self) -> Int[np.ndarray, "pairs 4"]:
        rows = self._arrays("test.npz").get("name")
        if rows is None or rows.ndim != 2 or rows.shape[1] != 4 or not np.issubdtype(rows.dtype, np.integer) or (rows < 0).any():
            raise UserError(
                f"{self.folder / 'test.npz'} must hold `name`, whole numbers [pairs, 4]: room, sequence, frames; fetch it again"
            )
        return rows.astype(np.int64)

    def _arrays(self, name: str) -> Mapping[str, np.ndarray]:
        path = self.folder / name
        if not path.is_file():
            raise UserError(f"the list {path} is missing; {self.remedy}")
        return read_plain_arrays(path)

    def _pair(self, number: int, row: list[int], cameras: Mapping[str, Camera]) -> ViewPair:
        scene, (first, second) = f"scene{row[0]:04}_{row[1]:02}", row[2:]
        if scene not in cameras:
            raise UserError(f"{self.folder / 'intrinsics.npz'} has no camera for {scene} of pair {number}; fetch it again")
        paths = (self.folder / scene / "pose" / f"{frame}.txt" for frame in (first, second))
        source, target = (np.linalg.inv(_pose(path, self.remedy)) for path in paths)
        name = f"{number:04}-{scene}-{first}-{second}"
        rotation, translation = relative_pose(source, target, f"the pair {name}")
        items = (self._item(scene, first), self._item(scene, second))
        return ViewPair(name, *items, scene, cameras[scene], cameras[scene], rotation, translation)

    def _item(self, scene: str, frame: int) -> Item:
        folder = self.folder / scene
        return Item(f"{scene}/{frame}", folder / "color" / f"{frame}.jpg", folder / "depth" / f"{frame}.png")


def read_plain_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of an .npz file. Raises UserError where it is damaged or holds objects, which only pickle could read."""
    check_ordinary(path)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except ValueError as error:
        raise UserError(f"{path} holds Python objects, which are not loaded since they may run code; {PLAIN}") from error
    except (OSError, EOFError, KeyError, TypeError, AttributeError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is no .npz file, or damaged; fetch it again") from error


def _camera(matrix: np.ndarray, scene: str) -> Camera:
    square = matrix[:3, :3] if matrix.ndim == 2 and min(matrix.shape) >= 3 else np.zeros((3, 3))
    numbers = np.issubdtype(square.dtype, np.floating) and np.isfinite(square).all()
    if not numbers or min(square[0, 0], square[1, 1]) <= 0 or square[0, 1] != 0 or square[2].tolist() != [0, 0, 1]:
        raise UserError(f"the camera of {scene} in intrinsics.npz is no matrix [[f, 0, x], [0, g, y], [0, 0, 1]]; fetch it again")
    values = square.astype(np.float64)
    return Camera(*SIZE, (float(values[0, 0]), float(values[1, 1])), (float(values[0, 2]), float(values[1, 2])))


@functools.lru_cache(maxsize=8192)
def _pose(path: Path, remedy: str) -> Float[np.ndarray, "4 4"]:
    try:
        rows = [[float(word) for word in line.split()] for _, line in read_lines(path, remedy)]
        pose = np.array(rows)
    except ValueError as error:
        raise UserError(f"the pose {path} holds something else than numbers; fetch it again") from error
    if pose.shape != (4, 4) or not np.isfinite(pose).all() or abs(np.linalg.det(pose)) < 1e-6:
        raise UserError(f"the pose {path} is no rotation and translation, 4 x 4 finite numbers; fetch it again")
    return pose
