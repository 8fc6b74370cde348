"""Panels of image, truth and prediction: their colours are those of the legend."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import torch
from PIL import Image

from densebench.evaluation.pictures import legend, panel
from densebench.features.views import View
from densebench.pictures.palette import distinct_palette


@dataclass(frozen=True)
class Four:
    """A data set of four classes whose image has one pixel a class, and one that is not scored."""

    classes: tuple[str, ...] = ("sky", "road", "tree", "car")

    def palette(self):
        return distinct_palette(4)

    def image_size(self, item):
        return 5, 1

    def image(self, item):
        return Image.new("RGB", (5, 1), "white")


def colours(names):
    dataset, label = Four(), torch.tensor([[0, 1, 2, 3, 255]], dtype=torch.uint8)
    picture = panel(dataset, SimpleNamespace(dataset=dataset, names=names), View(1), None, label, label)
    return dict(legend(dataset)), ["#{:02x}{:02x}{:02x}".format(*picture.getpixel((5 + 4 + i, 0))) for i in range(5)]


def test_each_class_has_the_colour_of_the_legend():
    said, seen = colours(Four().classes)
    assert seen == [said[name] for name in (*Four().classes, "not scored")]
    assert len({*seen}) == 5


def test_a_class_of_everything_else_moves_no_colour():
    said, seen = colours(("other", *Four().classes))
    assert seen[:4] == [said[name] for name in ("not scored", "sky", "road", "tree")]
