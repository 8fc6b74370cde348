"""The first pass: for each query and subset the rows that may be among its nearest, and a bound on all the others.

The products of every tile are reduced to maxima of groups. The best groups of a tile are kept with their values; after the last
tile, the best rows of the best groups are the candidates. Whatever is dropped is bounded by the greatest maximum that was
dropped. So any step may keep too little: the bound then shows it.

The cost of a selection, in passes over all scores: with groups of g rows there are 1/g as many maxima, and `topk` goes about ten
times through them. Every subset selects only among its own groups, so fractions of a memory cost (the sum of their shares) 10 /
g: 0.35 passes for 1 + 5 (1/8 + 1/64 + 1/128) with g = 50. Subsets of similar size share one call, padded to the longest (at most
twice the work).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

LEAST_OF_TILE = 8  # groups of each tile that are kept, at least


class Candidates(NamedTuple):
    """The candidates of each query and subset.

    slot: their slots in the tiles. value: their bounds, or that of their group; minus infinity for padding. left_out: the
    greatest bound of all other slots.
    """

    slot: Int[Tensor, "q s n"]
    value: Float[Tensor, "q s n"]
    left_out: Float[Tensor, "q s"]


@dataclass(frozen=True)
class Lists:
    """The groups of a tile that some subsets hold: `index[s, n]`, padded with the number of groups in the tile.

    first_group: of the tile.
    """

    index: Int[Tensor, "s n"]
    first_group: int


def batches_of_subsets(held: Bool[Tensor, "s groups"]) -> list[list[int]]:
    """Return the subsets in batches whose numbers of groups differ by less than a factor of two."""
    batches: dict[int, list[int]] = {}
    for subset, size in enumerate(held.sum(1).tolist()):
        batches.setdefault(size.bit_length(), []).append(subset)
    return list(batches.values())


def lists_of(held: Bool[Tensor, "s groups"], first_group: int, device: torch.device) -> Lists:
    """Return the groups of a tile that each subset holds, padded to one length."""
    sizes = held.sum(1)
    order = (~held).to(torch.uint8).sort(dim=1, stable=True).indices[:, : int(sizes.max())]
    padded = torch.where(torch.arange(order.shape[1]) < sizes[:, None], order, held.shape[1])
    return Lists(padded.to(device), first_group)


class Collection:
    """Collects the best groups of some subsets, tile by tile, with the values of their rows.

    size: rows of a group, at most. width: how many groups are kept in the end, and how many rows. tiles: how many there will be.
    """

    def __init__(self, size: int, width: int, tiles: int) -> None:
        self.size, self.width = size, width
        self.of_tile = min(width, -(-4 * width // max(1, tiles)) + LEAST_OF_TILE)
        self.maxima: list[Tensor] = []
        self.groups: list[Tensor] = []
        self.values: list[Tensor] = []
        self.left_out: list[Tensor] = []

    def add(self, scores: Float[Tensor, "q groups size"], maxima: Float[Tensor, "q padded"], lists: Lists) -> None:
        """Keep the best groups of a tile, whose groups may have fewer than `size` rows.

        maxima: of its groups, followed by -inf.
        """
        if lists.index.shape[1] == 0:
            return
        value, group, left_out = _best_groups(maxima, lists, self.of_tile)
        at = group.flatten(1)[:, :, None].expand(-1, -1, scores.shape[2])
        values = scores.gather(1, at).unflatten(1, group.shape[1:])
        if scores.shape[2] < self.size:
            values = F.pad(values, (0, self.size - scores.shape[2]), value=-torch.inf)
        self.maxima.append(value)
        self.groups.append(group + lists.first_group)
        self.values.append(values.masked_fill((value == -torch.inf)[..., None], -torch.inf))
        self.left_out.append(left_out)

    def candidates(self) -> Candidates:
        """Return the best rows of the best groups of all tiles."""
        maxima, groups, values = (torch.cat(parts, 2) for parts in (self.maxima, self.groups, self.values))
        _, rank, of_groups = best_and_next(maxima, self.width)
        values = values.gather(2, rank[..., None].expand(-1, -1, -1, self.size)).flatten(2)
        value, index, of_rows = best_and_next(values, self.width)
        group = groups.gather(2, rank).gather(2, index // self.size)
        left_out = torch.stack([*self.left_out, of_groups, of_rows]).amax(0)
        return Candidates(group * self.size + index % self.size, value, left_out)


class Groups:
    """Collects the best groups of some subsets, tile by tile, without the values of their rows: all rows become candidates."""

    def __init__(self, size: int, width: int) -> None:
        self.size, self.width = size, width
        self.maxima: list[Tensor] = []
        self.groups: list[Tensor] = []
        self.left_out: list[Tensor] = []

    def add(self, maxima: Float[Tensor, "q padded"], lists: Lists) -> None:
        """Keep the best groups of a tile. maxima: of its groups, followed by -inf."""
        if lists.index.shape[1] == 0:
            return
        value, group, left_out = _best_groups(maxima, lists, self.width)
        self.maxima.append(value)
        self.groups.append(group + lists.first_group)
        self.left_out.append(left_out)

    def candidates(self) -> Candidates:
        """Return all rows of the best groups of all tiles."""
        maxima, groups = torch.cat(self.maxima, 2), torch.cat(self.groups, 2)
        value, rank, of_groups = best_and_next(maxima, self.width)
        slot = groups.gather(2, rank)[..., None] * self.size + torch.arange(self.size, device=groups.device)
        left_out = torch.stack([*self.left_out, of_groups]).amax(0)
        return Candidates(slot.flatten(2), value[..., None].expand(slot.shape).flatten(2), left_out)


def _best_groups(maxima: Tensor, lists: Lists, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the greatest maxima of the groups that each subset lists, those groups, and the greatest maximum left out."""
    of_subsets = maxima.index_select(1, lists.index.flatten()).unflatten(1, lists.index.shape)
    value, rank, left_out = best_and_next(of_subsets, most)
    group = lists.index.expand(len(maxima), -1, -1).gather(2, rank)
    return value, group.clamp(max=maxima.shape[1] - 2), left_out  # the last maximum is padding


def best_and_next(
    values: Float[Tensor, "*n c"], most: int
) -> tuple[Float[Tensor, "*n k"], Int[Tensor, "*n k"], Float[Tensor, "*n"]]:
    """Return the greatest values (at most `most`), their indices, and the greatest that is not among them, or -inf."""
    if values.shape[-1] <= most:
        index = torch.arange(values.shape[-1], device=values.device).expand(values.shape)
        return values, index, values.new_full(values.shape[:-1], -torch.inf)
    value, index = values.topk(most + 1, dim=-1)
    return value[..., :most], index[..., :most], value[..., most]


def joined(parts: Sequence[Candidates]) -> Candidates:
    """Return the candidates of several batches of subsets together, padded to the same number with values of minus infinity."""
    most = max(part.slot.shape[2] for part in parts)
    padded = [
        (F.pad(part.slot, (0, most - part.slot.shape[2])), F.pad(part.value, (0, most - part.value.shape[2]), value=-torch.inf))
        for part in parts
    ]
    slot, value = (torch.cat(column, 1) for column in zip(*padded, strict=True))
    return Candidates(slot, value, torch.cat([part.left_out for part in parts], 1))
