"""Exact search in two passes: bounds of all scores in low precision, then scores of a few candidates in float32, with a proof.

The first pass (`candidates`) finds for each query and subset the rows with the greatest bounds and a ceiling on the scores of all
others. The second computes the candidates' scores in float32, one query and one row at a time, so that a score depends on
these two alone and equal rows tie exactly. Where the k-th of them exceeds the ceiling, the k nearest are proven: they are those
that this float32 routine would find in the whole memory, ties to the first row. Other queries are searched with more candidates,
and at last with the plain search.

The result beside that of the plain search, which adds the products of a score in another order: both scores are within d 2^-24
|q| |r| of the real one, so the two searches list the same rows except where two scores are closer than twice that, which neither
can tell apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from densebench.numerics.device_copy import on_device
from densebench.numerics.host_copy import HostCopy
from densebench.numerics.search import bounds
from densebench.numerics.search.bounds import BoundedQueries, Precision
from densebench.numerics.search.candidates import Candidates, Collection, Groups, batches_of_subsets, joined, lists_of
from densebench.numerics.search.fused import group_maxima
from densebench.numerics.search.neighbours import Metric, Neighbours, top
from densebench.numerics.search.plain import PlainSearch
from densebench.numerics.search.tiles import queries_at_once

SPARE = 32  # candidates beyond k, at least
SPARE_GROUPS = 8  # groups beyond k, where whole groups are candidates
WIDER = 8  # times as many candidates in the second round
GATHERED = 2**26  # most values of candidates' rows held at once


@dataclass
class Tally:
    """How many queries needed a second round with more candidates (`widened`), and how many the plain search (`fallbacks`)."""

    widened: int = 0
    fallbacks: int = 0


class TwoPassSearch:
    """The rounded rows of a memory, and their search. plain: the plain search of the same memory, which holds its tiles."""

    def __init__(self, plain: PlainSearch, metric: Metric, precision: Precision, *, fused: bool) -> None:
        self.plain, self.metric, self.precision, self.fused = plain, metric, precision, fused
        self.memory, self.tally = plain.memory, Tally()
        self.scale = bounds.scale_of(self.memory, (0, 1))
        self.rows = torch.cat([tile.rows for tile in plain.tiles])
        self.keys = [
            bounds.extended_rows(self.memory[tile.rows.clamp(min=0)], self.scale, tile.rows >= 0, metric, precision)
            for tile in plain.tiles
        ]
        self.subsets = batches_of_subsets(torch.cat([tile.held for tile in plain.tiles], 1))
        self.order = torch.tensor([s for batch in self.subsets for s in batch]).argsort().to(self.memory.device)
        firsts = torch.tensor([0, *(tile.held.shape[1] for tile in plain.tiles)]).cumsum(0).tolist()
        self.lists = [
            [lists_of(tile.held[batch], first, self.memory.device) for batch in self.subsets]
            for tile, first in zip(plain.tiles, firsts, strict=False)
        ]

    @torch.no_grad()
    def search(self, queries: Tensor, k: int) -> Neighbours:
        """Return the k nearest rows of every subset, as the plain search does; `tally` counts queries that are searched again."""
        queries = queries.to(self.memory.device).float()
        return self._search(queries, k, k + (SPARE_GROUPS if self.fused else max(k, SPARE)))

    def _search(self, queries: Tensor, k: int, width: int) -> Neighbours:
        """Return the k nearest rows from `width` candidates; queries whose answers are not proven are searched again."""
        with bounds.summed_in_float32(queries.device, self.precision):
            found = [self._proven(chunk, k, width) for chunk in queries.split(queries_at_once(queries.device))]
        copied = HostCopy(torch.cat([~proven.all(0) for _, proven in found]))
        score, index = (torch.cat(parts, 1) for parts in zip(*((one.score, one.index) for one, _ in found), strict=True))
        unproven = copied.value().nonzero()[:, 0]
        if len(unproven) == 0:
            return Neighbours(score, index)
        unproven = on_device(unproven, queries.device)
        if width < WIDER * k + SPARE * WIDER:
            self.tally.widened += len(unproven)
            better = self._search(queries[unproven], k, WIDER * width)
        else:
            self.tally.fallbacks += len(unproven)
            better = self.plain.search(queries[unproven], k)
        return Neighbours(score.index_copy(1, unproven, better.score), index.index_copy(1, unproven, better.index))

    def _proven(self, queries: Tensor, k: int, width: int) -> tuple[Neighbours, Bool[Tensor, "s q"]]:
        """Return neighbours, and for which subsets and queries they are proven to be the k nearest."""
        doubled = queries if self.metric == "dot" else 2 * queries
        bounded = bounds.bounded_queries(doubled, self.scale, self.metric, self.precision)
        candidates = self._candidates(bounded, width)
        score, index = self._scored(doubled, candidates, k)
        ceiling = bounds.ceiling(candidates.left_out, self.precision)
        proven = (score[..., -1] * bounded.scale[:, None] > ceiling) & bounded.usable[:, None]
        if self.metric == "l2":
            score = (score - queries.square().sum(1)[:, None, None]).clamp(max=0.0)
        found = Neighbours(score.transpose(0, 1), index.transpose(0, 1))
        return found, proven.T

    def _candidates(self, bounded: BoundedQueries, width: int) -> Candidates:
        """Return the candidates of all subsets, in the order of the subsets."""
        size = self.plain.group
        if self.fused:
            found = joined(self._groups(bounded, [Groups(size, width) for _ in self.subsets]))
            return Candidates(*(part.index_select(1, self.order) for part in found))
        collections = [Collection(size, width, len(self.keys)) for _ in self.subsets]
        for keys, lists in zip(self.keys, self.lists, strict=True):
            scores = bounds.product(bounded.extended, keys).unflatten(1, (-1, size))
            maxima = F.pad(scores.amax(2), (0, 1), value=-torch.inf)
            for collection, of_batch in zip(collections, lists, strict=True):
                collection.add(scores, maxima, of_batch)
        found = joined([collection.candidates() for collection in collections])
        return Candidates(*(part.index_select(1, self.order) for part in found))

    def _groups(self, bounded: BoundedQueries, collections: list[Groups]) -> list[Candidates]:
        """Return the candidates of each batch of subsets, selected by the maxima of groups alone."""
        for keys, lists in zip(self.keys, self.lists, strict=True):
            maxima = F.pad(group_maxima(bounded.extended, keys, self.plain.group), (0, 1), value=-torch.inf)
            for collection, of_batch in zip(collections, lists, strict=True):
                collection.add(maxima, of_batch)
        return [collection.candidates() for collection in collections]

    def _scored(self, queries: Tensor, candidates: Candidates, k: int) -> tuple[Tensor, Tensor]:
        """Return the k best scores in float32 and their rows, `[q s k]` each; the first row wins a tie."""
        last, rows = len(self.memory), self.rows[candidates.slot]
        real = (candidates.value > -torch.inf) & (rows >= 0)
        rows = torch.where(real, rows, last).sort(dim=2).values
        subsets, width = rows.shape[1:]
        parts = zip(
            queries.split(step := max(1, GATHERED // (subsets * width * queries.shape[1]))), rows.split(step), strict=True
        )
        scores = [self._score(of_part, row.clamp(max=last - 1)) for of_part, row in parts]
        score = torch.cat(scores).masked_fill(rows == last, -torch.inf)
        value, rank = top(score.flatten(0, 1), k)
        return value.unflatten(0, (-1, subsets)), rows.gather(2, rank.unflatten(0, (-1, subsets))).clamp(max=last - 1)

    def _score(self, queries: Float[Tensor, "q d"], rows: Tensor) -> Tensor:
        keys = self.memory[rows].float()
        score = (queries[:, None, None] * keys).sum(3)
        return score if self.metric == "dot" else score - keys.square().sum(3)
