"""How pictures with depth are cut and resized before the backbone sees them, and which points of the surface they show then.

- object: a square around what has depth, as Probe3D treats NAVI: short side to `size` px and a square from the middle, then the
  smallest square around the depth, resized to `size` px again. All steps take nearest pixels (the one under the corner, as
  torch's "nearest" does), so a step is a choice of rows and columns. The principal point is the picture's.
- fixed: the picture squashed to `size` x 3/4 `size` px by PIL's bilinear filter, as Probe3D treats ScanNet.
- whole: the picture at a longer side of `size` px, by PIL's bilinear filter; each side is rounded to a multiple of the stride.

Points are those of every fourth pixel (`step`). object: pixels 0, 4, 8, ... with their own centres. fixed: the depth of pixels
0, 4, 8, ... at the centres of the cells of 4 x 4 px, in px of a quarter: Probe3D's shift of 1.5 px, which both views have
alike. whole: the centres of the cells of 4 x 4 px, with the depth of the pixel there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.view_pairs import Camera, ViewPairs
from densebench.evals.geometric_correspondence.geometry import unprojected
from densebench.features.views import View, to_tensor
from densebench.files.atomic import digest
from densebench.numerics.device_copy import on_device

Kind = Literal["object", "fixed", "whole"]
Axes = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Frame:
    """How one picture is cut and resized. box: top, bottom, left and right of the square of an object, px of the first square."""

    kind: Kind
    size: int
    stride: int
    box: tuple[int, int, int, int] | None = None

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """Return the height and width in px of what becomes of a picture; thresholds in px are of it, but for `fixed`."""
        if self.kind == "object":
            return self.size, self.size
        if self.kind == "fixed":
            return self.size * 3 // 4, self.size
        rows, columns = (side * self.size / max(width, height) for side in (height, width))
        return max(1, round(rows)), max(1, round(columns))

    def image(self, picture: Image.Image) -> Image.Image:
        """Return the picture cut and resized, RGB."""
        height, width = self.shape(*picture.size)
        if self.box is not None:
            rows, columns = square_indices(picture.height, picture.width, self.size)
            pixels = np.asarray(picture)[rows[slice(*self.box[:2])]][:, columns[slice(*self.box[2:])]]
            return Image.fromarray(np.ascontiguousarray(nearest_resized(pixels, height, width)))
        if self.kind == "whole":
            fitting = View(self.stride)
            height, width = fitting.fit(height), fitting.fit(width)
        return picture if picture.size == (width, height) else picture.resize((width, height), Image.Resampling.BILINEAR)


def nearest_indices(before: int, after: int) -> Int[np.ndarray, "after"]:
    """Return which of `before` pixels each of `after` pixels takes by torch's "nearest": the one under its first edge."""
    scale = np.float32(before) / np.float32(after)
    return np.minimum((np.arange(after, dtype=np.float32) * scale).astype(np.int64), before - 1)


def nearest_resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return an array `[h, w, ...]` resized by `nearest_indices`."""
    return pixels[nearest_indices(pixels.shape[0], height)][:, nearest_indices(pixels.shape[1], width)]


def square_indices(height: int, width: int, size: int) -> tuple[Int[np.ndarray, "size"], Int[np.ndarray, "size"]]:
    """Return the rows and columns of a picture that its middle square takes, the short side being resized to `size` px.

    The long side is rounded down and the corner to the nearest pixel (ties to even), as torchvision does.
    """
    short = min(height, width)
    sides = [size if side == short else int(size * side / short) for side in (height, width)]
    starts = [round((side - size) / 2) for side in sides]
    pairs = zip((height, width), sides, starts, strict=True)
    rows, columns = (nearest_indices(before, after)[start : start + size] for before, after, start in pairs)
    return rows, columns


def object_box(seen: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return top, bottom, left and right of the square around what is seen, a mask [size, size]; None where it has no extent.

    As Probe3D's: the last row and column stay outside, the square is centred on the shorter side, or, where that leaves the
    picture, moved up and left as far as it can be.
    """
    rows, columns = np.nonzero(seen)
    if not len(rows):
        return None
    first = np.array([rows.min(), columns.min()])
    extent = np.array([rows.max(), columns.max()]) - first
    side, spare = int(extent.max()), extent.max() - extent
    start = first - spare // 2
    if (start < 0).any() or (start + side > np.array(seen.shape)).any():
        start = (first - spare).clip(0)
    stop = np.minimum(start + side, np.array(seen.shape))
    return (int(start[0]), int(stop[0]), int(start[1]), int(stop[1])) if side else None


