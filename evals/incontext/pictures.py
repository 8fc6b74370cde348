"""Pictures of retrieval: predictions beside the truth, and query patches beside their nearest neighbours."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw
from torch import Tensor

from densebench.console import notice
from densebench.datasets.dataset import Dataset, Item, limited
from densebench.evals.incontext.voting import Queries, Voter
from densebench.evaluation.pictures import PANEL, legend, panel
from densebench.features.views import View
from densebench.pictures.canvas import row, save

POINTS = ((0.3, 0.3), (0.3, 0.7), (0.5, 0.5), (0.7, 0.4))  # of the query patches, as shares of height and width
SHOWN = 8  # neighbours shown for each query
CONTEXT = 2  # patches shown around a patch, on each side
TILE = 112  # px of a shown patch


def draw(voter: Voter, queries: Queries, k: int, count: int, folder: Path | None) -> None:
    """Write `<image>.png` (image | truth | prediction) and `<image>-neighbours.png` for evenly spaced validation images.

    Predictions and neighbours are those of the largest subset. Processes that share the memory all call this, and those without
    a folder write nothing.
    """
    sizes = voter.memory.layout.sizes()
    largest = max(range(len(sizes)), key=lambda subset: sizes[subset])
    chosen = limited(queries.items, count)
    for item in chosen:
        grid, truth = queries.features[item], queries.truth(item)
        maps = next(iter(voter.label_maps([grid], [(int(truth.shape[0]), int(truth.shape[1]))], k)))
        name = item.name.replace("/", "-")
        picture = panel(queries.space.dataset, queries.space, queries.view, item, truth, maps[largest].cpu())
        beside = neighbours(voter, queries, item, grid, largest)
        if folder is not None:
            save(picture, folder / f"{name}.png", description=PANEL, legend=legend(queries.space.dataset))
            save(
                beside,
                folder / f"{name}-neighbours.png",
                description="patches of the image, each with its nearest labelled patches",
            )
    notice(f"pictures of {len(chosen)} images are in {folder}")


def neighbours(voter: Voter, queries: Queries, item: Item, grid: Float[Tensor, "gh gw d"], subset: int) -> Image.Image:
    """Return a row for each of a few patches of an image: the patch in a frame, then its nearest neighbours in the memory."""
    memory, patch, dataset = voter.memory, queries.patch, queries.space.dataset
    gh, gw = grid.shape[:2]
    cells = [(int(gh * y), int(gw * x)) for y, x in POINTS]
    features = voter.queries([grid])[[i * gw + j for i, j in cells]]
    index = voter.search.search(features, min(SHOWN, memory.layout.sizes()[subset])).index[subset].cpu()
    rows = []
    for (i, j), nearest in zip(cells, index.tolist(), strict=True):
        tiles = [crop(_seen(dataset, item, queries.view), i, j, patch)]
        for key in nearest:
            source = memory.labelled[int(memory.view[key])]
            image = _seen(dataset, source.item, source.view)
            row_index, column = divmod(int(memory.patch[key]), image.width // patch)
            tiles.append(crop(image, row_index, column, patch))
        rows.append(row(tiles, gap=4))
    return row(rows, gap=4, down=True)


def _seen(dataset: Dataset, item: Item, view: View) -> Image.Image:
    """Return an image as a view shows it: resized and cropped."""
    pixels = view.image(dataset.image(item), dataset.image_digest(item))
    return Image.fromarray((pixels.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy())


def crop(image: Image.Image, i: int, j: int, patch: int) -> Image.Image:
    """Return the patch at row i and column j of the grid with its surroundings; a frame marks the patch."""
    left, top, side = (j - CONTEXT) * patch, (i - CONTEXT) * patch, (2 * CONTEXT + 1) * patch
    tile = image.crop((left, top, left + side, top + side)).resize((TILE, TILE), Image.Resampling.BILINEAR)
    near, far = TILE * CONTEXT // (2 * CONTEXT + 1), TILE * (CONTEXT + 1) // (2 * CONTEXT + 1)
    ImageDraw.Draw(tile).rectangle((near, near, far, far), outline=(255, 64, 64), width=2)
    return tile
