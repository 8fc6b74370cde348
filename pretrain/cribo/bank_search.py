"""CrIBo's search in two passes: products in fp16 that bound every similarity, then float32 for the few that may be the greatest.

A step of `coco` searches a bank of 25,000 images x 64 objects of 384 numbers for 11,500 queries in each view: 29 TFLOP on tensor
cores (37 ms at 790 TFLOP/s), and 150 GB of products in halves that are written and read once (31 ms at 4.8 TB/s). The rounded
objects take 2.6 GB beside the bank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.numerics.search import bounds
from densebench.numerics.search.candidates import Collection, Lists
from densebench.numerics.search.neighbours import top

PRECISION: bounds.Precision = "fp16"
SCALE = 0.5  # objects of length 1, rounded to the bank's type, are scaled to at most 1
CANDIDATES = 16  # of which the similarity is computed in float32
TILE_BYTES = 2 * 2**30  # most bytes of an array of products


@dataclass(frozen=True)
class Held:
    """One view of a bank. bounded: its objects as `bounded_objects` returns them; a place is slot * count + object."""

    objects: Float[Tensor, "images count d"]
    inverse_lengths: Float[Tensor, "images count"]
    numbers: Int[Tensor, " images"]
    bounded: Float[Tensor, "images count columns"]


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
    collection = Collection(count, CANDIDATES, len(tiles))
    with bounds.summed_in_float32(unit.device, PRECISION):
        for first in tiles:
            keys, of_images = held.bounded[first : first + images].flatten(0, 1), held.numbers[first : first + images]
            scores = bounds.product(query.extended, keys).unflatten(1, (-1, count))
            maxima = scores.amax(2).masked_fill_(numbers[:, None] == of_images, -torch.inf)
            every = Lists(torch.arange(len(of_images), device=unit.device)[None], first)
            collection.add(scores, F.pad(maxima, (0, 1), value=-torch.inf), every)
    found = collection.candidates()
    there = found.value[:, 0] > -torch.inf
    place, order = torch.where(there, found.slot[:, 0], held.objects[..., 0].numel()).sort(dim=1)
    there = there.gather(1, order)
    place = place.masked_fill(~there, 0)
    keys = held.objects.flatten(0, 1)[place].float() * held.inverse_lengths.flatten()[place][..., None]
    score = (unit[:, None] * keys).sum(2).masked_fill(~there, -torch.inf)
    best, first_best = top(score, 1)
    best, left_out = best[:, 0] * query.scale, bounds.ceiling(found.left_out[:, 0], PRECISION)
    proven = ((best > left_out) | (left_out == -torch.inf)) & query.usable
    return Matches(place.gather(1, first_best)[:, 0], best > -torch.inf, proven)
