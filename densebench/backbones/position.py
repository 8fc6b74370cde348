"""Position tables: the conventions by which the field resizes learned position embeddings to another grid.

They differ enough to move a score. So each exists under its name, and records say which was used.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from densebench.errors import UserError, unknown

CONVENTIONS = ("antialias", "plain", "offset")
"""All are bicubic. antialias: antialiased, as in timm and DINOv2 with registers. plain: to the size of the grid, not antialiased,
as in MAE and exported graphs. offset: by the factor (grid + 0.1) / native grid, not antialiased, as in DINO and DINOv2 without
registers."""

OFFSET = 0.1
BY_ORIGIN = {
    **dict.fromkeys(("dino", "ibot", "croc", "cribo", "leopart", "neco", "flsl", "dinov2"), "offset"),
    **dict.fromkeys(("mae", "dinov2-exported"), "plain"),
}


def convention_of(origin: str) -> str:
    """Return the convention of the code that a checkpoint comes from; timm's ("antialias") for an unknown origin.

    iBOT, CrOC, CrIBo, Leopart, NeCo and FLSL share DINO's code; where a file does not tell them apart, "dino" stands for them.
    """
    return BY_ORIGIN.get(origin, "antialias")


def check_convention(name: str) -> None:
    """Raise UserError unless the name is "auto" or a convention."""
    if name not in ("auto", *CONVENTIONS):
        raise unknown("value for --pos-embed", name, ("auto", *CONVENTIONS), f"it takes auto, {', '.join(CONVENTIONS)}")


def resize_position_embedding(
    table: Float[Tensor, "1 tokens d"], prefix: int, grid: tuple[int, int], convention: str
) -> Float[Tensor, "1 resized d"]:
    """Return a position table with its patch part resized to a grid (rows, columns); the first `prefix` entries stay.

    A table that has the grid already is returned as it is. Raises UserError where its patch part is not square or the convention
    is unknown.
    """
    if convention not in CONVENTIONS:
        raise unknown("position convention", convention, CONVENTIONS, f"it is one of {', '.join(CONVENTIONS)}")
    count = table.shape[1] - prefix
    native = math.isqrt(max(count, 0))
    if count < 1 or native * native != count:
        raise UserError(f"a position table of {count} patches is not square; it cannot be resized")
    if grid == (native, native):
        return table
    patches = table[:, prefix:].float().reshape(1, native, native, -1).permute(0, 3, 1, 2)
    if convention == "offset":
        factors = tuple((side + OFFSET) / native for side in grid)
        patches = F.interpolate(patches, scale_factor=factors, mode="bicubic", recompute_scale_factor=False)
    else:
        patches = F.interpolate(patches, size=grid, mode="bicubic", antialias=convention == "antialias")
    resized = patches.permute(0, 2, 3, 1).reshape(1, -1, table.shape[2]).to(table.dtype)
    return torch.cat([table[:, :prefix], resized], dim=1)
