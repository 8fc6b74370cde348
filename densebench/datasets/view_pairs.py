"""Data sets of pairs of views: two pictures of one surface, with the depth, the camera and the pose of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float

from densebench.datasets.dataset import Dataset, Item, limited
from densebench.datasets.io.decoding import opened
from densebench.errors import UserError
from densebench.files.atomic import digest

WHOLE_NUMBERS = ("I;16", "I;16B", "I;16L", "I;16N", "I")  # modes that Pillow gives a PNG of 16 bits


@dataclass(frozen=True)
class Camera:
    """A pinhole camera: focal lengths and principal point, from the left upper corner, in px of `width` x `height` px."""

    width: float
    height: float
    focal: tuple[float, float]
    centre: tuple[float, float]

    def resized(self, width: float, height: float) -> Camera:
        """Return the camera whose picture was resized to this width and height."""
        x, y = width / self.width, height / self.height
        focal, centre = (self.focal[0] * x, self.focal[1] * y), (self.centre[0] * x, self.centre[1] * y)
        return Camera(width, height, focal, centre)


@dataclass(frozen=True, eq=False)
class ViewPair:
    """Two pictures of one surface: a point x in the source camera's frame is at `rotation` x + `translation` in the target's.

    Frames have x to the right, y down and z into the picture, in metres. category: the object or the scene.
    """

    name: str
    source: Item
    target: Item
    category: str
    source_camera: Camera
    target_camera: Camera
    rotation: Float[np.ndarray, "3 3"]
    translation: Float[np.ndarray, "3"]

    def facts(self) -> list[Any]:
        """Return all that the files say about the pair, as JSON values."""
        cameras = [[each.width, each.height, *each.focal, *each.centre] for each in (self.source_camera, self.target_camera)]
        named = [self.name, self.source.name, self.target.name, self.category]
        return [*named, *cameras, self.rotation.tolist(), self.translation.tolist()]


@dataclass(frozen=True, kw_only=True)
class ViewPairs(Dataset):
    """Base of data sets of views; a subclass gives `list_pairs` and `depth`. Items are pictures, each once.

    Limits count pairs.
    """

    kind: ClassVar[str] = "view pairs"

    def list_pairs(self, split: str) -> Iterable[ViewPair]:
        """Return the pairs of a split in an order that is the same everywhere. Raises UserError naming the broken file."""
        raise NotImplementedError

    def depth(self, item: Item) -> Float[np.ndarray, "h w"]:
        """Return the depth z of each pixel in metres, 0 where it is unknown; it may differ in size from the picture.

        Raises UserError naming the file when it is missing or broken.
        """
        raise NotImplementedError

    def depth_digest(self, item: Item) -> str:
        """Return the identity of what `depth` returns: `label` is the file of the depth."""
        return super().label_digest(item)

    def pairs(self, split: str, limit: int | None = None) -> list[ViewPair]:
        """Return the pairs of a split; with a limit, at most that many, evenly spaced."""
        self.items(split)  # checks the split and the names
        return limited(list(self.list_pairs(split)), limit)

    def list_items(self, split: str) -> list[Item]:
        """Return the pictures of all pairs, in the order in which they come first."""
        return pictures_of_views(self.list_pairs(split))

    def part(self, split: str, limit: int | None) -> list[Item]:
        """Return the pictures of a split; with a limit, those of at most that many pairs."""
        return pictures_of_views(self.pairs(split, limit))

    def digest(self, split: str, items: Iterable[Item]) -> str:
        """Return the identity of pictures of a split and of their depth, and of all pairs of the split that lie in them."""
        items = tuple(items)
        names = {item.name for item in items}
        pairs = [pair.facts() for pair in self.pairs(split) if {pair.source.name, pair.target.name} <= names]
        depths = [self.depth_digest(item) for item in items]
        return digest([split, self.mapping, [item.name for item in items], self.image_digests(items), depths, pairs])

    def label(self, item: Item) -> np.ndarray:
        """Raise UserError: a data set of views has no label maps."""
        raise UserError(f"{self.name} has pairs of views, no label maps; protocols of segmentation need another data set")

    def label_digest(self, item: Item) -> str:
        """Return the identity of the depth."""
        return self.depth_digest(item)

    def facts(self) -> dict[str, Any]:
        """Return what a record says about the depth and the pairs."""
        return {"mapping": self.mapping}

    def read(self, item: Item) -> None:
        """Read a picture and its depth."""
        self.image(item)
        self.depth(item)


def pictures_of_views(pairs: Iterable[ViewPair]) -> list[Item]:
    """Return the pictures of pairs, each once, in the order in which they come first."""
    return list(dict.fromkeys(item for pair in pairs for item in (pair.source, pair.target)))


def read_whole_numbers(path: Path) -> Float[np.ndarray, "h w"]:
    """Return the values of a PNG with one channel of 16 bits. Raises UserError where it is missing, broken or of another kind."""
    with opened(path, f"the depth map {path}") as picture:
        if picture.mode not in WHOLE_NUMBERS:
            raise UserError(f"the depth map {path} has mode {picture.mode}, not one channel of 16 bits; fetch it again")
        return np.array(picture).astype(np.float64)


def relative_pose(
    source: Float[np.ndarray, "4 4"], target: Float[np.ndarray, "4 4"], what: str
) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3"]]:
    """Return the rotation and the translation from the source camera's frame to the target's.

    source, target: from the world to each camera's frame. Raises UserError, which names the pair as `what`, unless both are
    rigid motions.
    """
    for pose in (source, target):
        turn = pose[:3, :3]
        rigid = np.isfinite(pose).all() and np.abs(turn @ turn.T - np.eye(3)).max() < 1e-3 and np.linalg.det(turn) > 0
        if not rigid or not np.allclose(pose[3], [0, 0, 0, 1]):
            raise UserError(f"{what} has a pose that is no rotation and translation; fetch it again or leave the picture out")
    pose = target @ np.linalg.inv(source)
    return pose[:3, :3], pose[:3, 3]
