"""Pictures of one coloured rectangle each, for tests of object discovery, and the protocol restated by plain loops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from densebench import options
from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.weights import weights_digest
from densebench.datasets.boxes import Boxed, Objects
from densebench.datasets.dataset import Item
from densebench.evals.discovery import Discovery
from densebench.evaluation.protocol import Run
from densebench.files.atomic import digest

STRIDE = 8
SIZES = ((64, 48), (60, 52), (40, 64))
GROUND = 70
COLOURS = np.array([[230, 180, 120], [120, 230, 180]])


@dataclass(frozen=True, kw_only=True)
class Rectangles(Boxed):
    """One rectangle of a class on dark noise; the pictures 3 and 7 show none, 5 has a crowd alone beside nothing."""

    name: str = "one-rectangle"
    classes: tuple[str, ...] = ("a", "b", "never")
    splits: tuple[str, ...] = ("val",)
    train_split: str = "val"
    mapping: str = "one-rectangle"
    count: int = 9
    noise: float = 12.0
    plain: bool = False
    flipped: bool = False

    def list_items(self, split):
        return (Item(f"val-{i}", None, None) for i in range(self.count))

    def drawn(self, item):
        rng = np.random.default_rng(int(digest([item.name], 8), 16))
        width, height = SIZES[rng.integers(3)]
        pixels = np.full((height, width, 3), float(GROUND)) + (0 if self.plain else rng.normal(0, self.noise, (height, width, 3)))
        left, top = rng.integers(4, 16, 2)
        box, label = [left, top, left + int(rng.integers(17, 24)), top + int(rng.integers(17, 28))], int(rng.integers(2))
        number = int(item.name.split("-")[1])
        rows = np.array([box], np.float64) if number not in (3, 7) else np.zeros((0, 4))
        if len(rows) and not self.plain:
            pixels[box[1] : box[3], box[0] : box[2]] += COLOURS[label] - GROUND
        if self.flipped:
            pixels = pixels[:, ::-1]
            rows[:, [0, 2]] = width - rows[:, [2, 0]]
        crowd = np.array([number == 5] * len(rows), bool)
        return np.clip(pixels, 0, 255).astype(np.uint8), Objects(rows, np.array([label] * len(rows)), crowd, np.ones(len(rows)))

    def image(self, item):
        return Image.fromarray(np.ascontiguousarray(self.drawn(item)[0]))

    def image_size(self, item):
        return self.image(item).size

    def objects(self, item):
        return self.drawn(item)[1]

    def annotation(self, item):
        return [item.name, self.mapping]

    def image_digest(self, item):
        return digest([item.name, self.noise, self.plain, self.flipped])


class Means(torch.nn.Module):
    """Mean colours of patches less grey, with a constant that all patches share, weighed by `shared`."""

    def __init__(self, shared=0.05, broken=False):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([shared]))
        self.broken = broken

    def forward(self, images):
        mean = torch.nn.functional.avg_pool2d(images, STRIDE)
        features = torch.cat([mean, self.weight.expand(len(mean), 1, *mean.shape[2:])], 1)
        return features * float("nan") if self.broken else features


def backbone(shared=0.05, broken=False, layer="key"):
    trunk = Means(shared, broken)
    info = BackboneInfo("means", "means", 4, STRIDE, (0.5,) * 3, (0.25,) * 3, layer=layer)
    return Backbone(trunk, info, weights_digest(trunk))


DATA = Rectangles(root=Path())


def configured(preset="clean", dataset=DATA, **given):
    values = {"device": "cpu", "workers": 0, **given}
    return options.build(Discovery, Discovery.presets[preset], values).resolve(dataset)


def score(preset="clean", dataset=DATA, model=None, run=None, **given):
    return list(configured(preset, dataset, **given).run(model or backbone(), dataset, run or Run()))


def named(scores):
    return {(one.metric, one.variant, one.axes.get("tau")): one for one in scores}
