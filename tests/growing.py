"""A network that is small enough to be trained and probed in a test, and data that count what is read of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import torch
from torch import nn

from densebench import catalog, options
from densebench.backbones.loading import load_backbone
from densebench.datasets import load_dataset
from densebench.datasets.scenes import Scenes
from densebench.evaluation.protocol import Run

FEW = {"image_size": 64, "device": "cpu"}
LIMIT = 12


class Net(nn.Module):
    """Patches of 16 px to eight features, with a norm that counts batches and a dropout that draws."""

    def __init__(self, seed=0, dim=8):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.patches = nn.Conv2d(3, dim, 16, 16)
            self.norm = nn.BatchNorm2d(dim)
            self.drop = nn.Dropout(0.3)
            self.last = nn.Conv2d(dim, dim, 1)

        self.doubled = self.caching = False
        self.cached = None

    def forward(self, images):
        if self.caching and not self.training and self.cached is None:
            self.cached = self.last.weight.detach().clone()
        hidden = self.drop(torch.relu(self.norm(self.patches(images))))
        features = self.last(hidden) if self.cached is None else nn.functional.conv2d(hidden, self.cached, self.last.bias)
        return torch.cat([features, features], 1) if self.doubled else features


def train_step(model, optimiser):
    """One step on noise that is drawn from torch's own generator."""
    loss = model(torch.randn(4, 3, 32, 32)).square().mean()
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


@dataclass(frozen=True, kw_only=True)
class Counted(Scenes):
    """Scenes that count how often an image and a label map are read."""

    reads: Counter = field(default_factory=Counter)

    def image(self, item):
        self.reads["images"] += 1
        return super().image(item)

    def label(self, item):
        self.reads["labels"] += 1
        return super().label(item)


def scored(model, protocol="incontext", limit=LIMIT, **given):
    """The headline of a protocol that is run by itself, on the disk's cache."""
    kind, dataset = catalog.load("protocols", protocol), load_dataset("scenes")
    evaluator = options.build(kind, kind.presets[next(iter(kind.presets))], {**FEW, **given}).resolve(dataset)
    wanted = evaluator.headline()
    return [
        score.value
        for score in evaluator.run(load_backbone(model), dataset, Run(limit))
        if {"metric": score.metric, "variant": score.variant} == wanted
    ]
