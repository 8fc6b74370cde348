"""Published linear probes on small images, and a naive restatement of one, for tests.

The restatement: features upsampled to the label map, nn.Conv2d, CrossEntropyLoss, torch.optim.SGD, all in float64.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from retrieval_by_loops import CLASSES, COUNTS, DATA, PATCH, SIDE, drawn, patches_of
from torch import nn

from densebench import options
from densebench.evals.linear.probes import LinearProbes
from densebench.evaluation.protocol import Run
from densebench.numerics.sgd_layers import Heads

TRAIN, VAL = ([f"{split}-{i}" for i in range(COUNTS[split])] for split in ("train", "val"))
PLAIN = {"image_size": SIDE, "augment": "none", "mask_size": 10, "learning_rates": (0.02,), "epochs": 3, "workers": 0}
CROP = {**PLAIN, "augment": "crop", "train_batch": 4}
FEW = {"fractions": (1, 2, 8), "seeds": 2, "subsets": "uniform"}
keys = map(str, itertools.count())


def probe(preset="neco", dataset=DATA, **given):
    return options.build(LinearProbes, LinearProbes.presets[preset], {**PLAIN, **given}).resolve(dataset)


def evaluate(backbone, dataset=DATA, run=None, preset="neco", **given):
    return list(probe(preset, dataset, **given).run(backbone, dataset, run or Run(progress_key=next(keys))))


def headlines(scores):
    return [score for score in scores if (score.metric, score.variant) == ("miou", "identity")]


def resized(label, side, exact):
    """A label map by nearest neighbour: the label under the centre of the output pixel, or the one under its corner."""
    rows, columns = (np.floor((np.arange(side) + exact / 2) * length / side).astype(int) for length in label.shape)
    return label[rows][:, columns]


def grid_of(backbone, name, side=SIDE):
    if side == SIDE:
        return patches_of(backbone, name).T.reshape(-1, SIDE // PATCH, SIDE // PATCH).double()
    image = torch.from_numpy(drawn(name)[0]).permute(2, 0, 1)[None].float() / 255
    image = F.interpolate(image, (side, side), mode="bilinear", antialias=True)
    return backbone((image - torch.tensor(backbone.mean).view(3, 1, 1)) / torch.tensor(backbone.std).view(3, 1, 1))[0].double()


class Naive:
    """One seed at one learning rate, all in float64."""

    def __init__(self, backbone, dataset=DATA, seed=0, **given):
        self.backbone, self.wanted = backbone, probe(dataset=dataset, **given)
        shift = dataset.reduce_zero_label and self.wanted.other_class != "off"
        self.table = np.arange(256) + (np.arange(256) < 255) * shift
        self.table[255] = 0 if shift and self.wanted.other_class == "class" else 255
        self.classes, width = CLASSES + shift, 3 * PATCH * PATCH
        begin = Heads(width, self.classes, [1.0], [seed], momentum=0.0, weight_decay=0.0).weights.detach()[0, 0].double()
        self.layer = nn.Conv2d(width, self.classes, 1).double()
        self.layer.weight.data, self.layer.bias.data = begin[:-1].T[..., None, None].clone(), begin[-1].clone()

    def label(self, name, size):
        seen = resized(self.table[drawn(name)[1]], self.wanted.image_size, exact=True)  # as Pillow
        return torch.from_numpy(resized(seen, size or self.wanted.image_size, self.wanted.mask_resample == "nearest-exact"))

    def pair(self, name):
        return grid_of(self.backbone, name, self.wanted.image_size), self.label(name, self.wanted.mask_size)

    def train(self, epochs):
        """Epochs are lists of batches, batches are lists of names, or of grids and label maps."""
        wanted, side = self.wanted, self.wanted.mask_size or self.wanted.image_size
        (rate,) = wanted.learning_rates
        sgd = torch.optim.SGD(self.layer.parameters(), rate, wanted.momentum, weight_decay=wanted.weight_decay)
        for epoch, batches in enumerate(epochs):
            sgd.param_groups[0]["lr"] = rate * 0.1 ** (epoch // wanted.drop_every)
            for batch in batches:
                pairs = [self.pair(entry) if isinstance(entry, str) else entry for entry in batch]
                grids, labels = map(torch.stack, zip(*pairs, strict=True))
                logits = self.layer(F.interpolate(grids, (side, side), mode="bilinear", align_corners=False))
                sgd.zero_grad()
                nn.CrossEntropyLoss(ignore_index=255)(logits, labels).backward()
                sgd.step()
        return self

    def score(self):
        agree, union = np.zeros(self.classes), np.zeros(self.classes)
        side = self.wanted.score_size or self.wanted.image_size
        for name in VAL:
            grid = grid_of(self.backbone, name, self.wanted.image_size)[None]
            with torch.no_grad():
                found = self.layer(F.interpolate(grid, (side, side), mode="bilinear", align_corners=False))[0].argmax(0).numpy()
            truth = self.label(name, self.wanted.score_size).numpy()
            for c in range(self.classes):
                p, t = (found == c) & (truth != 255), truth == c
                agree[c], union[c] = agree[c] + (p & t).sum(), union[c] + (p | t).sum()
        ious = np.where(union > 0, agree / np.maximum(union, 1), 0 if self.wanted.absent == "zero" else np.nan)
        return 100 * np.nanmean(ious)


def noted_steps(monkeypatch):
    """Return a list to which every step of a layer adds what it was given."""
    steps, plain = [], Heads.step

    def step(self, features, labels, factor=1.0, **more):
        steps.append((features.detach().clone(), labels.clone(), factor))
        return plain(self, features, labels, factor, **more)

    monkeypatch.setattr(Heads, "step", step)
    return steps


def orders(backbone, steps, per_epoch):
    """The names of images in batches in epochs of every problem, told by their features."""
    known = torch.stack([grid_of(backbone, name).permute(1, 2, 0) for name in TRAIN]).flatten(1).float()
    batches = [torch.cdist(features.flatten(2).float(), known[None]).argmin(-1) for features, *_ in steps]
    found = [[[TRAIN[i] for i in batch[p]] for batch in batches] for p in range(len(batches[0]))]
    return [[problem[i : i + per_epoch] for i in range(0, len(problem), per_epoch)] for problem in found]
