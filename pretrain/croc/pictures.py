"""Pictures of CrOC: how centroids merge, and which number of them was chosen."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from densebench.pictures.canvas import row
from densebench.training.objective import Views
from densebench.training.pictures import RIGHT, bytes_of, first, framed, painted

HEADS, STEPS = 3, 7


def merging_picture(
    views: Views, plans: Sequence[Float[Tensor, "b heads joint _"]], chosen: Int[Tensor, "b heads"], grid: tuple[int, int]
) -> Image.Image:
    """Return two rows, one a view, for a few heads of each image: the view, then its clusters at the last steps.

    The chosen step is framed.
    """
    rows = []
    for number, pair in enumerate(first(views.pixels, len(views))):
        for head in range(min(HEADS, chosen.shape[1])):
            shown = [_labels(plan[number, head], grid) for plan in plans]
            for view, pixels in enumerate(pair):
                parts = [Image.fromarray(bytes_of(pixels))]
                for plan, labels in list(zip(plans, shown, strict=True))[-STEPS:]:
                    count = plan.shape[3]
                    picture = painted(pixels, labels[view], torch.ones(count, dtype=torch.bool))
                    parts.append(framed(picture, RIGHT) if count == int(chosen[number, head]) else picture)
                rows.append(row(parts, gap=4))
    return row(rows, gap=4, down=True)


def _labels(plan: Tensor, grid: tuple[int, int]) -> list[Tensor]:
    """Return the cluster of each patch, by view."""
    return [part.div(part.sum(dim=0).clamp(min=1e-12)).argmax(dim=1).view(grid) for part in plan.chunk(2)]
