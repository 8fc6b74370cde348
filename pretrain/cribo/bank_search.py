"""CrIBo's search in two passes: products in fp16 that bound every similarity, then float32 for the few that may be the greatest.

Of the 64 entries of an image some hold no object (about 19 with the preset `coco`). So images with about equally many objects
form a tile, and the entries of each image are listed with its objects first: a tile is as wide as its fullest image has objects.
An image is one group.

A step of `coco` searches a bank of 25,000 images x 64 objects of 384 numbers for 11,500 queries in each view. All entries would
be 29 TFLOP on tensor cores (37 ms at 790 TFLOP/s) and 150 GB of products in fp16, written and read once (31 ms at 4.8 TB/s).
Three quarters of them are searched (45 of 64, rounded up to a multiple of 8), which takes 51 ms; for that 1.9 GB of objects are
copied (1 ms). The rounded objects take 2.6 GB beside the bank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.numerics.host_copy import HostCopy
from densebench.numerics.search import bounds
from densebench.numerics.search.candidates import Collection, Lists
from densebench.numerics.search.neighbours import top

PRECISION: bounds.Precision = "fp16"
SCALE = 0.5  # objects of length 1, rounded to the bank's type, are scaled to at most 1
CANDIDATES = 16  # objects whose similarity is computed in float32, for each query
TILE_BYTES = 2 * 2**30  # most bytes of an array of products
ALIGNED = 8  # rows of products begin at whole 16 bytes


@dataclass(frozen=True)
class Layout:
    """The order in which a bank is searched: images with the most objects first, and in each image its objects first.

    slots: of the images. indices: of the entries of each image (slot * count + object), those with an object first. counts: the
    number of objects of each image, on its way to the host.
    """

    slots: Int[Tensor, " images"]
    indices: Int[Tensor, "images count"]
    counts: HostCopy

    def width(self, first: int) -> int:
        """Return how many entries hold all objects of each image from the `first` on, rounded up to a multiple of ALIGNED."""
        return min(self.indices.shape[1], max(1, -(-int(self.counts.value()[first]) // ALIGNED)) * ALIGNED)


@dataclass(frozen=True)
class Held:
    """What is searched: the objects of one view of a bank. bounded: the same as `bounded_objects` returns them."""

    objects: Float[Tensor, "images count d"]
    inverse_lengths: Float[Tensor, "images count"]
    numbers: Int[Tensor, " images"]
    bounded: Float[Tensor, "images count columns"]
    layout: Layout


def fullest_first(valid: Bool[Tensor, "images count"]) -> Layout:
    """Return the layout of a bank. valid: which entries hold an object."""
    counts, slots = valid.sum(1).sort(descending=True, stable=True)
    objects = (~valid[slots]).to(torch.uint8).sort(dim=1, stable=True).indices
    return Layout(slots, slots[:, None] * valid.shape[1] + objects, HostCopy(counts))


@dataclass(frozen=True)
class NearestObjects:
    """The index of each query's most similar object, whether there is one, and whether it is proven to be the first of equals."""

    index: Int[Tensor, " n"]
    matched: Bool[Tensor, " n"]
    proven: Bool[Tensor, " n"]


def bounded_objects(
    objects: Float[Tensor, "*n d"], inverse_lengths: Float[Tensor, "*n"], valid: Bool[Tensor, "*n"]
) -> Float[Tensor, "*n columns"]:
    """Return objects scaled to length 1, rounded and extended by the columns that bound similarities."""
    unit = (objects.float() * inverse_lengths[..., None]).flatten(0, -2)
    scale = torch.full((), SCALE, device=unit.device)
    extended = bounds.extended_rows(unit, scale, valid.flatten(), "dot", PRECISION)
    return extended.unflatten(0, objects.shape[:-1])


def nearest_objects(held: Held, queries: Float[Tensor, "n d"], numbers: Int[Tensor, " n"]) -> NearestObjects:
    """Return the most similar object of each query among those of other images. numbers: of the queries' images."""
    count = held.objects.shape[1]
    unit = F.normalize(queries.float(), dim=1)
    query = bounds.bounded_queries(unit, torch.full((), SCALE, device=unit.device), "dot", PRECISION)
    images = max(1, TILE_BYTES // (2 * count * max(1, len(unit))))
    tiles = range(0, len(held.numbers), images)
    bounded, layout = held.bounded.flatten(0, 1), held.layout
    collection = Collection(count, CANDIDATES, len(tiles))
    with bounds.summed_in_float32(unit.device, PRECISION):
        for first in tiles:
            indices = layout.indices[first : first + images, : layout.width(first)]
            of_images = held.numbers[layout.slots[first : first + images]]
            scores = bounds.product(query.extended, bounded[indices.flatten()]).unflatten(1, (-1, indices.shape[1]))
            maxima = scores.amax(2).masked_fill_(numbers[:, None] == of_images, -torch.inf)
            every = Lists(torch.arange(len(of_images), device=unit.device)[None], first)
            collection.add(scores, F.pad(maxima, (0, 1), value=-torch.inf), every)
    found = collection.candidates()
    there = found.value[:, 0] > -torch.inf
    index, order = torch.where(there, layout.indices.flatten()[found.slot[:, 0]], layout.indices.numel()).sort(dim=1)
    there = there.gather(1, order)
    index = index.masked_fill(~there, 0)
    keys = held.objects.flatten(0, 1)[index].float() * held.inverse_lengths.flatten()[index][..., None]
    score = (unit[:, None] * keys).sum(2).masked_fill(~there, -torch.inf)
    best, first_best = top(score, 1)
    best, left_out = best[:, 0] * query.scale, bounds.ceiling(found.left_out[:, 0], PRECISION)
    proven = ((best > left_out) | (left_out == -torch.inf)) & query.usable
    return NearestObjects(index.gather(1, first_best)[:, 0], best > -torch.inf, proven)
