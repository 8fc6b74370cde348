"""A results folder as large as a page is to hold: many backbones in many groups, with replicates, classes, costs and pictures."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from made_records import header
from PIL import Image

from densebench.results import record as records
from densebench.results.score import Score

SIDE = 224
CLASSES = [f"class {index}" for index in range(21)]
PROTOCOLS = ("incontext", "kmeans", "linear")
REPLICATES = 1000
DRAWN = 16  # different pictures


def many(folder: Path, *, backbones: int = 40, groups: int = 12, images: int = 4) -> None:
    """Write a record for each backbone and group, at three shares of the training images, with pictures of a few images."""
    generator = np.random.default_rng(0)
    drawn = [picture(generator) for _ in range(DRAWN)]
    for group in range(groups):
        protocol, dataset = PROTOCOLS[group % len(PROTOCOLS)], f"set-{group // len(PROTOCOLS)}"
        for index in range(backbones):
            name = f"timm:vit_small_patch16_{index}.method_of_a_paper"
            about = header(name, protocol=protocol, preset="plain", dataset=dataset, dim=384, params=21_000_000 + index)
            record = records.open_or_create(folder, about)
            record.add([_score(generator, fraction, seed, 30 + index / 4) for fraction in (64, 8, 1) for seed in range(3)])
            record.finish("complete", {"scored_points": 3, "device": "one kind of device", "seconds": {"total": 60.0 + index}})
            place = folder / "pictures" / record.id
            place.mkdir(parents=True)
            for image in range(images):
                (place / f"image-{image}.png").write_bytes(drawn[(group + index + image) % DRAWN])


def _score(generator: np.random.Generator, fraction: int, seed: int, value: float) -> Score:
    replicates = tuple((value + generator.standard_normal(REPLICATES)).tolist()) if fraction == 1 else ()
    ious = dict(zip(CLASSES, (value + generator.standard_normal(len(CLASSES))).tolist(), strict=True))
    axes = {"fraction": fraction, "seed": seed}
    return Score("miou", "identity", value, axes=axes, per_class=ious, bootstrap=replicates, direction="higher")


def picture(generator: np.random.Generator) -> bytes:
    """A PNG as detailed as a photograph beside two maps."""
    small = generator.integers(0, 256, (12, 36, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(small).resize((3 * SIDE, SIDE), Image.Resampling.BICUBIC)).astype(int)
    stream = io.BytesIO()
    Image.fromarray((smooth + generator.integers(-8, 9, smooth.shape)).clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()
