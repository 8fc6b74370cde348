"""Short runs of small detectors, for tests of training, of kills and of damaged work."""

from __future__ import annotations

import torch
from drawn_objects import Drawn, options_of, small_vit

from densebench.bridges.torchvision.detector import build
from densebench.bridges.torchvision.options import Data
from densebench.bridges.torchvision.training import train
from densebench.processes import World

ALONE = World(0, 1, torch.device("cpu"))


def data_of(root, **given):
    dataset = Drawn(root=root, same=True, **given)
    items = dataset.part("train", None)
    return Data(dataset, items, items)


def weights(detector):
    return {name: value.clone() for name, value in detector.state_dict().items()}


def trained(data, folder, patch=8, **given):
    options = options_of(**given)
    detector = build(small_vit(patch, dim=16), 2, options)
    curve = train(detector, data, options, folder, ALONE)
    return detector, curve
