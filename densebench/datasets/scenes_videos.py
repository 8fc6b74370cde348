"""Generated videos of the objects of `scenes`, with masks: for a first run of what takes videos, and for rehearsals.

Two to four objects with the textures and shapes of the scenes move and turn in front of a ground that drifts; they may hide each
other on their way. In the first frame each is in a quarter of its own, so that all are seen. Grain lies over every frame. A video
is a function of (VERSION, split, index), drawn as `scenes` are; nothing is downloaded.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from PIL import Image

from densebench.datasets.dataset import Item
from densebench.datasets.scenes import GRAIN, SEEDS, SHAPES, SIZE, STUFF, THINGS, Draw, paint
from densebench.datasets.videos import Videos
from densebench.files.atomic import digest

VERSION = 1  # raise it whenever a frame changes
COUNTS = {"train": 16, "val": 8}
LENGTH = 8  # frames of a video
OBJECTS = (2, 4)
RADII = (12.0, 19.0)  # px
SPEED, TURN, DRIFT = 3.0, 0.1, 1.5  # at most: px, radians and px from frame to frame


@functools.lru_cache(maxsize=2 * LENGTH)
def render(split: str, index: int, frame: int) -> tuple[np.ndarray, np.ndarray]:
    """Return one frame: image uint8 [128, 128, 3] and mask uint8 [128, 128], 1.. for the objects and 0 for the ground."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float64)
    draw = Draw(VERSION, SEEDS[split], index)
    drift, order, ground = draw.uniform(-DRIFT, DRIFT, (2,)), draw.order(4), draw.integer(len(STUFF))
    count = OBJECTS[0] + draw.integer(OBJECTS[1] - OBJECTS[0] + 1)
    down, across = (y - frame * drift[0]).ravel(), (x - frame * drift[1]).ravel()
    canvas = paint(Draw(VERSION, SEEDS[split], index, 0), STUFF[ground], down, across, (6, 12)).reshape(SIZE, SIZE, 3)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    for number, quarter in enumerate(order[:count], 1):
        own = Draw(VERSION, SEEDS[split], index, number)
        kind, radius, angle = own.integer(len(THINGS)), own.uniform(*RADII), own.uniform(0, 2 * math.pi)
        start = SIZE / 4 + SIZE / 2 * np.array([quarter // 2, quarter % 2]) + own.uniform(-5, 5, (2,))
        centre = start + frame * own.uniform(-SPEED, SPEED, (2,))
        angle = angle + frame * own.uniform(-TURN, TURN)
        dy, dx = y - centre[0], x - centre[1]
        p, q = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
        inside = SHAPES[THINGS[kind]](p / radius, q / radius)
        if inside.any():
            canvas[inside] = paint(own, THINGS[kind], q[inside], p[inside], (5, 10))
        mask[inside] = number
    grain = Draw(VERSION, SEEDS[split], index, OBJECTS[1] + 1 + frame).uniform(-GRAIN / 2, GRAIN / 2, (SIZE, SIZE, 3))
    image = np.rint(255 * (canvas + grain).clip(0, 1)).astype(np.uint8)
    image.flags.writeable = mask.flags.writeable = False
    return image, mask


@dataclass(frozen=True, kw_only=True)
class ScenesVideos(Videos):
    """16 train and 8 val videos of 8 frames, generated."""

    name: str = "scenes-videos"
    title: str = "Videos of scenes, generated (several objects a video)"
    mapping: str = f"scenes-videos-v{VERSION}"
    image_size_hint: int = SIZE
    licence: str = "generated, no restrictions"

    official_counts: ClassVar[dict[str, int]] = {split: count * LENGTH for split, count in COUNTS.items()}
    official_sequences: ClassVar[dict[str, int]] = COUNTS

    def names(self, split: str) -> list[str]:
        """Return train-00, train-01, ..."""
        return [f"{split}-{index:02}" for index in range(COUNTS[split])]

    def list_items(self, split: str) -> Iterator[Item]:
        """Yield the frames of all videos: train-00/00, train-00/01, ..."""
        yield from (Item(f"{name}/{frame:02}", None, None) for name in self.names(split) for frame in range(LENGTH))

    def image(self, item: Item) -> Image.Image:
        """Return the rendered frame, RGB."""
        return Image.fromarray(render(*_key(item))[0])

    def raw_label(self, item: Item) -> np.ndarray:
        """Return the mask of a frame, uint8 [128, 128]."""
        return render(*_key(item))[1].copy()

    def image_size(self, item: Item) -> tuple[int, int]:
        """Return 128 x 128."""
        return SIZE, SIZE

    def image_digest(self, item: Item) -> str:
        """Return the digest of the generator's version and the item's name, which decide every pixel."""
        return digest(["scenes-videos image", VERSION, item.name])

    def label_digest(self, item: Item) -> str:
        """Return the digest of the generator's version and the item's name, for the mask."""
        return digest(["scenes-videos label", VERSION, item.name])


def _key(item: Item) -> tuple[str, int, int]:
    video, _, frame = item.name.partition("/")
    split, _, index = video.partition("-")
    return split, int(index), int(frame)
