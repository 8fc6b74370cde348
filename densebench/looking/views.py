"""The views of a backbone, one a picture: colours, foreground, clusters, norms, artefacts, attention and nearest patches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from densebench.looking.looked import View
from densebench.looking.passes import Extracted
from densebench.looking.queries import Place, nearest_patches
from densebench.looking.regions import Maps
from densebench.numerics.outliers import outlier_tokens
from densebench.numerics.principal import foreground_among, principal_colours


def views(seen: Extracted, clusters: Maps, queries: Sequence[Sequence[Place]], foreground_only: bool) -> tuple[View, ...]:
    """Return one view for each picture.

    foreground_only: fit basis and scale of the colours to the foreground alone; the background is black then.
    """
    tokens, sizes = seen.tokens, [(int(grid.shape[0]), int(grid.shape[1])) for grid in seen.grids]
    foreground = foreground_among(tokens, torch.cat([_border(size).flatten() for size in sizes]))
    colours = principal_colours(tokens, foreground if foreground_only else None)
    outliers = outlier_tokens(torch.cat([norms.flatten() for norms in seen.norms]))
    neighbours = nearest_patches(seen.grids, queries)
    split = [rows * columns for rows, columns in sizes]
    shown = []
    for number, parts in enumerate(zip(colours.split(split), foreground.split(split), outliers.split(split), strict=True)):
        of_colours, of_foreground, of_outliers = (part.reshape(*sizes[number], *part.shape[1:]).numpy() for part in parts)
        heads = seen.attention[number]
        shown.append(
            View(
                grid=seen.grids[number].numpy().astype(np.float32),
                colours=of_colours,
                foreground=of_foreground,
                clusters=clusters[number],
                norms=seen.norms[number].numpy(),
                outliers=of_outliers,
                attention=None if heads is None else heads.numpy(),
                neighbours=neighbours[number],
            )
        )
    return tuple(shown)


def _border(size: tuple[int, int]) -> Bool[Tensor, "gh gw"]:
    """Return which patches of a grid lie on its border."""
    border = torch.ones(size, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    return border
