"""Generated pairs of jointed figures with keypoints: for a first run of what takes pairs, and for rehearsals.

Every picture of 128 x 128 px shows one figure before a ground of another texture. A figure has a core and four limbs, each with a
disc at its end. A category says which texture each part has and in which direction each limb points; the textures of a category
differ, so that what a part is can be seen. A figure is turned by up to 75 degrees, scaled and moved, its limbs bend and stretch,
and grain lies over all: the same part is mostly elsewhere in the other picture. Keypoints are the centres of the core and of the
discs, as far as they are seen. A picture is a function of (VERSION, split, index), drawn as `scenes` are; nothing is downloaded.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
from PIL import Image

from densebench.datasets.dataset import Item
from densebench.datasets.keypoints import Box, KeypointPairs, Pair
from densebench.datasets.scenes import GRAIN, SEEDS, SIZE, STUFF, Draw, paint
from densebench.files.atomic import digest

VERSION = 1  # raise it whenever a picture or a pair changes
IN_CATEGORY = {"train": 12, "val": 8}
STEPS = (1, 2, 3)  # each picture is the source of the pairs with the next ones of its category, these steps on
FIGURES = {
    "kite": ("dots", ("stripes", 90), ("bricks", 200), ("ripples", 340), ("checks", 270)),
    "crab": ("checks", ("rings", 30), ("dots", 150), ("grit", 215), ("stripes", 325)),
    "crane": ("bricks", ("clouds", 60), ("rings", 100), ("stripes", 240), ("dots", 300)),
    "moth": ("stripes", ("checks", 45), ("clouds", 135), ("rings", 225), ("bricks", 315)),
}
"""Category -> the texture of the core, and of each limb the texture and the direction in degrees."""
UNIT = (22.0, 38.0)  # px, the distance of a limb's end from the centre, before it stretches
CORE, DISC, BAR = 0.42, 0.36, 0.13  # radii and half a width, in units
TURN, BEND, STRETCH, SHIFT = 75.0, 18.0, 0.15, 16.0  # at most: degrees, degrees, a share, px
LEVELS = {"viewpoint": (25.0, 60.0), "scale": (1.15, 1.35)}
"""From which difference of angle in degrees, and from which ratio of size, a pair is of level 1 and of level 2."""


class Figure(NamedTuple):
    """A picture, uint8 [128, 128, 3], and its figure: keypoints in px, which are seen, the box, the angle and the unit."""

    image: np.ndarray
    points: np.ndarray
    seen: np.ndarray
    box: Box
    angle: float
    unit: float


@functools.lru_cache(maxsize=len(FIGURES) * sum(IN_CATEGORY.values()))
def render(split: str, index: int) -> Figure:
    """Return one picture and its figure."""
    draw = Draw(VERSION, SEEDS[split], index)
    core, *limbs = FIGURES[_category(split, index)]
    y, x = np.mgrid[0:SIZE, 0:SIZE] + 0.5
    centre = SIZE / 2 + draw.uniform(-SHIFT, SHIFT, (2,))
    angle, unit = float(draw.uniform(-TURN, TURN)), float(draw.uniform(*UNIT))
    grounds = [texture for texture in STUFF if texture not in dict(limbs)]
    canvas = paint(draw, grounds[draw.integer(len(grounds))], y.ravel(), x.ravel(), (6, 12)).reshape(SIZE, SIZE, 3)
    part, points = np.full((SIZE, SIZE), -1), [centre]
    for number, (texture, direction) in enumerate(limbs, 1):
        bend, reach = direction + draw.uniform(-BEND, BEND), unit * (1 + draw.uniform(-STRETCH, STRETCH))
        way = np.array([np.cos(np.deg2rad(bend + angle)), np.sin(np.deg2rad(bend + angle))])
        end = centre + reach * way
        along, across = (x - centre[0]) * way[0] + (y - centre[1]) * way[1], (x - centre[0]) * way[1] - (y - centre[1]) * way[0]
        bar = (np.abs(across) < BAR * unit) & (along > 0) & (along < reach)
        _fill(canvas, part, bar | (np.hypot(x - end[0], y - end[1]) < DISC * unit), number, draw, texture, y - end[1], x - end[0])
        points.append(end)
    _fill(canvas, part, np.hypot(x - centre[0], y - centre[1]) < CORE * unit, 0, draw, core, y - centre[1], x - centre[0])
    image = np.rint(255 * (canvas + draw.uniform(-GRAIN / 2, GRAIN / 2, (SIZE, SIZE, 3))).clip(0, 1)).astype(np.uint8)
    image.flags.writeable = False
    rows, columns = np.nonzero(part >= 0)
    box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
    return Figure(image, np.array(points), _seen(np.array(points), part), box, angle, unit)


def _fill(
    canvas: np.ndarray,
    part: np.ndarray,
    inside: np.ndarray,
    number: int,
    draw: Draw,
    texture: str,
    dy: np.ndarray,
    dx: np.ndarray,
) -> None:
    canvas[inside] = paint(draw, texture, dy[inside], dx[inside], (5, 8))
    part[inside] = number


def _seen(points: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Return which keypoints lie in the picture on a pixel of their own part."""
    columns, rows = np.floor(points).astype(np.int64).T
    inside = (columns >= 0) & (columns < SIZE) & (rows >= 0) & (rows < SIZE)
    shown = part[rows.clip(0, SIZE - 1), columns.clip(0, SIZE - 1)]
    return inside & (shown == np.arange(len(points)))