def frame_of(dataset: ViewPairs, item: Item, kind: Kind, size: int, stride: int) -> Frame | None:
    """Return how a picture is cut and resized; None where it shows no surface with a known depth."""
    depth = dataset.depth(item)
    if not (depth > 0).any():
        return None
    if kind != "object":
        return Frame(kind, size, stride)
    rows, columns = square_indices(depth.shape[0], depth.shape[1], size)
    box = object_box(depth[rows][:, columns] > 0)
    return None if box is None else Frame(kind, size, stride, box)


@dataclass(frozen=True, kw_only=True)
class Framed(Dataset):
    """The pictures of a data set as their frames show them."""

    source: ViewPairs
    frames: Mapping[str, Frame]

    def image(self, item: Item) -> Image.Image:
        """Return the picture cut and resized, RGB."""
        return self.frames[item.name].image(self.source.image(item))

    def image_size(self, item: Item) -> tuple[int, int]:
        """Return the width and height of the picture that `image` returns."""
        frame = self.frames[item.name]
        height, width = frame.shape(*self.source.image_size(item))
        fit = View(frame.stride).fit if frame.kind == "whole" else int
        return fit(width), fit(height)

    def image_digest(self, item: Item) -> str:
        """Return the identity of the picture and of its frame."""
        frame = self.frames[item.name]
        return digest(["framed v1", self.source.image_digest(item), frame.kind, frame.size, frame.stride, list(frame.box or ())])


@dataclass(frozen=True)
class CentrePaddedView(View):
    """The picture with a border of one colour on all sides, so that the stride fits, as Probe3D pads.

    A side that fits gets a whole stride more where the other one does not fit. fill: the border's colour, 0..1 by channel: the
    colours' mean, which is 0 after normalisation.
    """

    fill: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def shape(self, width: int, height: int) -> tuple[int, int]:
        """Return the height and width of the padded picture."""
        if height % self.stride == 0 and width % self.stride == 0:
            return height, width
        return height + self.stride - height % self.stride, width + self.stride - width % self.stride

    def identity(self) -> dict[str, Any]:
        """Return the fields that decide the pixels."""
        return {"padding": "centre, probe3d", **super().identity()}

    def image(self, image: Image.Image, digest: str) -> Float[Tensor, "3 h w"]:
        """Return the padded picture, float32 in 0..1; the smaller half of the border is above and to the left."""
        pixels = to_tensor(image)
        height, width = self.shape(*image.size)
        padded = torch.tensor(self.fill)[:, None, None].repeat(1, height, width)
        top, left = (height - image.height) // 2, (width - image.width) // 2
        padded[:, top : top + image.height, left : left + image.width] = pixels
        return padded


@dataclass(frozen=True, eq=False)
class Surface:
    """What a framed picture shows. points: x, y, z in metres in the camera's frame; cells: the index of each in a grid of `grid`
    rows and columns; places: x and y of each as shares of the frame's width and height; focal: lengths in px of the
    thresholds."""

    points: Float[Tensor, "n 3"]
    cells: Int[Tensor, "n"]
    grid: tuple[int, int]
    places: Float[Tensor, "n 2"]
    focal: tuple[float, float]


