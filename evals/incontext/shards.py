"""A memory that several processes hold together, each a part of its rows: every process asks, and all get the same answer.

The parts are consecutive rows, so the best rows of all parts, merged with ties to the first row, are those of the whole memory. A
score is computed from one query and one row. On a GPU it is the same number in every part (`two_pass`); on a CPU a product of
another shape may add in another order and differ in its last bits, so that rows whose scores agree to these may change places.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from densebench.evals.incontext.memory import Layout
from densebench.numerics.search import Metric, Neighbours, Search, merged_top
from densebench.processes import gather, rank, total, total_at, world_size


def share_of_views(rows: Int[Tensor, "views"], number: int, parts: int) -> slice:
    """Return which consecutive views part `number` of a memory holds: those whose first row lies in its share of all rows."""
    first, whole = rows.cumsum(0) - rows, int(rows.sum())
    ends = [int((first < whole * end / parts).sum()) for end in (number, number + 1)]
    return slice(*ends)


class PartSearch:
    """The search of one part of a memory in subsets that may hold fewer rows of it than are asked for."""

    def __init__(self, rows: Float[Tensor, "m d"], layout: Layout, metric: Metric) -> None:
        self.rows, self.layout, self.metric = rows, layout, metric
        self.sizes = layout.sizes()
        self._searches: dict[tuple[int, ...], Search] = {}

    @property
    def fallbacks(self) -> int | None:
        """How many queries so far were searched by the plain search, for want of a proof; None where there is one pass."""
        counts = [search.fallbacks for search in self._searches.values() if search.fallbacks is not None]
        return sum(counts) if counts else None

    def search(self, queries: Float[Tensor, "q d"], k: int) -> Neighbours:
        """Return the k nearest rows of this part for every subset; -inf and row 0 where it holds fewer."""
        shape = (len(self.sizes), len(queries), k)
        score = torch.full(shape, -torch.inf, device=self.rows.device)
        index = torch.zeros(shape, dtype=torch.int64, device=self.rows.device)
        for subsets, most in self._calls(k):
            found = self._search(subsets).search(queries, most)
            score[list(subsets), :, :most], index[list(subsets), :, :most] = found.score, found.index
        return Neighbours(score, index)

    def _calls(self, k: int) -> list[tuple[tuple[int, ...], int]]:
        """Return which subsets are searched together, and for how many rows: all that hold k rows, the others one by one."""
        enough = tuple(subset for subset, size in enumerate(self.sizes) if size >= k)
        few = [((subset,), size) for subset, size in enumerate(self.sizes) if 0 < size < k]
        return [*([(enough, k)] if enough else []), *few]

    def _search(self, subsets: tuple[int, ...]) -> Search:
        if subsets not in self._searches:
            members: Bool[Tensor, "s b"] = self.layout.members[list(subsets)]
            self._searches[subsets] = Search(self.rows, self.layout.segments, members, metric=self.metric)
        return self._searches[subsets]


class SharedSearch:
    """The search of a whole memory of which this process holds a part, whose first row has the number `first`."""

    def __init__(self, part: PartSearch, first: int) -> None:
        self.part, self.first = part, first

    @property
    def fallbacks(self) -> int | None:
        """Those of this process: see `PartSearch`."""
        return self.part.fallbacks

    def search(self, queries: Float[Tensor, "q d"], k: int) -> Neighbours:
        """Return in every process the k nearest rows of the whole memory, `[s q k]`; all ask with the same queries."""
        found = self.part.search(queries, k)
        parts = [gather(each[None]) for each in (found.score, found.index + self.first)]
        score, index = (part.movedim(0, -2).flatten(-2) for part in parts)
        return Neighbours(*merged_top(score, index, k))


def labels_at(
    owner: int | None, index: Int[Tensor, "q k"], labels: Shaped[Tensor, "m width"], first: int
) -> Shaped[Tensor, "n width"] | None:
    """Return the labels of neighbours in the process `owner` (None: in all), query by query; None in the others.

    labels: of the rows that this process holds, from row `first` on. Every row is held by one process: the others add zeros.
    """
    wanted = index.flatten() - first
    here = (wanted >= 0) & (wanted < len(labels))
    found = labels.new_zeros(len(wanted), labels.shape[1])
    found[here] = labels[wanted[here]]
    return total(found) if owner is None else total_at(owner, found)


def joined_norms(norms: Float[Tensor, "m"], counts: list[int]) -> Float[Tensor, "all"]:
    """Return the norms of the rows of all processes in the order of rows. counts: how many rows each process holds."""
    padded = norms.new_zeros(max(counts))
    padded[: len(norms)] = norms
    return torch.cat([part[:count] for part, count in zip(gather(padded[None]), counts, strict=True)])


def own_views(layout: Layout) -> slice:
    """Return which consecutive views of a memory this process holds: all of them, where it works alone."""
    return share_of_views(layout.rows, rank(), world_size())