@dataclass(frozen=True, kw_only=True)
class ScenesKeypoints(KeypointPairs):
    """144 train and 96 val pairs of 48 and 32 pictures, generated."""

    name: str = "scenes-keypoints"
    title: str = "Pairs of figures with keypoints, generated (4 classes)"
    classes: tuple[str, ...] = tuple(FIGURES)
    mapping: str = f"scenes-keypoints-v{VERSION}"
    image_size_hint: int = SIZE
    licence: str = "generated, no restrictions"

    official_counts: ClassVar[dict[str, int]] = {split: len(FIGURES) * count for split, count in IN_CATEGORY.items()}
    official_pairs: ClassVar[dict[str, int]] = {split: len(STEPS) * count for split, count in official_counts.items()}

    def list_pairs(self, split: str) -> Iterator[Pair]:
        """Yield the pairs of a category after those of the one before."""
        count = IN_CATEGORY[split]
        for start in range(0, len(FIGURES) * count, count):
            for step in STEPS:
                yield from (_pair(split, start + number, start + (number + step) % count) for number in range(count))

    def image(self, item: Item) -> Image.Image:
        """Return the rendered picture, RGB."""
        return Image.fromarray(render(*_key(item)).image)

    def image_size(self, item: Item) -> tuple[int, int]:
        """Return 128 x 128."""
        return SIZE, SIZE

    def image_digest(self, item: Item) -> str:
        """Return the digest of the generator's version and the item's name, which decide every pixel."""
        return digest(["scenes-keypoints image", VERSION, item.name])


def _pair(split: str, first: int, second: int) -> Pair:
    source, target = render(split, first), render(split, second)
    shared = np.flatnonzero(source.seen & target.seen)
    differences = {
        "viewpoint": abs(source.angle - target.angle),
        "scale": max(source.unit, target.unit) / min(source.unit, target.unit),
    }
    levels = tuple((name, int(np.digitize(differences[name], limits))) for name, limits in LEVELS.items())
    items = [Item(f"{split}-{index:02}", None, None) for index in (first, second)]
    points, boxes = [figure.points[shared] for figure in (source, target)], (source.box, target.box)
    name, category = f"{split}-{first:02}-{second:02}", _category(split, first)
    return Pair(name, items[0], items[1], category, points[0], points[1], shared, *boxes, levels)


def _category(split: str, index: int) -> str:
    return list(FIGURES)[index // IN_CATEGORY[split]]


def _key(item: Item) -> tuple[str, int]:
    split, _, index = item.name.partition("-")
    return split, int(index)