def surface_of(frame: Frame, depth: Float[np.ndarray, "h w"], camera: Camera, step: int) -> Surface:
    """Return the points of a frame whose depth is known, row by row."""
    if frame.box is not None:
        return _surface_of_object(frame, frame.box, depth, camera, step)
    height, width = frame.shape(round(camera.width), round(camera.height))
    if frame.kind == "fixed":
        grid = (height // step, width // step)
        values = nearest_resized(depth, height, width)[: grid[0] * step : step, : grid[1] * step : step]
        scaled = camera.resized(width / step, height / step)
        size, y, x = (width / step, height / step), np.arange(grid[0]) + 0.5, np.arange(grid[1]) + 0.5
    else:
        grid = (max(1, height // step), max(1, width // step))
        scaled, size = camera.resized(width, height), (width, height)
        y, x = ((np.arange(count) + 0.5) * side / count for count, side in zip(grid, (height, width), strict=True))
        rows, columns = (
            np.minimum(at * full / side, full - 1).astype(np.int64)
            for at, full, side in zip((y, x), depth.shape, (height, width), strict=True)
        )
        values = depth[rows][:, columns]
    return _surface(values, (x, y), (x / size[0], y / size[1]), scaled.focal, scaled.centre, scaled.focal)


def _surface_of_object(
    frame: Frame, box: tuple[int, int, int, int], depth: Float[np.ndarray, "h w"], camera: Camera, step: int
) -> Surface:
    top, bottom, left, right = box
    rows, columns = square_indices(depth.shape[0], depth.shape[1], frame.size)
    y, x = (low + nearest_indices(high - low, frame.size)[::step] for low, high in ((top, bottom), (left, right)))
    values = depth[rows[y]][:, columns[x]]
    factor = frame.size / min(camera.width, camera.height)
    focal = (camera.focal[0] * factor, camera.focal[1] * factor)
    centre = (
        frame.size / 2 + (camera.centre[0] - camera.width / 2) * factor,
        frame.size / 2 + (camera.centre[1] - camera.height / 2) * factor,
    )
    enlarged = frame.size / min(bottom - top, right - left)
    shown = (focal[0] * enlarged, focal[1] * enlarged)
    grid = (len(y), len(x))
    shares = ((np.arange(grid[1]) + 0.5) / grid[1], (np.arange(grid[0]) + 0.5) / grid[0])
    return _surface(values, (x + 0.5, y + 0.5), shares, focal, centre, shown)


def _surface(
    depth: Float[np.ndarray, "gh gw"], at: Axes, shares: Axes, focal: tuple[float, float], centre: tuple[float, float],
    shown: tuple[float, float],
) -> Surface:  # fmt: skip
    """Return the points of a grid.

    at, shares: x of its columns and y of its rows, in px of the camera and as shares of the frame.
    """
    cells = np.flatnonzero(depth > 0)
    rows, columns = np.divmod(cells, depth.shape[1])
    pixels, places = (torch.from_numpy(np.stack([x[columns], y[rows]], 1)) for x, y in (at, shares))
    points = unprojected(pixels, torch.from_numpy(depth.ravel()[cells]), focal, centre)
    return Surface(points, torch.from_numpy(cells), (depth.shape[0], depth.shape[1]), places, shown)


def sampled(grid: Float[Tensor, "gh gw d"], surface: Surface, how: str) -> Float[Tensor, "n d"]:
    """Return the features of a surface's points, from a grid of features on any device.

    how: "bicubic" enlarges the grid to that of the points (align_corners False), "bilinear" looks up each point's place; both
    take the grid to cover the frame, with its border if it has one.
    """
    channels = grid.movedim(-1, 0)[None].float()
    if how == "bicubic":
        enlarged = F.interpolate(channels, surface.grid, mode="bicubic", align_corners=False)[0]
        return enlarged.flatten(1).T[on_device(surface.cells, grid.device)]
    places = on_device((2 * surface.places - 1).float(), grid.device)
    return F.grid_sample(channels, places[None, None], mode="bilinear", align_corners=False)[0, :, 0].T
