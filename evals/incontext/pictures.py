"""Pictures of retrieval: predictions beside the truth, and query patches beside their nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from densebench.console import notice
from densebench.datasets.dataset import Item, limited
from densebench.evaluation.pictures import panel
from densebench.pictures.canvas import row, save
from densebench.results.score import Point

if TYPE_CHECKING:
    from densebench.evals.incontext.scoring import Reader

QUERIES, SHOWN = 4, 8  # query patches an image, neighbours a query
CONTEXT = 2  # a patch is shown with so many patches around it
TILE = 112  # px of a shown patch


def draw(reader: Reader, k: int, folder: Path, points: Sequence[Point]) -> None:
    """Write `<image>.png` (image | truth | prediction) and `<image>-neighbours.png` for evenly spaced validation images.

    The memory shown is the largest one.
    """
    task = reader.task
    largest = max(range(len(points)), key=lambda s: reader.bank.layout.sizes()[s])
    chosen = limited(task.images, task.options.visualise)
    for item in chosen:
        grid, truth = task.queries[item], task.truth(item)
        maps = next(iter(reader.label_maps([grid], [(int(truth.shape[0]), int(truth.shape[1]))], k)))
        name = item.name.replace("/", "-")
        save(panel(task.dataset, task.space, task.view, item, truth, maps[largest].cpu()), folder / f"{name}.png")
        save(neighbours(reader, item, grid, largest), folder / f"{name}-neighbours.png")
    notice(f"pictures of {len(chosen)} images are in {folder}")


def neighbours(reader: Reader, item: Item, grid: Tensor, subset: int) -> Image.Image:
    """For a few patches of an image, one row each: the patch in a frame, then its nearest neighbours in the memory."""
    task, bank = reader.task, reader.bank
    gh, gw = grid.shape[:2]
    places = [(int(gh * y), int(gw * x)) for y, x in ((0.3, 0.3), (0.3, 0.7), (0.5, 0.5), (0.7, 0.4))][:QUERIES]
    queries = reader.prepare(grid)[[i * gw + j for i, j in places]]
    index = reader.search.search(queries, min(SHOWN, bank.layout.sizes()[subset])).index[subset].cpu()
    rows = []
    for (i, j), found in zip(places, index.tolist(), strict=True):
        tiles = [crop(_view(reader, item, -1), i, j, task.patch)]
        for key in found:
            unit = int(bank.unit[key])
            image = _view(reader, bank.units[unit].item, unit)
            i, j = divmod(int(bank.patch[key]), image.width // task.patch)
            tiles.append(crop(image, i, j, task.patch))
        rows.append(row(tiles, gap=4))
    return row(rows, gap=4, down=True)


def _view(reader: Reader, item: Item, unit: int) -> Image.Image:
    task = reader.task
    view = task.view if unit < 0 else reader.bank.units[unit].view
    pixels = view.image(task.dataset.image(item), task.dataset.image_digest(item))
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def crop(image: Image.Image, i: int, j: int, patch: int) -> Image.Image:
    """The patch at row i and column j of the grid with its surroundings; a frame marks the patch."""
    left, top, side = (j - CONTEXT) * patch, (i - CONTEXT) * patch, (2 * CONTEXT + 1) * patch
    tile = image.crop((left, top, left + side, top + side)).resize((TILE, TILE), Image.Resampling.BILINEAR)
    near, far = TILE * CONTEXT // (2 * CONTEXT + 1), TILE * (CONTEXT + 1) // (2 * CONTEXT + 1)
    ImageDraw.Draw(tile).rectangle((near, near, far, far), outline=(255, 64, 64), width=2)
    return tile
