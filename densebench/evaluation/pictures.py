"""Pictures: image, truth and prediction side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from densebench.datasets.dataset import Dataset, Item
from densebench.evaluation.labels import LabelSpace
from densebench.features.views import View
from densebench.pictures.canvas import Legend, row
from densebench.pictures.palette import Colour

VOID_COLOUR = (224, 224, 192)
PANEL = "image, truth, prediction"
"""What `panel` shows, in words."""


def colour(label: Tensor, palette: Sequence[tuple[int, int, int]]) -> Image.Image:
    """Return a label map in the data set's colours; what is not scored is pale."""
    table = np.full((256, 3), VOID_COLOUR, dtype=np.uint8)
    table[: len(palette)] = palette
    return Image.fromarray(table[label.numpy()])


def colours_of(space: LabelSpace) -> list[Colour]:
    """Return one colour for each class of a label space; a class that the data set does not have comes first, and is pale."""
    colours = space.dataset.palette()
    return [VOID_COLOUR, *colours] if len(space.names) > len(colours) else colours


def panel(dataset: Dataset, space: LabelSpace, view: View, item: Item, truth: Tensor, prediction: Tensor) -> Image.Image:
    """Return image, truth and prediction in one row, at the size of the view."""
    height, width = view.shape(*dataset.image_size(item))
    palette = colours_of(space)
    parts = [dataset.image(item).resize((width, height), Image.Resampling.BILINEAR)]
    parts += [colour(label, palette).resize((width, height), Image.Resampling.NEAREST) for label in (truth, prediction)]
    return row(parts, gap=4)


def legend(dataset: Dataset) -> Legend:
    """Return the colours in which `panel` shows the classes of a data set, and that of what is not scored."""
    colours = [*zip(dataset.classes, dataset.palette(), strict=False), ("not scored", VOID_COLOUR)]
    return [(name, "#{:02x}{:02x}{:02x}".format(*values)) for name, values in colours]
