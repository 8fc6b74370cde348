"""Query patches: the places of a picture that a look compares with everything else, and what they find in other pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from densebench.looking.looked import Neighbour
from densebench.looking.maps import patch

CELLS = 16
"""Rows and columns of places that a query may have."""
APART = 0.2
"""Of the sides: the distance that queries of one picture keep, where that is possible."""
NEAR, MIDDLE = 4, 0.3
"""Cells of the border that a cell is compared with, and how far from the middle (of the sides) places count less."""
QUERIES = 3
NEAREST = 5
RULE = (
    "Query patches: the centre of the picture, then the places whose colour differs most from the colours along its border, "
    "which is mostly background (Wei et al., Geodesic Saliency Using Background Priors, ECCV 2012); places near the middle are "
    f"preferred, and all are at least {APART:g} of a side apart; the same places for every backbone. Nearest patches: the patch "
    f"of highest cosine similarity in each other picture, and of these the best {NEAREST}."
)

Place = tuple[float, float]
"""A row and a column as shares of a picture's sides, 0 to 1."""


def query_places(image: Image.Image, count: int = QUERIES) -> tuple[Place, ...]:
    """Return the places of a picture's queries, the centre first; see RULE. A place is the centre of one of 16 x 16 cells."""
    cells = np.asarray(image.resize((CELLS, CELLS), Image.Resampling.BOX), dtype=np.float64)
    rows, columns = np.meshgrid(*[(np.arange(CELLS) + 0.5) / CELLS] * 2, indexing="ij")
    border = np.ones((CELLS, CELLS), dtype=bool)
    border[1:-1, 1:-1] = False
    distances = np.sort(np.linalg.norm(cells[:, :, None] - cells[border], axis=3), axis=2)
    salience = distances[..., :NEAR].mean(2) * np.exp(-((rows - 0.5) ** 2 + (columns - 0.5) ** 2) / (2 * MIDDLE**2))
    salience[border] = -0.5  # less than any other: a patch at the edge shows half of what it is
    places: list[Place] = [(0.5, 0.5)]
    while len(places) < count:
        distance = np.min([np.hypot(rows - row, columns - column) for row, column in places], axis=0)
        free = distance >= min(APART, distance.max())
        best = np.where(free, salience, -1.0).argmax()
        places.append((float(rows.flat[best]), float(columns.flat[best])))
    return tuple(places)


def nearest_patches(
    grids: Sequence[Float[Tensor, "gh gw d"]], queries: Sequence[Sequence[Place]], count: int = NEAREST
) -> list[tuple[tuple[Neighbour, ...], ...]]:
    """Return for each picture and each of its queries the nearest patches of other pictures by cosine, one a picture."""
    unit = [F.normalize(grid, dim=2) for grid in grids]
    found = []
    for number, places in enumerate(queries):
        patches = [patch(place, (unit[number].shape[0], unit[number].shape[1])) for place in places]
        asked = torch.stack([unit[number][row, column] for row, column in patches])
        best: list[list[Neighbour]] = [[] for _ in places]
        for other, grid in enumerate(unit):
            if other == number:
                continue
            values, indices = (asked @ grid.flatten(0, 1).T).max(dim=1)
            for near, value, index in zip(best, values.tolist(), indices.tolist(), strict=True):
                near.append(Neighbour(other, index // grid.shape[1], index % grid.shape[1], min(1.0, value)))
        found.append(tuple(tuple(sorted(near, key=lambda each: -each.cosine)[:count]) for near in best))
    return found
