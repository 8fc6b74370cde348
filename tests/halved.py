"""Pictures of two halves, red and blue, with labels and without: by their colours alone every patch can be told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

BACKBONE = "pixels:8"
OPTIONS = {"image_size": 64, "augment_epochs": 0, "neighbours": 3}
"""Options of `incontext` by which labels are exact to the patch."""
RED, BLUE = (200, 30, 30), (30, 30, 200)


def halves(width: int = 64, height: int = 64, share: float = 0.5) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture, red on the left and blue on the right, uint8 [h w 3], and its labels [h w], 0 and 1."""
    labels = np.zeros((height, width), np.uint8)
    labels[:, round(width * share) :] = 1
    return np.where(labels[..., None] == 0, np.array(RED), np.array(BLUE)).astype(np.uint8), labels


def labelled(folder: Path, count: int = 4) -> Path:
    """Write a folder of labelled pictures, and return it."""
    for number in range(count):
        picture, labels = halves(share=(number + 2) / 8)
        save(folder / "images" / f"known-{number}.png", picture)
        save(folder / "labels" / f"known-{number}.png", labels)
    (folder / "classes.toml").write_text(f"classes = {json.dumps(['red', 'blue'])}\n")
    return folder


def save(path: Path, pixels: np.ndarray, **how: object) -> Path:
    """Write pixels as a picture, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)
    return path


def new_pictures(folder: Path, *names: str) -> Path:
    """Write a folder of new pictures, all alike but for one column, and return it."""
    for number, name in enumerate(names):
        save(folder / name, halves(share=(number % 4 + 3) / 8)[0])
    return folder
