"""CrIBo's search in two passes: products in fp16 that bound every similarity, then float32 for the few that may be the greatest.

Of an image's 64 places some hold no object (at `coco` about 19). So tiles are made of images with about as many objects, whose
places are listed with those that hold one first: a tile is as wide as its fullest image, and an image stays one group.

A step of `coco` searches a bank of 25,000 images x 64 objects of 384 numbers for 11,500 queries in each view. All places would be
29 TFLOP on tensor cores (37 ms at 790 TFLOP/s) and 150 GB of products in halves that are written and read once (31 ms at 4.8
TB/s); three quarters of them are searched (45 of 64 and what rounding to 8 adds), 51 ms, and 1.4 GB of objects are copied for it
(1 ms). The rounded objects take 2.6 GB beside the bank.
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
CANDIDATES = 16  # of which the similarity is computed in float32
TILE_BYTES = 2 * 2**30  # most bytes of an array of products
ALIGNED = 8  # rows of products begin at whole 16 bytes


@dataclass(frozen=True)
class Layout:
    """A bank's images, those with the most objects first, and the places of each one's objects, followed by its empty places.

    slots: of the images; a place is slot * count + object. counts: how many objects each holds, on the way to the host.
    """

    slots: Int[Tensor, " images"]
    places: Int[Tensor, "images count"]
    counts: HostCopy

    def width(self, first: int) -> int:
        """Return how many places of each image from the `first` on are enough for all their objects."""
        return min(self.places.shape[1], max(1, -(-int(self.counts.value()[first]) // ALIGNED)) * ALIGNED)


@dataclass(frozen=True)
class Held:
    """One view of a bank. bounded: its objects as `bounded_objects` returns them."""

    objects: Float[Tensor, "images count d"]
    inverse_lengths: Float[Tensor, "images count"]
    numbers: Int[Tensor, " images"]
    bounded: Float[Tensor, "images count columns"]
    layout: Layout


def fullest_first(valid: Bool[Tensor, "images count"]) -> Layout:
    """Return the layout of a bank in which these places hold an object."""
    counts, slots = valid.sum(1).sort(descending=True, stable=True)
    objects = (~valid[slots]).to(torch.uint8).sort(dim=1, stable=True).indices
    return Layout(slots, slots[:, None] * valid.shape[1] + objects, HostCopy(counts))


@dataclass(frozen=True)
class Matches:
    """The place of each query's most similar object, whether there is one, and whether it is proven to be the first of them."""

    place: Int[Tensor, " n"]
    matched: Bool[Tensor, " n"]
    proven: Bool[Tensor, " n"]


def bounded_objects(
    objects: Float[Tensor, "*n d"], inverse_lengths: Float[Tensor, "*n"], valid: Bool[Tensor, "*n"]
) -> Float[Tensor, "*n columns"]:
    """Return objects of length 1, rounded and extended by the columns that bound similarities."""
    unit = (objects.float() * inverse_lengths[..., None]).flatten(0, -2)
    scale = torch.full((), SCALE, device=unit.device)
    extended = bounds.extended_rows(unit, scale, valid.flatten(), "dot", PRECISION)
    return extended.unflatten(0, objects.shape[:-1])


def matches(held: Held, queries: Float[Tensor, "n d"], numbers: Int[Tensor, " n"]) -> Matches:
    """Return the most similar object of each query, of another image than its own (numbers: of the queries' images)."""
    count = held.objects.shape[1]
    unit = F.normalize(queries.float(), dim=1)
    query = bounds.bounded_queries(unit, torch.full((), SCALE, device=unit.device), "dot", PRECISION)
    images = max(1, TILE_BYTES // (2 * count * max(1, len(unit))))
    tiles = range(0, len(held.numbers), images)
    bounded, layout = held.bounded.flatten(0, 1), held.layout
    collection = Collection(count, CANDIDATES, len(tiles))
    with bounds.summed_in_float32(unit.device, PRECISION):
        for first in tiles:
            places = layout.places[first : first + images, : layout.width(first)]
            of_images = held.numbers[layout.slots[first : first + images]]
            scores = bounds.product(query.extended, bounded[places.flatten()]).unflatten(1, (-1, places.shape[1]))
            maxima = scores.amax(2).masked_fill_(numbers[:, None] == of_images, -torch.inf)
            every = Lists(torch.arange(len(of_images), device=unit.device)[None], first)
            collection.add(scores, F.pad(maxima, (0, 1), value=-torch.inf), every)
    found = collection.candidates()
    there = found.value[:, 0] > -torch.inf
    place, order = torch.where(there, layout.places.flatten()[found.slot[:, 0]], layout.places.numel()).sort(dim=1)
    there = there.gather(1, order)
    place = place.masked_fill(~there, 0)
    keys = held.objects.flatten(0, 1)[place].float() * held.inverse_lengths.flatten()[place][..., None]
    score = (unit[:, None] * keys).sum(2).masked_fill(~there, -torch.inf)
    best, first_best = top(score, 1)
    best, left_out = best[:, 0] * query.scale, bounds.ceiling(found.left_out[:, 0], PRECISION)
    proven = ((best > left_out) | (left_out == -torch.inf)) & query.usable
    return Matches(place.gather(1, first_best)[:, 0], best > -torch.inf, proven)
