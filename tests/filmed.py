"""Made-up videos with masks, and runs of `vos` on them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from densebench.evaluation.run import evaluate

WIDTH, HEIGHT = 150, 70  # px; 128 x 64 at a short side of 64


LENGTHS = {"boat": 6, "ant": 12, "cow": 10}


OBJECTS = {"boat": 1, "ant": 2, "cow": 3}


def filmed(name, frames, objects, width=WIDTH, height=HEIGHT):
    """Textured rectangles that move over a texture that moves: images and masks."""
    rng = np.random.default_rng(sum(map(ord, name)))

    def texture():
        small = rng.integers(0, 256, (24, 40, 3)).astype(np.uint8)
        return np.array(Image.fromarray(small).resize((240, 144), Image.Resampling.BICUBIC))

    ground, things = texture(), [texture() for _ in range(objects)]
    places = rng.integers(0, (height - 40, width - 60), (objects, 2))
    speeds = rng.integers(-2, 3, (objects, 2))
    for t in range(frames):
        image, mask = ground[10 : 10 + height, 2 * t : 2 * t + width].copy(), np.zeros((height, width), np.uint8)
        for number, (thing, place, speed) in enumerate(zip(things, places, speeds, strict=True), 1):
            y, x = np.clip(place + t * speed, 0, (height - 30, width - 40))
            image[y : y + 30, x : x + 40] = thing[:30, :40]
            mask[y : y + 30, x : x + 40] = number
        yield image, mask


def write(root, name, frames, objects, **more):
    for t, (image, mask) in enumerate(filmed(name, frames, objects, **more)):
        for folder, suffix, array in (("JPEGImages", "png", image), ("Annotations", "png", mask)):
            path = root / folder / "480p" / name / f"{t:05}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(path)


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    root = tmp_path_factory.mktemp("videos")
    for name, frames in LENGTHS.items():
        write(root, name, frames, OBJECTS[name])
    return root


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DENSEBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def run(root, backbone="pixels:8", **given):
    if "predictions" not in given:
        given = {"short_side": "64", "radius": "3", "context": "3", **given}
    [record] = evaluate(backbone, "vos", f"frames:{root}", **given).records
    return record


def values(record):
    return {score["metric"]: score["value"] for score in record["scores"]}


def masks(root, folder, name):
    """Predicted and true masks of a sequence."""
    paths = sorted((root / "Annotations" / "480p" / name).glob("*.png"))
    return [tuple(np.array(Image.open(path)) for path in (folder / name / own.name, own)) for own in paths]
