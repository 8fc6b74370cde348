"""The plain exact search: float32 products of queries with the whole memory, and selection by the maxima of groups.

A chunk of queries is multiplied with a tile of memory, every group of some rows is represented by its maximum, and each subset's
k nearest are looked for only inside the k groups whose maxima are largest: the true ones lie there. So the product, which is
nearly all of the work, is done once however many subsets there are. Ties go to the row that comes first.
"""

from __future__ import annotations

import torch
from torch import Tensor

from densebench.errors import UserError
from densebench.numerics.search.neighbours import Metric, Neighbours, merged, stacked, top
from densebench.numerics.search.tiles import Tile, group_size, queries_at_once, tiles


class PlainSearch:
    """The tiles of one memory on its device, and their search. segments, members: as for `Search`; group: rows of a group."""

    def __init__(self, memory: Tensor, segments: Tensor, members: Tensor, metric: Metric, group: int | None = None) -> None:
        self.memory, self.metric = memory, metric
        self.subsets, self.device = len(members), memory.device
        self.group = group_size(segments) if group is None else group
        self.tiles = list(tiles(segments, members, self.group, memory.device))
        self.biases = [self._bias(tile) for tile in self.tiles]
        self.groups = [_groups_of_subsets(tile.held, memory.device) for tile in self.tiles]

    def _bias(self, tile: Tile) -> Tensor | None:
        """Return the bias of the product: minus squared lengths for distances, minus infinity for padding; None: no bias."""
        if self.metric == "dot" and tile.first is not None:
            return None
        bias = torch.where(tile.rows >= 0, 0.0, -torch.inf)
        return bias if self.metric == "dot" else bias - self.memory[tile.rows.clamp(min=0)].float().square().sum(1)

    @torch.no_grad()
    def search(self, queries: Tensor, k: int) -> Neighbours:
        """Return the k nearest rows of every subset. Raises UserError where a score exceeds the range of float32."""
        queries = queries.to(self.device).float()
        chunks = (queries if self.metric == "dot" else 2 * queries).split(queries_at_once(self.device))
        # one buffer for all products: a fresh one costs as much as the product itself
        room = queries.new_empty(len(chunks[0]) * max(len(tile.rows) for tile in self.tiles))
        nothing = [Neighbours(chunk.new_empty(len(chunk), 0), chunk.new_empty(len(chunk), 0).long()) for chunk in chunks]
        best = [[none] * self.subsets for none in nothing]
        for t, tile in enumerate(self.tiles):
            keys = self._keys(tile)
            for chunk, best_of_chunk in zip(chunks, best, strict=True):
                product = torch.mm(chunk, keys.T, out=room[: len(chunk) * len(keys)].view(len(chunk), len(keys)))
                self._visit(t, product, best_of_chunk, k)
        of_chunks = [stacked(best_of_chunk) for best_of_chunk in best]
        score = torch.cat([neighbours.score for neighbours in of_chunks], 1)
        if self.metric == "l2":
            score = (score - queries.square().sum(1)[:, None]).clamp(max=0.0)  # rounding may leave a distance below zero
        return Neighbours(score, torch.cat([neighbours.index for neighbours in of_chunks], 1))

    def _visit(self, t: int, product: Tensor, best: list[Neighbours], k: int) -> None:
        """Update the best neighbours of every subset with the rows of tile t, given the product with the queries."""
        bias, rows = self.biases[t], self.tiles[t].rows
        if bias is not None:
            product += bias
        product = product.unflatten(1, (len(rows) // self.group, self.group))
        maxima = product.amax(2)
        for s, groups in enumerate(self.groups[t]):
            if len(groups):
                best[s] = merged(best[s], _in_groups(product, maxima, groups, rows, k), k)

    def _keys(self, tile: Tile) -> Tensor:
        if tile.first is not None:  # no padding: a view
            return self.memory[tile.first : tile.first + len(tile.rows)].float()
        return self.memory[tile.rows.clamp(min=0)].float()


def _groups_of_subsets(held: Tensor, device: torch.device) -> list[Tensor]:
    """Return the groups that each subset holds, moved to the device at once."""
    subsets, groups = held.nonzero(as_tuple=True)
    return list(groups.to(device).split(torch.bincount(subsets, minlength=len(held)).tolist()))


def _in_groups(product: Tensor, maxima: Tensor, subset: Tensor, rows: Tensor, k: int) -> Neighbours:
    """Return the k best of a tile among the groups that a subset holds. Padding may be among them, with a score of -inf."""
    size = product.shape[2]
    _, best = top(maxima.index_select(1, subset), min(k, len(subset)))
    groups = subset[best].sort(1).values  # in the order of rows, so that ties go to the first
    scores = product.gather(1, groups[:, :, None].expand(-1, -1, size)).flatten(1)
    score, index = top(scores, min(k, scores.shape[1]))
    group = groups.gather(1, index // size)
    return Neighbours(score, rows[group * size + index % size])


def check_range(score: Tensor) -> None:
    """Raise UserError where a score is not finite: an overflow, which padding would turn to NaN and put first."""
    if not bool(score.isfinite().all()):
        raise UserError("inner products exceed the range of float32; normalise or scale down the features")
