"""Short runs through MMSegmentation, whole and killed, for tests."""

from __future__ import annotations

import numpy as np
import torch
from drawn_maps import WORLD, bridge, data_of, equal, setup_of

from densebench.bridges.mmsegmentation import segmentor

RATES = (1e-1, 1e-2, 1e-3, 1e-4)
CLASSES = 5
SMALL = data_of({f"train{n}": (40, 48) for n in range(5)} | {f"val{n}": (33, 50) for n in range(3)}, side=11)


def train(backbone, folder, rates=RATES[:2], source=SMALL, **given):
    folder.mkdir(exist_ok=True)
    names = [item.name for item in source.val]
    settings = setup_of(**({"iterations": 8, "validations": 2} | given))
    return bridge.train(backbone, source, settings, rates, folder, WORLD, drawn=names, workers=0)


def counts(validation, heads):
    """Of every image and head: confusion[truth, prediction]."""
    found = {}
    for name, (places, numbers) in validation.pairs.items():
        flat = torch.zeros(heads * CLASSES * CLASSES, dtype=torch.int64)
        flat[places.long()] = numbers.long()
        found[name] = flat.view(heads, CLASSES, CLASSES)
    return found


def same(first, second):
    """Curves, counts, label maps and scores of two runs, bit by bit."""
    assert np.array_equal(first.iterations, second.iterations) and first.losses.keys() == second.losses.keys()
    for rate in first.losses:
        assert np.array_equal(first.losses[rate], second.losses[rate], equal_nan=True), rate
    assert [v.iteration for v in first.validations] == [v.iteration for v in second.validations]
    for a, b in zip(first.validations, second.validations, strict=True):
        assert equal(a.pairs, b.pairs) and equal(a.maps, b.maps) and a.mmseg == b.mmseg


class Killed(BaseException):
    """Not an error that anything would catch."""


def killing(monkeypatch, name, calls, after=False):
    """Kill the run in the nth call of a step of the model from now on; returns the calls so far."""
    original, seen = getattr(segmentor.SideBySide, name), []

    def step(*arguments, **given):
        seen.append(name)
        if len(seen) == calls and not after:
            raise Killed
        found = original(*arguments, **given)
        if len(seen) == calls:
            raise Killed
        return found

    monkeypatch.setattr(segmentor.SideBySide, name, step)
    return seen
