"""Scenes: generated images with labels, for a first run, for tests and for demonstrations. Nothing is downloaded.

Every image of 128 x 128 pixels shows three kinds of stuff in bands with wavy borders and two to five objects of five classes
that may hide each other. What a thing is lies in its texture and its shape; its colour is a hint, as in photographs: every
class has a hue that it tends to, and neighbouring hues overlap. Scale, orientation, contrast and light vary, and strong grain
lies over all of it. So a patch's mean colour says something about its class but not much, single pixels say little, and good
features must see through the grain.

An image is a function of (VERSION, split, index): it is drawn when it is read. Randomness comes from the raw 64-bit words
of PCG64, whose stream NumPy guarantees; arithmetic is in double precision and only the last step rounds to 8 bits, so that a
last-digit difference in a sine between machines stays far below what could change a pixel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from densebench.datasets.dataset import Dataset, Item
from densebench.datasets.label_maps import IGNORED
from densebench.files.atomic import digest

VERSION = 2  # raise it whenever an image changes
COUNTS = {"train": 256, "val": 64}
SIZE = 128  # pixels
STUFF = ("clouds", "grit", "ripples")
THINGS = ("stripes", "checks", "dots", "rings", "bricks")
SEEDS = {"train": 0, "val": 1}
HUE_SPREAD, CHROMA = 0.08, 0.06  # turns; amplitude of a hue in each channel
GRAIN = 0.4  # largest noise of a pixel


class Draw:
    """Random numbers that are the same on every machine and with every release of NumPy."""

    def __init__(self, *key: int) -> None:
        self.bits = np.random.PCG64(list(key))

    def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> np.ndarray:
        """Return numbers that are uniform in [low, high)."""
        words = self.bits.random_raw(math.prod(shape)) if shape else np.uint64(self.bits.random_raw())
        return low + (high - low) * (np.asarray(words >> np.uint64(11), np.float64) * 2.0**-53).reshape(shape)

    def integer(self, count: int) -> int:
        """Return a number that is uniform in 0..count-1."""
        return int(self.uniform(0, count))

    def order(self, count: int) -> list[int]:
        """Return a random permutation."""
        return np.argsort(self.uniform(shape=(count,)), kind="stable").tolist()


def value_noise(draw: Draw, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return smooth noise in [-1, 1] with features one unit wide: random values on a lattice, blended by a smoothstep."""
    grid = draw.uniform(-1, 1, (64, 64))
    i, j = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    a, b = u - i, v - j
    a, b = a * a * (3 - 2 * a), b * b * (3 - 2 * b)
    top = grid[i % 64, j % 64] * (1 - a) + grid[(i + 1) % 64, j % 64] * a
    low = grid[i % 64, (j + 1) % 64] * (1 - a) + grid[(i + 1) % 64, (j + 1) % 64] * a
    return top * (1 - b) + low * b


def _sharp(wave: np.ndarray, gain: float = 3.0) -> np.ndarray:
    return np.clip(gain * wave, -1, 1)


