"""A made-up data set of coloured squares and settings of short runs, for tests of the bridge to MMSegmentation."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import densebench.bridges.mmsegmentation as bridge  # before mmseg, which it makes importable
from densebench.datasets.dataset import Dataset, Item
from densebench.evals.linear.mmseg import LinearMmseg
from densebench.processes import World

REMARKS = ("``build_loss`` would be deprecated", "Default ``avg_non_ignore`` is False")  # of mmseg, on every head that it builds
QUIET = [pytest.mark.filterwarnings(f"ignore:{remark}:UserWarning") for remark in REMARKS]
WORLD = World(0, 1, torch.device("cpu"))
COLOURS = np.array([[200, 40, 90], [20, 180, 60], [60, 80, 230], [240, 230, 20], [10, 20, 30]], dtype=np.uint8)
MEAN, STD = (0.4, 0.5, 0.3), (0.2, 0.25, 0.3)


def blocks(name: str, height: int, width: int, side: int = 16) -> np.ndarray:
    """A label map of square regions."""
    rng = np.random.default_rng([ord(letter) for letter in name])
    rows, columns = -(-height // side), -(-width // side)
    return rng.integers(0, len(COLOURS), (rows, columns)).repeat(side, 0).repeat(side, 1)[:height, :width].astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Coloured(Dataset):
    """Label maps of given sizes, whose images show every class in its colour; `plain`: images of this colour alone."""

    name: str = "coloured"
    title: str = "coloured"
    classes: tuple[str, ...] = ("a", "b", "c", "d", "e")
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    plain: tuple[int, int, int] | None = None
    side: int = 16

    def list_items(self, split):
        return (Item(name, None, None) for name in self.sizes if name.startswith(split))

    def label(self, item):
        return blocks(item.name, *self.sizes[item.name], self.side)

    def image(self, item):
        colours = COLOURS[self.label(item)]
        return Image.fromarray(colours if self.plain is None else np.full_like(colours, self.plain))

    def image_size(self, item):
        return self.sizes[item.name][::-1]


def data_of(sizes, **given):
    dataset = Coloured(root=Path(), sizes=sizes, **given)
    train, val = (tuple(dataset.list_items(split)) for split in ("train", "val"))
    return bridge.Data(dataset, train, val, dataset.classes, dataset.label)


def setup_of(**given):
    """How a short run on small images is carried out; options of the protocol and what follows from them are given alike."""
    options = {"optimiser": "adamw", "weight_decay": 0.0, "eta_min": 0.0, "iterations": 10, "train_batch": 2, "stride": 20}
    options |= {"validations": 1}
    setup = {"head": "linear", "trained": False, "photometric": False, "warmup": 0.0, "drop_path": 0.0, "crop": 32, "scale": 32}
    setup |= {"mean": MEAN, "std": STD, "black": False}
    derived = {field.name for field in dataclasses.fields(bridge.Setup)}
    options |= {name: value for name, value in given.items() if name not in derived}
    setup |= {name: value for name, value in given.items() if name in derived}
    return bridge.Setup(LinearMmseg(**options), **setup)


def equal(first, second):
    """Whether two dictionaries of tensors are equal bit by bit."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)
