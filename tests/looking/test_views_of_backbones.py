"""What a look makes of features as maps."""

from __future__ import annotations

import pytest
import torch

from densebench.looking.passes import Extracted
from densebench.looking.views import views


def grids():
    """Two pictures of two shapes; in both a stripe of two columns along the left side is unlike the rest."""
    found = []
    for rows, columns in ((10, 10), (8, 12)):
        grid = torch.zeros(rows, columns, 2)
        grid[:, 2:, 0], grid[:, :2, 1] = 1.0, 1.0
        found.append(grid)
    return found


@pytest.mark.parametrize("turned", [False, True], ids=["columns", "rows"])
def test_what_touches_any_side_of_a_picture_is_background(turned):
    features = [grid.transpose(0, 1).contiguous() if turned else grid for grid in grids()]
    seen = Extracted(features, [grid.norm(dim=2) for grid in features], [None, None])
    shown = views(seen, [grid[..., 0].long().numpy() for grid in features], [[(0.5, 0.5)]] * 2, foreground_only=True)
    for view in shown:
        foreground = view.foreground.T if turned else view.foreground
        assert foreground[:, 2:].all()
        assert not foreground[:, :2].any()
        assert (view.colours[~view.foreground] == 0).all()
        assert view.neighbours[0][0].cosine == pytest.approx(1.0)
