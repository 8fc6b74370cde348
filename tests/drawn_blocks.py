"""A made-up data set of grey blocks, one grey a class, for tests of protocols on label maps."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from densebench.backbones.backbone import Backbone, Facts
from densebench.datasets import Dataset, Item
from densebench.files.atomic import digest

COUNTS = {"train": 10, "val": 4}
SIDE, PATCH, CLASSES = 32, 8, 4


@functools.cache
def drawn(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Noise around one grey a class, in blocks that do not fit the patches, with some void."""
    rng = np.random.default_rng(int(digest(name, 8), 16))
    label = rng.integers(0, CLASSES, (5, 5)).repeat(7, 0).repeat(7, 1)[:SIDE, :SIDE].astype(np.uint8)
    image = np.clip(label[..., None] * 60 + 30 + rng.normal(0, 35, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    label[rng.random((SIDE, SIDE)) < 0.05] = 255
    label[:9, :9] = 255 if name == "train-0" else label[:9, :9]
    return image, label


@dataclass(frozen=True, kw_only=True)
class Blocks(Dataset):
    name: str = "blocks"
    title: str = "blocks"
    classes: tuple[str, ...] = ("a", "b", "c", "d")
    image_size_hint: int = SIDE

    def list_items(self, split):
        return (Item(f"{split}-{i}", None, None) for i in range(COUNTS[split]))

    def image(self, item):
        return Image.fromarray(drawn(item.name)[0])

    def label(self, item):
        return drawn(item.name)[1].copy()

    def image_size(self, item):
        return SIDE, SIDE

    def image_digest(self, item):
        return digest(["blocks", item.name])

    label_digest = image_digest


@dataclass(frozen=True, kw_only=True)
class Clean(Blocks):
    """The colour tells the class; blocks of the size of patches."""

    def image(self, item):
        return Image.fromarray(np.eye(CLASSES, 3, dtype=np.uint8)[self.label(item)] * 200 + 20)

    def image_digest(self, item):
        return digest(["clean", item.name])

    def label(self, item):
        rng = np.random.default_rng(int(digest(item.name, 8), 16))
        return rng.integers(0, CLASSES, (4, 4)).repeat(8, 0).repeat(8, 1).astype(np.uint8)


class CentreColour(torch.nn.Module):
    """The feature of a patch is the colour of its centre."""

    def forward(self, images):
        return images[:, :, PATCH // 2 :: PATCH, PATCH // 2 :: PATCH]


def oracle():
    """A backbone whose features tell the classes of `Clean`."""
    return Backbone(CentreColour(), Facts("oracle", "oracle", 3, PATCH, (0.0,) * 3, (1.0,) * 3), "oracle")


DATA = Blocks(root=Path())


def values(scores, metric="miou", variant="identity"):
    return {(s.axes["fraction"], s.axes["seed"]): s.value for s in scores if (s.metric, s.variant) == (metric, variant)}


def patches_of(backbone, name):
    image = torch.from_numpy(drawn(name)[0]).permute(2, 0, 1).float() / 255
    mean, std = torch.tensor(backbone.mean).view(3, 1, 1), torch.tensor(backbone.std).view(3, 1, 1)
    grid = backbone(((image - mean) / std)[None])[0]
    return grid.flatten(1).T
