"""Made-up pairs of pictures with keypoints, and a grid of features in which every patch is its own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from densebench import options
from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.weights import weights_digest
from densebench.datasets.dataset import Item
from densebench.datasets.keypoints import KeypointPairs, Pair
from densebench.evals.correspondence import Correspondence
from densebench.evaluation.protocol import Run
from densebench.files.atomic import digest

SIZES = {"wide": (90, 60), "tall": (50, 80), "square": (64, 64), "small": (40, 30)}


def pair(name="p", source="wide", target="tall", source_points=((30, 20),), target_points=((20, 40),), **more):
    """A pair of two pictures of SIZES."""
    both = [np.array(points, float).reshape(-1, 2) for points in (source_points, target_points)]
    items = [Item(each, None, None) for each in (source, target)]
    more |= {name: tuple(map(float, more[name])) for name in ("source_box", "target_box") if name in more}
    return Pair(name, *items, more.pop("category", "cat"), *both, np.arange(len(both[0])), **more)


@dataclass(frozen=True, kw_only=True)
class ToyPairs(KeypointPairs):
    """Pictures of noise, by name; `flat` makes them of one colour, and `drawn` lists the pairs."""

    name: str = "toy-pairs"
    classes: tuple[str, ...] = ("cat", "dog")
    mapping: str = "toy-pairs"
    image_size_hint: int = 64
    drawn: tuple[Pair, ...] = ()
    flat: bool = False

    def list_pairs(self, split):
        return self.drawn

    def image_size(self, item):
        return SIZES[item.name]

    def image(self, item):
        width, height = SIZES[item.name]
        rng = np.random.default_rng(int(digest(item.name, 8), 16))
        pixels = rng.integers(0, 256, (height, width, 3)) if not self.flat else np.full((height, width, 3), 90)
        return Image.fromarray(pixels.astype(np.uint8))

    def image_digest(self, item):
        return digest(["toy picture", item.name, self.flat])


PAIRS = (
    pair("a", "wide", "tall", ((30, 20), (70, 50), (5, 5)), ((20, 40), (40, 70), (3, 9)), target_box=(5, 5, 45, 75)),
    pair("b", "tall", "wide", ((20, 40), (45, 10)), ((30, 20), (88, 58)), category="dog", target_box=(0, 0, 50, 50)),
    pair("c", "square", "small", ((32, 32),), ((20, 15),), levels=(("viewpoint", 1),), target_box=(10, 5, 30, 25)),
    pair("d", "square", "wide", ((1, 1), (63, 63), (10, 50), (33, 12)), ((2, 2), (80, 55), (9, 40), (44, 12)),
         levels=(("viewpoint", 0),), target_box=(0, 0, 90, 60)),
)  # fmt: skip


def toys(*pairs, **more):
    return ToyPairs(root=Path(), drawn=pairs or PAIRS, **more)


class Conv(torch.nn.Module):
    """A random projection of patches of 8 px."""

    def __init__(self, width=12):
        super().__init__()
        self.project = torch.nn.Conv2d(3, width, 8, stride=8)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            self.project.weight.copy_(torch.randn(self.project.weight.shape, generator=generator))
            self.project.bias.zero_()

    def forward(self, images):
        return self.project(images)


def backbone():
    trunk = Conv()
    return Backbone(trunk, BackboneInfo("conv", "conv", 12, 8), weights_digest(trunk))


def scores(dataset=None, preset="clean", run=None, **given):
    """The scores of a run with small options, by (alpha, metric, variant)."""
    dataset = dataset or toys()
    given = {"image_size": 64, "device": "cpu", "workers": 0, **given}
    evaluator = options.build(Correspondence, Correspondence.presets[preset], given).resolve(dataset)
    found = list(evaluator.run(backbone(), dataset, run or Run()))
    return {(score.axes["alpha"], score.metric, score.variant): score for score in found}


def without_box(each):
    return replace(each, target_box=None)
