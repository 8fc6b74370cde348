"""Checks of recognised patch features on noise: what would give a plausible wrong number is refused.

The features of an image must be the same again and beside other images, and the feature of a patch must change most when that
patch changes. That finds dropout that is left on, batch statistics, rows taken for columns, and class tokens taken for patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from densebench.backbones.layouts import Layout, Path, Size, leaves, spelled
from densebench.backbones.ways import Call, FeatureSource, NotRecognised, noise, px, reason
from densebench.errors import UserError, out_of_memory

TOLERANCE = 1e-3  # of the spread of the features; other sizes of batch change float32 by far less
TINY = 1e-5  # of the largest feature; what rounding may change
SMALL = 1e-4  # of the largest change; what rounding may leave of it once a mean is taken out
BLOCK = 8  # px of a changed patch at least


def checked(
    model: nn.Module, call: Call, path: Path, layouts: Sequence[Layout], sizes: tuple[Size, ...], device: torch.device
) -> FeatureSource:
    """Return the source with the layout that the features follow.

    Raises NotRecognised for features that change from call to call or with the other images of a batch.
    """
    block = max(layouts[0].stride, math.ceil(BLOCK / layouts[0].stride) * layouts[0].stride)
    size, changes, cells = sizes[-1], None, None
    wide = (6 * block, 8 * block) if block <= 64 else (3 * block, 4 * block)
    for size in dict.fromkeys((*([wide] if len(sizes) > 2 else []), *sizes[::-1])):
        cells = _cells(size[0] // block, size[1] // block)
        if len(cells) < 2:
            continue
        try:
            changes = _changes(model, call, path, size, cells, block, device)
            break
        except NotRecognised:
            raise
        except Exception as error:
            if out_of_memory(error) or size in sizes:
                raise NotRecognised(f"{call.name} fails on {px(size)} ({reason(error)})") from error
    if changes is None or cells is None:
        raise NotRecognised(f"{call.name} gives a single feature for images of {px(size)}, in which patches cannot be told apart")
    centres = [(row * block + block // 2, column * block + block // 2) for row, column in cells]
    layout, remark = _settled(f"{call.name}{spelled(path)}", layouts, changes, size, centres)
    return FeatureSource(call, path, layout, sizes, remark)


def _settled(
    title: str, layouts: Sequence[Layout], changes: Tensor, size: Size, centres: Sequence[tuple[int, int]]
) -> tuple[Layout, str]:
    """Return the layout whose features change most with their own patches, and a remark where none of them does.

    The usual one is left only where another agrees (nearly) everywhere. Features that change elsewhere are refused; those that
    change nowhere or everywhere alike (a collapsed model) leave open which layout it is, and lie as usual.
    """
    count = len(centres)
    agreement = [_agreement(layout, changes, size, centres) for layout in layouts]
    hits, strength = agreement[0]
    best = max(range(len(layouts)), key=lambda index: agreement[index])
    more = agreement[best][0] >= hits and agreement[best][1] > 1.25 * strength
    if count >= 4 and agreement[best][0] >= 0.8 * count and (hits <= count / 2 or more):
        return layouts[best], ""
    if hits > count / 2:
        return layouts[0], ""
    if _is_local(changes, layouts[0]):
        raise NotRecognised(
            f"the features of {title} do not follow the patches: where one patch of an image changes, another one's feature "
            "changes most", refused=True,
        )  # fmt: skip
    return layouts[0], ", in which no feature changes most with its own patch (constant, or of the whole image)"


def _is_local(changes: Tensor, layout: Layout) -> bool:
    """Return whether each changed patch has some feature that changes far more with it than with the others."""
    table = _shares(changes.movedim(layout.axis, 1).flatten(2))
    share = table / table.sum(dim=0).clamp_min(1e-12)
    return bool((share.max(dim=1).values > 2 * share.median(dim=1).values).float().mean() > 0.5)


def _shares(changes: Float[Tensor, "cells d n"]) -> Float[Tensor, "cells n"]:
    """Return how much each feature changes in an image besides what all of its features do, as a share of the image's change."""
    own = changes - changes.mean(dim=2, keepdim=True)
    own = torch.where(own.abs() < SMALL * changes.abs().max(), 0.0, own).norm(dim=1)
    return own / own.sum(dim=1, keepdim=True).clamp_min(1e-12)


def _cells(rows: int, columns: int) -> list[tuple[int, int]]:
    """Return blocks of an image, spread along its borders, none of them on the diagonal; fewer in a small image."""
    spread = [(0.0, 1.0), (1.0, 0.0), (0.0, 0.5), (0.5, 0.0), (1.0, 0.5), (0.5, 1.0)]
    cells = [(round(down * (rows - 1)), round(right * (columns - 1))) for down, right in spread]
    return [cell for cell in dict.fromkeys(cells) if cell[0] != cell[1] or rows != columns]


def _changes(
    model: nn.Module, call: Call, path: Path, size: Size, cells: Sequence[tuple[int, int]], block: int, device: torch.device
) -> Tensor:
    """Return how the tensor at `path` changes when one block of an image does, for each of `cells`, `[cells ...]`."""
    images = noise(1, size, device).repeat(len(cells) + 1, 1, 1, 1)
    for index, (row, column) in enumerate(cells):
        area = images[index, :, row * block : (row + 1) * block, column * block : (column + 1) * block]
        area.copy_(2 * noise(1, (block, block), device, seed=index + 1)[0] + 1.5)
    together, again, alone = (leaves(call.run(model, batch))[path].float() for batch in (images, images, images[-1:]))
    if together.shape[0] != len(images) or not torch.isfinite(together).all():
        raise NotRecognised(f"{call.name} gives features that are not finite, or not one set an image", refused=True)
    if _differ(together, again):
        raise NotRecognised(
            "the same images give other features the second time, in evaluation mode: something is drawn at random "
            "(dropout that is always on?) or kept from call to call", refused=True,
        )  # fmt: skip
    if _differ(together[-1:], alone):
        raise NotRecognised(
            "the features of an image depend on the other images of its batch (batch statistics in evaluation mode?)",
            refused=True,
        )
    changes = together[:-1] - together[-1:]
    return torch.where(changes.abs() < TINY * together.abs().max(), 0.0, changes)


def _differ(first: Tensor, second: Tensor) -> bool:
    """Return whether features differ by more than rounding, measured by how far they spread around their mean."""
    spread = (first - first.mean()).norm()
    return bool((first - second).norm() > max(TOLERANCE * spread, TINY * first.norm()))


def _agreement(layout: Layout, changes: Tensor, size: Size, centres: Sequence[tuple[int, int]]) -> tuple[int, float]:
    """Return how many features change most in the image whose patch they are, of all images; and how much they change.

    What all features of an image have in common is taken out before: in a trained ViT every token follows the whole image too.
    """
    try:
        grid = layout.grid(changes, *size)
    except (UserError, RuntimeError):
        return 0, 0.0
    if grid.shape[2:] != (size[0] // layout.stride, size[1] // layout.stride):
        return 0, 0.0
    grid = _shares(grid.flatten(2)).unflatten(1, grid.shape[2:])
    rows, columns = ([position[axis] // layout.stride for position in centres] for axis in (0, 1))
    table = grid[:, rows, columns]
    own = table.diagonal()
    hits = (own >= table.max(dim=0).values) & (own > 0)
    return int(hits.sum()), float(own.sum())
