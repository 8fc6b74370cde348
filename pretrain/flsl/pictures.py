"""Pictures of FLSL: the centroid of each patch, and the attention of queries in their own view and in the teacher's."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from densebench.pictures.canvas import row
from densebench.training.objective import Views
from densebench.training.pictures import bytes_of, enlarged, painted

QUERIES = 3


def modes_picture(
    views: Views,
    labels: list[Int[Tensor, "b n"]],
    chosen: Int[Tensor, "b q"],
    maps: tuple[Float[Tensor, "b q n"], Float[Tensor, "b q n"]],
    grid: tuple[int, int],
) -> Image.Image:
    """Return one row per image: teacher's view and large crop, as they are and with a colour per centroid; then some queries.

    Each query is shown by the crop (the query in white) and the teacher's view, both brightened by its attention.
    """
    rows = []
    for number in range(len(views)):
        pair = [views.pixels[view][number] for view in (0, 1)]
        used, flat = torch.cat([part[number] for part in labels]).unique(return_inverse=True)
        colours = torch.ones(len(used), dtype=torch.bool)
        parts = [Image.fromarray(bytes_of(pixels)) for pixels in pair]
        parts += [painted(pixels, part.view(grid), colours) for pixels, part in zip(pair, flat.chunk(2), strict=True)]
        for query in np.linspace(0, chosen.shape[1] - 1, min(QUERIES, chosen.shape[1])).astype(int):
            parts.append(_lit(pair[1], maps[0][number, query].view(grid), int(chosen[number, query])))
            parts.append(_lit(pair[0], maps[1][number, query].view(grid)))
        rows.append(row(parts, gap=4))
    return row(rows, gap=4, down=True)


def _lit(pixels: Tensor, weights: Float[Tensor, "rows columns"], query: int | None = None) -> Image.Image:
    """Return a view, brightened in proportion to a map, with the query's patch (which has the largest weight) in white."""
    if query is not None:
        weights = weights.flatten().index_fill(0, torch.tensor(query, device=weights.device), 0.0).view(weights.shape)
        others = weights[weights > 0]
        weights = weights.clamp(min=float(others.min()) if len(others) else 0.0)
    low, high = weights.min(), weights.max()
    bright = 0.15 + 0.85 * (weights - low) / (high - low).clamp(min=1e-12)
    shown = bytes_of(pixels) * enlarged(bright)[..., None]
    if query is not None:
        shown[enlarged(torch.arange(weights.numel()).view(weights.shape)) == query] = 255
    return Image.fromarray(shown.astype(np.uint8))
