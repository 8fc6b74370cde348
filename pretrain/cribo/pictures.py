"""Pictures of CrIBo: the clusters of two views, and objects beside their matches in other images."""

from __future__ import annotations

from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor

from densebench.datasets.images import Images
from densebench.pictures.canvas import row
from densebench.pretrain.cribo.bank import Bank
from densebench.training.objective import Views
from densebench.training.pictures import RIGHT, WRONG, bytes_of, cut, first, lit, painted

PAIRS = 4  # matches shown for an image


def clusters_picture(
    views: Views, labels: Int[Tensor, "b joint"], valid: Bool[Tensor, "b k"], grid: tuple[int, int]
) -> Image.Image:
    """Return one row per image: both views, and both with a colour for each object; clusters in one view only are grey."""
    rows = []
    for pair, label, shared in zip(first(views.pixels, len(views)), labels, valid, strict=True):
        maps = [part.view(grid) for part in label.chunk(2)]
        plain = [Image.fromarray(bytes_of(view)) for view in pair]
        rows.append(row([*plain, *(painted(view, part, shared) for view, part in zip(pair, maps, strict=True))], gap=4))
    return row(rows, gap=4, down=True)


def matches_picture(
    bank: Bank,
    views: Views,
    labels: Int[Tensor, "b joint"],
    valid: Bool[Tensor, "b k"],
    indices: Int[Tensor, "b k"],
    masks: Bool[Tensor, "b k"],
    grid: tuple[int, int],
    images: Images,
) -> Image.Image:
    """Return one row per image: up to four objects of view 1, each beside its match in the bank.

    Frames of cycle-consistent matches, which come first, are green; others are red.
    """
    count = valid.shape[1]
    rows = []
    for pixels, label, held, index, mask in zip(views.pixels[0], labels, valid, indices, masks, strict=True):
        shown, objects = bytes_of(pixels), label.chunk(2)[0].view(grid)
        order = (held.int() + mask.int()).argsort(descending=True, stable=True)[:PAIRS].tolist()
        parts = []
        for number in (k for k in order if held[k]):
            slot, neighbour = divmod(int(index[number]), count)
            if bank.numbers[slot] < 0:
                continue
            colour = RIGHT if mask[number] else WRONG
            match = cut(images.open(int(bank.numbers[slot])), bank.crops[slot, 0].tolist())
            matched = bank.labels[slot].chunk(2)[0].view(grid) == neighbour
            parts += [lit(shown, objects == number, colour), lit(match, matched, colour)]
        if parts:
            rows.append(row(parts, gap=4))
    return row(rows, gap=6, down=True) if rows else Image.new("RGB", (1, 1), "white")
