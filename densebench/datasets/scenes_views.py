"""Generated pairs of views with exact depth: for a first run of what takes pairs of views, and for rehearsals.

A textured wall and a few textured panels in front of it, each a flat rectangle that is turned a little, are seen by two cameras
that look at one point from up to 45 degrees to either side. Each pixel's ray is intersected with every plane, so that depth is
exact and what a panel hides is hidden. A pair is a function of (VERSION, index), drawn as `scenes` are; nothing is downloaded.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float
from PIL import Image

from densebench.datasets.dataset import Item
from densebench.datasets.scenes import SIZE, STUFF, THINGS, Draw, paint
from densebench.datasets.view_pairs import Camera, ViewPair, ViewPairs, relative_pose
from densebench.files.atomic import digest

VERSION = 1  # raise it whenever a pixel changes
SEED = 2024
COUNT = 16  # pairs
FOCAL = 140.0  # px
DISTANCE = 1.0  # metres from the cameras to the point that they look at
PANELS = 4
NEVER = 1e9  # metres: where a ray meets nothing


def _turn(yaw: float, pitch: float, roll: float) -> Float[np.ndarray, "3 3"]:
    (a, b), (c, d), (e, f) = ((math.cos(angle), math.sin(angle)) for angle in (yaw, pitch, roll))
    about_y, about_x = np.array([[a, 0, b], [0, 1, 0], [-b, 0, a]]), np.array([[1, 0, 0], [0, c, -d], [0, d, c]])
    return about_y @ about_x @ np.array([[e, -f, 0], [f, e, 0], [0, 0, 1]])


@functools.lru_cache(maxsize=COUNT)
def planes(index: int) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Return the rectangles of a pair: the centre [3] in metres, the rotation [3, 3] whose first two columns span it, half its
    side.

    The world's origin is what the cameras look at; the first rectangle is the wall behind it, without an end.
    """
    draw = Draw(VERSION, SEED, index)
    wall = (np.array([0.0, 0.0, 0.35]), _turn(*draw.uniform(-0.15, 0.15, (3,))), NEVER)
    panels = []
    for number in range(PANELS):
        corner = np.array([number % 2 - 0.5, number // 2 - 0.5]) * 0.36
        centre = np.array([*(corner + draw.uniform(-0.06, 0.06, (2,))), draw.uniform(-0.1, 0.2)])
        panels.append((centre, _turn(*draw.uniform(-0.4, 0.4, (3,))), float(draw.uniform(0.08, 0.14))))
    return [wall, *panels]


@functools.lru_cache(maxsize=2 * COUNT)
def pose(index: int, view: int) -> Float[np.ndarray, "4 4"]:
    """Return the motion from the world to the camera of view 0 or 1 of a pair."""
    draw = Draw(VERSION, SEED, index, 100)
    half = math.radians(45) * (index + 0.5) / COUNT  # so that pairs spread over all angles
    yaw, found = (half, -half)[view], np.eye(4)
    for _ in range(view + 1):
        tilt = draw.uniform(-0.08, 0.08, (2,)).tolist()
    found[:3, :3] = _turn(yaw, *tilt)
    found[2, 3] = DISTANCE
    return found


@functools.lru_cache(maxsize=2 * COUNT)
def render(index: int, view: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one view: the picture uint8 [128, 128, 3] and its depth in metres, float64 [128, 128]."""
    motion = pose(index, view)
    y, x = (np.mgrid[0:SIZE, 0:SIZE] + 0.5 - SIZE / 2) / FOCAL
    rays: np.ndarray = np.stack(
        [x.ravel(), y.ravel(), np.ones(SIZE * SIZE)], 1
    )  # in the camera's frame: z is the depth of the hit
    origin, directions = -motion[:3, :3].T @ motion[:3, 3], rays @ motion[:3, :3]
    depth, colour = np.full(len(rays), NEVER), np.zeros((len(rays), 3))
    for number, (centre, turn, half) in enumerate(planes(index)):
        along = directions @ turn[:, 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            z = ((centre - origin) @ turn[:, 2]) / along
        local = (origin + z[:, None] * directions - centre) @ turn[:, :2]
        hit = np.isfinite(z) & (z > 0) & (z < depth) & (np.abs(local) <= half).all(1)
        kind = (STUFF + THINGS)[Draw(VERSION, SEED, index, number, 7).integer(len(STUFF + THINGS))]
        painted = paint(Draw(VERSION, SEED, index, number, 8), kind, 200 * local[:, 1], 200 * local[:, 0], (9, 14))
        depth, colour = np.where(hit, z, depth), np.where(hit[:, None], painted, colour)
    image = np.rint(255 * colour.clip(0, 1)).astype(np.uint8).reshape(SIZE, SIZE, 3)
    square = depth.reshape(SIZE, SIZE)
    image.flags.writeable = square.flags.writeable = False
    return image, square


@dataclass(frozen=True, kw_only=True)
class ScenesViews(ViewPairs):
    """16 pairs of views of 128 x 128 px, generated; the cameras of pair i are i x 5.6 + 2.8 degrees apart, and a little more."""

    name: str = "scenes-views"
    title: str = "Pairs of views, generated (depth and cameras)"
    splits: tuple[str, ...] = ("test",)
    train_split: str = "test"
    val_split: str = "test"
    mapping: str = f"scenes-views-v{VERSION}"
    image_size_hint: int = SIZE
    licence: str = "generated, no restrictions"

    official_counts: ClassVar[dict[str, int]] = {"test": 2 * COUNT}

    def list_pairs(self, split: str) -> list[ViewPair]:
        """Return the pairs: pair-00, pair-01, ..."""
        camera = Camera(SIZE, SIZE, (FOCAL, FOCAL), (SIZE / 2, SIZE / 2))
        pairs = []
        for index in range(COUNT):
            name = f"pair-{index:02}"
            first, second = (Item(f"{name}/{view}", None, None) for view in range(2))
            turned = relative_pose(pose(index, 0), pose(index, 1), name)
            pairs.append(ViewPair(name, first, second, name, camera, camera, *turned))
        return pairs

    def image(self, item: Item) -> Image.Image:
        """Return the rendered view, RGB."""
        return Image.fromarray(render(*_key(item))[0])

    def depth(self, item: Item) -> Float[np.ndarray, "h w"]:
        """Return the depth in metres."""
        return render(*_key(item))[1]

    def image_size(self, item: Item) -> tuple[int, int]:
        """Return 128 x 128."""
        return SIZE, SIZE

    def image_digest(self, item: Item) -> str:
        """Return the digest of the generator's version and the item's name, which decide every pixel."""
        return digest(["scenes-views image", VERSION, item.name])

    def depth_digest(self, item: Item) -> str:
        """Return the digest of the generator's version and the item's name, for the depth."""
        return digest(["scenes-views depth", VERSION, item.name])


def _key(item: Item) -> tuple[int, int]:
    pair, _, view = item.name.partition("/")
    return int(pair.removeprefix("pair-")), int(view)
