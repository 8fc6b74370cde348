"""A made-up data set of coloured boxes, and the protocol `bbox-knn` restated by plain loops."""

from __future__ import annotations

import math
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
from densebench.evals.bbox_knn import BboxKnn
from densebench.evaluation.protocol import Run
from densebench.features.views import CentreCropView
from densebench.files.atomic import digest
from densebench.numerics.votes import NO_VOTE


def boxed(*rows):
    """Objects from rows of left, top, right, bottom, class, crowd."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return Objects(table[:, :4], table[:, 4].astype(int), table[:, 5].astype(bool), np.ones(len(table)))


def naive_place(cosine, classes, truth, k, temperature, count):
    votes = [0.0] * count
    for c, label in list(zip(cosine, classes, strict=True))[:k]:
        votes[label] += math.exp(c / temperature)
    if truth not in classes[:k]:
        return NO_VOTE
    order = sorted(range(count), key=lambda label: (-votes[label], label))
    return order.index(truth)


SIDE, STRIDE, GRID = 32, 8, 4


COLOURS = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200], [180, 180, 40]])


@dataclass(frozen=True, kw_only=True)
class Toys(Boxed):
    """Grey noise with boxes in the colours of their classes: the largest decides; some images have none or a crowd alone."""

    name: str = "toys"
    classes: tuple[str, ...] = ("a", "b", "c", "d", "never")
    mapping: str = "toys"
    noise: float = 60.0
    counts: tuple[int, int] = (14, 11)
    bare: bool = False

    def list_items(self, split):
        return (Item(f"{split}-{i}", None, None) for i in range(self.counts[split == "val"]))

    def drawn(self, item):
        rng = np.random.default_rng(int(digest([item.name, self.bare], 8), 16))
        width, height = [(40, 40), (64, 40), (36, 50)][rng.integers(3)]
        pixels = np.full((height, width, 3), 120.0)
        rows = []
        for number in range(0 if self.bare else 3):
            left, top = rng.uniform(0, (width - 20, height - 20))
            w, h = rng.uniform(5, 20, 2) if number else rng.uniform(12, 20, 2)
            label = int(rng.integers(4))
            rows.append([left, top, left + w, top + h, label, number == 2])
        for left, top, right, bottom, label, crowd in reversed(rows):
            if not crowd:
                pixels[math.floor(top) : math.ceil(bottom), math.floor(left) : math.ceil(right)] = COLOURS[label]
        pixels += rng.normal(0, self.noise, pixels.shape) + rng.normal(0, self.noise, 3)
        if item.name.endswith("3"):
            rows = []
        if item.name.endswith("5"):
            rows = rows[2:]
        return np.clip(pixels, 0, 255).astype(np.uint8), boxed(*rows)

    def image(self, item):
        return Image.fromarray(self.drawn(item)[0])

    def image_size(self, item):
        return self.image(item).size

    def objects(self, item):
        return self.drawn(item)[1]

    def annotation(self, item):
        return [item.name, self.bare]

    def image_digest(self, item):
        return digest([item.name, self.noise, self.bare])


class Colours(torch.nn.Module):
    """Mean colours of patches, centred, with some of their contrast."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.tensor([1.0]))
        self.seen = 0

    def forward(self, images):
        self.seen += len(images)
        mean = torch.nn.functional.avg_pool2d(images, STRIDE)
        return torch.cat([mean, torch.nn.functional.max_pool2d(images, STRIDE) - mean], 1) * self.weight


def backbone():
    trunk = Colours()
    return Backbone(trunk, BackboneInfo("colours", "colours", 6, STRIDE, (0.47,) * 3, (0.25,) * 3), weights_digest(trunk))


DATA = Toys(root=Path())


SMALL = {"image_size": SIDE, "short_side": 36, "neighbours": (1, 3, 7, 20)}


def score(dataset=DATA, preset="flsl", model=None, run=None, **given):
    evaluator = options.build(BboxKnn, BboxKnn.presets[preset], {**SMALL, **given}).resolve(dataset)
    return list(evaluator.run(model or backbone(), dataset, run or Run()))


def named(scores):
    return {(one.axes["k"], one.metric, one.variant): one for one in scores}


def naive_box(dataset, item, mapping, short_side=36):
    """The place of the box that counts, and the box: of the image, or clipped and in px of the crop."""
    width, height = dataset.image_size(item)
    objects, best, margin = dataset.objects(item), None, (short_side - SIDE) / 2
    for place, (row, crowd) in enumerate(zip(objects.boxes.tolist(), objects.crowd, strict=True)):
        if mapping == "clipped":
            row = [value * short_side / (width, height)[axis % 2] - margin for axis, value in enumerate(row)]
            row = [0 if value < 0 else SIDE - 0.001 if value > SIDE else value for value in row]
        area = (row[2] - row[0]) * (row[3] - row[1])
        if not crowd and (best is None or area > best[0]):
            best = (area, place, row)
    return best[1:]


def naive_patches(dataset, item, mapping, short_side=36):
    width, height = dataset.image_size(item)
    left, top, right, bottom = naive_box(dataset, item, mapping)[1]
    found = []
    for i in range(3):
        for j in range(3):
            x, y = left + (right - left) * (2 * j + 1) / 6, top + (bottom - top) * (2 * i + 1) / 6
            if mapping == "right":
                new = (short_side * width // min(width, height), short_side * height // min(width, height))
                x, y = x * new[0] / width - round((new[0] - SIDE) / 2), y * new[1] / height - round((new[1] - SIDE) / 2)
            row, column = (min(max(math.floor(v / STRIDE), 0), GRID - 1) for v in (y, x))
            found.append((row, column))
    return found


def naive_rows(dataset, split, mapping):
    """Features of length one [images, 9, d], and classes, of the images with a box."""
    model, view, rows, classes = backbone(), CentreCropView(SIDE, 36), [], []
    for item in dataset.items(split):
        objects = dataset.objects(item)
        if (~objects.crowd).any():
            with torch.no_grad():
                grid = model(((view.image(dataset.image(item), "") - 0.47) / 0.25)[None])[0]
            own = [grid[:, r, c].double().numpy() for r, c in naive_patches(dataset, item, mapping)]
            rows.append([one / np.sqrt((one**2).sum()) for one in own])
            classes.append(int(objects.classes[naive_box(dataset, item, mapping)[0]]))
    return np.array(rows), classes
