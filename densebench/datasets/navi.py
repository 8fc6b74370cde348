"""NAVI v1: photographs of 36 objects in the wild, with aligned depth and cameras (Jampani et al., NeurIPS 2023).

Layout: navi_v1/<object>/{multiview_<nn>_<camera>, wild_set}/{images/*.jpg, depth/*.png, annotations.json}; an annotation has
filename, image_size (height, width) and camera: q (a quaternion w, x, y, z) and t (mm), which take the object to the camera,
and focal_length (px). Depth is stored as a disparity of 16 bits: 1 / (value / 65535 / 10) mm, 0 where nothing is seen. Pictures
and depth are read from the copies downsampled_<name>, short side 1024 px, that Probe3D's script resize_navi.py makes.

Pairs, as in Probe3D: each picture of an object's `wild_set` (of the objects that have a multiview scene as well), with another
one of it whose camera is turned by more than 0 and at most 120 degrees, drawn by torch.multinomial after seed 8. Probe3D draws
in the order in which the file system lists the pictures, so no two machines need have its pairs; here objects and pictures are
sorted, and the digest of the list is in the record. Probe3D's angle of a picture with itself can come out above 0 by rounding;
here a picture is never its own partner. One without a partner is left out.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageOps

from densebench.datasets.dataset import Item, Source
from densebench.datasets.io.decoding import opened, rgb
from densebench.datasets.io.names import check_name
from densebench.datasets.view_pairs import Camera, ViewPair, ViewPairs, read_whole_numbers, relative_pose
from densebench.errors import UserError
from densebench.files.atomic import check_ordinary

if TYPE_CHECKING:  # torch is imported when pairs are drawn, not to list names
    import torch

FOLDER, SET, COPIES = "navi_v1", "wild_set", "downsampled_"
SEED, WIDEST = 8, 120.0  # of the draw of pairs, and degrees between their cameras
FULL = 65535 * 10  # a stored value over this is the disparity in 1 / mm


@dataclass(frozen=True, kw_only=True)
class Navi(ViewPairs):
    """The wild sets of NAVI, a pair for each picture."""

    name: str = "navi"
    title: str = "NAVI v1 (pairs of views of objects, wild sets)"
    splits: tuple[str, ...] = ("test",)
    train_split: str = "test"
    val_split: str = "test"
    mapping: str = "navi-v1-sorted"
    licence: str = "CC BY 4.0"

    sources: ClassVar[tuple[Source, ...]] = (
        Source(
            "https://github.com/google/navi",
            (FOLDER,),
            by_hand=f"fetch navi_v1.tar.gz, unpack it to {FOLDER}/, and make the copies {COPIES}* (short side 1024 px) with "
            "Probe3D's data_processing/resize_navi.py",
        ),
    )

    @property
    def folder(self) -> Path:
        """The folder of the objects."""
        return self.root / FOLDER

    def objects(self) -> list[str]:
        """Return the names of the objects that have a wild set and a multiview scene, sorted."""
        if not self.folder.is_dir():
            raise UserError(f"the folder {self.folder} is missing; {self.remedy}")
        names = sorted(path.name for path in self.folder.iterdir() if (path / SET).is_dir())
        return [check_name(name, f"the folder {self.folder}") for name in names if any((self.folder / name).glob("multiview_*"))]

    def list_pairs(self, split: str) -> list[ViewPair]:
        """Return a pair for every picture, drawn over sorted names."""
        import torch

        generator = torch.Generator().manual_seed(SEED)
        pairs = []
        for name in self.objects():
            found = self._annotations(name)
            poses = {key: _pose(entry, f"{name}/{SET}/{key}") for key, entry in found.items()}
            for first, second in partners(poses, generator).items():
                pairs.append(self._pair(name, first, second, found, poses))
        return pairs

    def image(self, item: Item) -> Image.Image:
        """Return the copy of a picture, upright, RGB."""
        what = f"the image {item.image}"
        assert item.image is not None
        with opened(item.image, what) as picture:
            return rgb(ImageOps.exif_transpose(picture) or picture, what)

    def image_size(self, item: Item) -> tuple[int, int]:
        """Return the width and height of the upright copy."""
        assert item.image is not None
        with opened(item.image, f"the image {item.image}", "opened") as picture:
            sideways = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
            return picture.size[::-1] if sideways else picture.size

    def depth(self, item: Item) -> Float[np.ndarray, "h w"]:
        """Return the depth in metres."""
        assert item.label is not None
        values = read_whole_numbers(item.label)
        with np.errstate(divide="ignore"):
            return np.where(values > 0, FULL / values / 1000, 0.0)

    def _annotations(self, name: str) -> dict[str, dict[str, Any]]:
        """Return the annotations of an object's pictures by the name of the file without ending, sorted."""
        folder = self.folder / name / SET
        path = folder / "annotations.json"
        try:
            check_ordinary(path)
            entries = json.loads(path.read_text(encoding="utf-8"))
            by_name = {str(entry["filename"]).split(".")[0]: entry for entry in entries}
        except OSError as error:
            raise UserError(f"the annotations {path} cannot be read ({error.strerror}); {self.remedy}") from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise UserError(f"the annotations {path} are no list of pictures with a filename; fetch them again") from error
        images = folder / "images"
        listed = [path.name for path in images.iterdir()] if images.is_dir() else []
        keys = sorted({file.split(".")[0] for file in listed if "jpg" in file and "_" not in file.split(".")[0]})
        if lone := next((key for key in keys if key not in by_name), None):
            raise UserError(f"the picture {images / lone}.jpg has no annotation in {path}; fetch both again")
        return {check_name(key, f"the folder {images}"): by_name[key] for key in keys}

    def _pair(
        self, name: str, first: str, second: str, found: dict[str, dict[str, Any]], poses: dict[str, np.ndarray]
    ) -> ViewPair:
        label = f"{name}-{first}-{second}"
        source, target = (_camera(found[key], f"{name}/{SET}/{key}") for key in (first, second))
        rotation, translation = relative_pose(poses[first], poses[second], f"the pair {label}")
        items = (self._item(name, first), self._item(name, second))
        return ViewPair(label, *items, name, source, target, rotation, translation)

    def _item(self, name: str, key: str) -> Item:
        folder = self.folder / name / SET
        return Item(f"{name}/{key}", folder / "images" / f"{COPIES}{key}.jpg", folder / "depth" / f"{COPIES}{key}.png")


