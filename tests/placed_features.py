"""Backbones that know positions exactly, not at all, or as a random network does, and pictures to read them from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from densebench.backbones.backbone import Backbone, BackboneInfo
from densebench.backbones.weights import weights_digest
from densebench.conformance.drawn import Blocks
from densebench.evals.position.protocol import Position
from densebench.evaluation.protocol import Run

STRIDE, SIDE = 16, 128
GRID = SIDE // STRIDE
DATA = Blocks(root=Path())


class Known(nn.Module):
    """Row and column, and what makes all features as long, in three of eight channels."""

    dim = 8

    def forward(self, images):
        rows, columns = (side // STRIDE for side in images.shape[2:])
        row, column = torch.meshgrid(torch.linspace(-0.6, 0.6, rows), torch.linspace(-0.6, 0.6, columns), indexing="ij")
        grid = torch.stack([row, column, (1 - row**2 - column**2).sqrt(), *5 * [torch.zeros(rows, columns)]])
        return grid.to(images.device).expand(len(images), -1, -1, -1)


class Constant(nn.Module):
    """The same feature everywhere."""

    dim = 8

    def forward(self, images):
        rows, columns = (side // STRIDE for side in images.shape[2:])
        return torch.full((len(images), 8, rows, columns), 0.3, device=images.device)


class Mixed(nn.Module):
    """A random projection of the pixels of a patch, to which random directions of row and column are added."""

    dim = 24

    def __init__(self, position=1.0):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        self.register_buffer("pixels", torch.randn(self.dim, 3, STRIDE, STRIDE, generator=generator) / STRIDE)
        self.register_buffer("place", position * torch.randn(self.dim, 2, generator=generator))

    def forward(self, images):
        found = nn.functional.conv2d(images, self.pixels, stride=STRIDE)
        rows, columns = found.shape[2:]
        row, column = torch.meshgrid(torch.linspace(-1, 1, rows), torch.linspace(-1, 1, columns), indexing="ij")
        place = torch.stack([row, column]).to(images.device)
        return found.relu() + torch.einsum("dk,khw->dhw", self.place, place)


def backbone(trunk):
    name = type(trunk).__name__.lower()
    return Backbone(trunk, BackboneInfo(name, name, trunk.dim, STRIDE), weights_digest(trunk))


def scores(of, dataset=DATA, run=None, **options):
    """The scores of a backbone, by input, number of removed directions, kind of directions and metric."""
    protocol = Position(**{"image_size": SIDE, "device": "cpu", "workers": 0, **options}).resolve(dataset)
    found = list(protocol.run(of, dataset, run or Run()))
    return {(each.axes["input"], each.axes["removed"], each.variant, each.metric): each for each in found}