def clouds(draw: Draw, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return soft blobs, two periods wide: like every texture, values in [-1, 1] at coordinates u, v in periods."""
    return _sharp(value_noise(draw, u / 2, v / 2) + 0.3 * value_noise(draw, u, v), 1.5)


def grit(draw: Draw, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return fine grains in all directions, a third of a period wide."""
    return _sharp(value_noise(draw, 3 * u, 3 * v))


def ripples(draw: Draw, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return grains drawn out along one direction."""
    return _sharp(value_noise(draw, 0.35 * u, 2.5 * v), 2.0)


def stripes(draw: Draw, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return parallel bars."""
    return _sharp(np.sin(2 * math.pi * u))


def checks(draw: Draw, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return a chessboard."""
    return _sharp(np.sin(math.pi * u) * np.sin(math.pi * v), 5.0)


def dots(draw: Draw, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return round spots on a square lattice."""
    return _sharp(np.cos(2 * math.pi * u) + np.cos(2 * math.pi * v) - 0.9, 2.0)


def rings(draw: Draw, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return circles around the object's centre."""
    return _sharp(np.sin(2 * math.pi * np.hypot(u, v)))


def bricks(draw: Draw, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Return courses of bricks, each shifted by half a brick, with thin joints."""
    course = np.floor(v)
    across = np.abs((u / 2 + 0.5 * (course % 2)) % 1 - 0.5) * 2
    along = np.abs(v % 1 - 0.5)
    return _sharp(np.minimum(0.5 - along, 1 - across) - 0.12, 12.0)


TEXTURES: dict[str, Callable[[Draw, np.ndarray, np.ndarray], np.ndarray]] = {
    "clouds": clouds, "grit": grit, "ripples": ripples,
    "stripes": stripes, "checks": checks, "dots": dots, "rings": rings, "bricks": bricks,
}  # fmt: skip

SHAPES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "stripes": lambda p, q: (p / 1.2) ** 2 + (q / 0.8) ** 2 < 1,
    "checks": lambda p, q: np.maximum(np.abs(p), np.abs(q)) < 0.85,
    "dots": lambda p, q: np.maximum(-q, 0.5 * q + 0.866 * np.abs(p)) < 0.65,
    "rings": lambda p, q: p**2 + q**2 < 1,
    "bricks": lambda p, q: np.maximum(np.abs(p) / 1.3, np.abs(q) / 0.65) < 1,
}


def paint(draw: Draw, name: str, y: np.ndarray, x: np.ndarray, period: tuple[float, float]) -> np.ndarray:
    """Return a textured surface near the hue of its class, float [n, 3] around 0..1, at n points y, x given in pixels from its
    centre."""
    angle, scale = draw.uniform(0, 2 * math.pi), draw.uniform(*period)
    u, v = (np.cos(angle) * x + np.sin(angle) * y) / scale, (np.cos(angle) * y - np.sin(angle) * x) / scale
    value = TEXTURES[name](draw, u, v)
    tint = draw.uniform(-0.3, 0.3, (3,)) + np.where(draw.uniform() < 0.5, -1.0, 1.0)
    return hinted_colour(draw, name) + draw.uniform(0.1, 0.2) * (value - value.mean())[..., None] * tint


def hinted_colour(draw: Draw, name: str) -> np.ndarray:
    """Return a colour [3] near the hue of a class: a step on the hue circle for each class, give or take most of a step."""
    hue = 2 * math.pi * (3 * list(TEXTURES).index(name) / len(TEXTURES) + draw.uniform(-HUE_SPREAD, HUE_SPREAD))
    phases = np.array([0.0, 2 * math.pi / 3, -2 * math.pi / 3])
    return draw.uniform(0.45, 0.55) + CHROMA * np.cos(hue - phases)


def render(split: str, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one scene: image uint8 [128, 128, 3] and label uint8 [128, 128] (ids 0..7, 255 on the one-pixel rims of objects)."""
    return scene(split, index)[:2]


def instances(split: str, index: int) -> tuple[np.ndarray, tuple[int, ...]]:
    """Return the objects of one scene: uint8 [128, 128], 1.. where each is seen and 0 elsewhere, and what each is, in THINGS."""
    return scene(split, index)[2:]


@functools.lru_cache(maxsize=sum(COUNTS.values()))  # 26 MB in all
def scene(split: str, index: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, ...]]:
    """Return what `render` and `instances` do."""
    draw = Draw(VERSION, SEEDS[split], index)
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
    canvas, label = np.zeros((SIZE, SIZE, 3)), np.zeros((SIZE, SIZE), np.uint8)
    height = np.zeros_like(y)
    for band, kind in enumerate(draw.order(len(STUFF))):
        inside = y >= height
        canvas[inside] = paint(draw, STUFF[kind], y[inside], x[inside], (6, 12))
        label[inside] = kind
        wave = 6 * np.sin(x * draw.uniform(0.03, 0.1) + draw.uniform(0, 6.3)) + x * draw.uniform(-0.15, 0.15)
        height = SIZE * (band + 1) / 3 + wave + draw.uniform(-14, 14)
    instance, kinds = np.zeros((SIZE, SIZE), np.uint8), []
    for number in range(1, 3 + draw.integer(4)):
        kind, radius, angle = draw.integer(len(THINGS)), draw.uniform(14, 32), draw.uniform(0, 2 * math.pi)
        dy, dx = y - draw.uniform(8, SIZE - 8), x - draw.uniform(8, SIZE - 8)
        p, q = (np.cos(angle) * dx + np.sin(angle) * dy) / radius, (np.cos(angle) * dy - np.sin(angle) * dx) / radius
        inside = SHAPES[THINGS[kind]](p, q)
        canvas[inside] = paint(draw, THINGS[kind], dy[inside], dx[inside], (5, 10))
        label[inside], instance[inside] = len(STUFF) + kind, number
        kinds.append(kind)
    label[_rims(instance)] = IGNORED
    image = canvas * _light(draw, y, x)[..., None] + draw.uniform(-GRAIN, GRAIN, (SIZE, SIZE, 3))
    image = np.rint(255 * image.clip(0, 1)).astype(np.uint8)
    image.flags.writeable = label.flags.writeable = instance.flags.writeable = False
    return image, label, instance, tuple(kinds)


def _light(draw: Draw, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    slope = (y - SIZE / 2) * draw.uniform(-0.004, 0.004) + (x - SIZE / 2) * draw.uniform(-0.004, 0.004)
    return draw.uniform(0.75, 1.25) + slope


def _rims(instance: np.ndarray) -> np.ndarray:
    """Return the pixels whose right or lower neighbour belongs to another object or to the background."""
    rims = np.zeros(instance.shape, bool)
    rims[:, :-1] |= instance[:, :-1] != instance[:, 1:]
    rims[:-1] |= instance[:-1] != instance[1:]
    return rims


class SceneImages:
    """The images of the scenes, for data sets that differ in their labels alone; so their features are shared."""

    def list_items(self, split: str) -> Iterator[Item]:
        """Return the items train-000, train-001, ..."""
        return (Item(f"{split}-{index:03}", None, None) for index in range(COUNTS[split]))

    def image(self, item: Item) -> Image.Image:
        """Return the rendered image, RGB."""
        return Image.fromarray(render(*key_of(item))[0])

    def image_size(self, item: Item) -> tuple[int, int]:
        """Return 128 x 128."""
        return SIZE, SIZE

    def image_digest(self, item: Item) -> str:
        """Return the digest of the generator's version and the item's name, which decide every pixel."""
        return digest(["scenes image", VERSION, item.name])


@dataclass(frozen=True, kw_only=True)
class Scenes(SceneImages, Dataset):
    """256 train and 64 val images, generated."""

    name: str = "scenes"
    title: str = "Scenes, generated (8 classes)"
    classes: tuple[str, ...] = STUFF + THINGS
    mapping: str = f"scenes-v{VERSION}"
    image_size_hint: int = SIZE
    licence: str = "generated, no restrictions"

    official_counts: ClassVar[dict[str, int]] = COUNTS

    def label(self, item: Item) -> np.ndarray:
        """Return the class of each pixel, uint8 [128, 128]; 255 on the rims of objects."""
        return render(*key_of(item))[1].copy()

    def label_digest(self, item: Item) -> str:
        """Return the digest of the generator's version and the item's name, for the label."""
        return digest(["scenes label", VERSION, item.name])


@dataclass(frozen=True, kw_only=True)
class ScenesObjects(Scenes):
    """The same images, with everything behind the objects as one background: for what looks for a foreground."""

    name: str = "scenes-objects"
    title: str = "Scenes with one background, generated (6 classes)"
    classes: tuple[str, ...] = ("background", *THINGS)
    mapping: str = f"scenes-objects-v{VERSION}"
    background: int | None = 0

    def label(self, item: Item) -> np.ndarray:
        """Return the class of each pixel, uint8 [128, 128]: 0 behind all objects, 255 on their rims."""
        label = super().label(item)
        known = label != IGNORED
        label[known] = np.maximum(label[known].astype(np.int64) - len(STUFF) + 1, 0)
        return label

    def label_digest(self, item: Item) -> str:
        """Return the digest of the generator's version and the item's name, for this label."""
        return digest(["scenes-objects label", VERSION, item.name])


def key_of(item: Item) -> tuple[str, int]:
    """Return the split and the index of an item."""
    split, _, index = item.name.partition("-")
    return split, int(index)