def partners(poses: dict[str, Float[np.ndarray, "4 4"]], generator: torch.Generator) -> dict[str, str]:
    """Return for each picture another one whose camera is turned by more than 0 and at most WIDEST degrees, drawn uniformly."""
    import torch

    names = list(poses)
    turns = np.stack([pose[:3, :3] for pose in poses.values()]) if names else np.zeros((0, 3, 3))
    cosines = (np.einsum("iab,jab->ij", turns, turns) - 1) / 2
    angles = np.degrees(np.arccos(cosines.clip(-1, 1)))
    np.fill_diagonal(angles, 0)
    near = torch.from_numpy(((angles > 0) & (angles <= WIDEST)).astype(np.float32))
    drawn = {}
    for row, name in enumerate(names):
        if near[row].any():
            drawn[name] = names[int(torch.multinomial(near[row], 1, generator=generator))]
    return drawn


def _numbers(entry: Any, keys: tuple[str, ...], count: int, what: str) -> list[float]:
    """Return the numbers under nested keys of an annotation."""
    try:
        for key in keys:
            entry = entry[key]
        values = [float(value) for value in (entry if isinstance(entry, list) else [entry])]
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"the annotation of {what} has no numbers {'.'.join(keys)}; fetch it again") from error
    if len(values) != count or not all(map(math.isfinite, values)):
        raise UserError(f"the annotation of {what}: {'.'.join(keys)} must be {count} finite numbers; fetch it again")
    return values


def _camera(entry: dict[str, Any], what: str) -> Camera:
    height, width = _numbers(entry, ("image_size",), 2, what)
    [focal] = _numbers(entry, ("camera", "focal_length"), 1, what)
    if min(height, width, focal) <= 0:
        raise UserError(
            f"the annotation of {what} has a picture of {width:g} x {height:g} px and a focal length of {focal:g}; fetch it again"
        )
    return Camera(width, height, (focal, focal), (width / 2, height / 2))


def _pose(entry: dict[str, Any], what: str) -> Float[np.ndarray, "4 4"]:
    """Return the motion from the object to the camera, metres."""
    quaternion = np.array(_numbers(entry, ("camera", "q"), 4, what))
    if not (quaternion @ quaternion) > 0:
        raise UserError(f"the annotation of {what} has a quaternion of length 0; fetch it again")
    pose = np.eye(4)
    pose[:3, :3] = turn_of(quaternion)
    pose[:3, 3] = np.array(_numbers(entry, ("camera", "t"), 3, what)) / 1000
    return pose


def turn_of(quaternion: Float[np.ndarray, "4"]) -> Float[np.ndarray, "3 3"]:
    """Return the rotation of a quaternion w, x, y, z of any length."""
    w, x, y, z = (quaternion / np.linalg.norm(quaternion)).tolist()
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    return np.array(rows)
