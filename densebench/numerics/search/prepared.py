"""Search in many subsets of one memory at once, by any engine."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.errors import UserError
from densebench.numerics.host_copy import HostCopy
from densebench.numerics.search.bounds import Precision
from densebench.numerics.search.engines import SubsetIndex
from densebench.numerics.search.fused import GROUPS as FUSED_GROUPS
from densebench.numerics.search.neighbours import Metric, Neighbours, stacked
from densebench.numerics.search.plain import PlainSearch, check_range
from densebench.numerics.search.tiles import group_size
from densebench.numerics.search.two_pass import Tally, TwoPassSearch

EXACT_ENGINES = ("exact", "faiss")
ENGINES = (*EXACT_ENGINES, "faiss-ivf", "scann")
SAFE = 1e18  # no sum of products of rows and queries whose lengths are below this exceeds the range of float32


def nearest(
    queries: Float[Tensor, "q d"], memory: Float[Tensor, "m d"], k: int, *, engine: str = "exact", metric: Metric = "dot"
) -> Neighbours:
    """Return the k rows of `memory` nearest to each query, best first; the row that comes first wins a tie (exact engines).

    metric: "dot" is the inner product (cosine if both are of length 1), "l2" the negative squared Euclidean distance.
    Raises UserError where k is not between 1 and m, widths differ, a value is not finite, or the engine is not installed.
    """
    whole = torch.tensor([len(memory)]), torch.ones(1, 1, dtype=torch.bool)
    neighbours = Search(memory, *whole, engine=engine, metric=metric).search(queries, k)
    return Neighbours(neighbours.score[0], neighbours.index[0])


class Search:
    """A memory prepared for search in any number of subsets of its rows at once.

    segments: lengths of consecutive blocks of rows; members[s, b]: whether subset s holds block b. Rows of a block always enter a
    subset together, such as the patches of one image. Engines other than "exact" build one index a subset. first_pass: the
    precision in which "exact" computes bounds, whose answer it then proves in float32: fp16, bf16 or tf32. With "none" there is
    one pass, in float32. "auto" is "none" on a CPU; on a GPU it is the memory's own dtype if that is fp16 or bf16, otherwise
    fp16. fused: compute the first pass by a kernel that never writes products (needs Triton on a GPU).

    Raises UserError for an unknown engine, metric or first pass, and where the memory holds values that are not finite.
    """

    def __init__(
        self,
        memory: Float[Tensor, "m d"],
        segments: Int[Tensor, "b"],
        members: Bool[Tensor, "s b"],
        *,
        engine: str = "exact",
        metric: Metric = "dot",
        first_pass: str = "auto",
        fused: bool = False,
    ) -> None:
        if engine not in ENGINES:
            raise UserError(f"unknown search engine {engine!r}: there are {', '.join(ENGINES)}")
        if metric not in get_args(Metric):
            raise UserError(f"unknown search metric {metric!r}: there are {', '.join(get_args(Metric))}")
        if first_pass not in (known := ("auto", "none", *get_args(Precision))):
            raise UserError(f"unknown first pass {first_pass!r}: there are {', '.join(known)}")
        self._length = _length(memory, "memory")
        self.memory, self.metric, self.exact = memory, metric, engine == "exact"
        self.sizes: list[int] = (members * segments).sum(1).tolist()
        self._tally: Tally | None = None
        if self.exact:
            plain = PlainSearch(memory, segments, members, metric, group_size(segments, FUSED_GROUPS) if fused else None)
            self._search: Callable[[Tensor, int], Neighbours] = plain.search
            if (precision := _precision(first_pass, memory)) is not None:
                two_pass = TwoPassSearch(plain, metric, precision, fused=fused)
                self._search, self._tally = two_pass.search, two_pass.tally
        else:
            rows_held = torch.repeat_interleave(members, segments, dim=1)
            indices = [SubsetIndex(engine, memory, held.nonzero()[:, 0], metric) for held in rows_held]
            self._search = lambda queries, k: stacked([index.search(queries, k) for index in indices])

    @property
    def fallbacks(self) -> int | None:
        """How many queries so far were searched by the plain search, for want of a proof; None where there is one pass."""
        return None if self._tally is None else self._tally.fallbacks

    @property
    def widened(self) -> int | None:
        """How many queries so far needed a second round with more candidates; None where there is one pass."""
        return None if self._tally is None else self._tally.widened

    def search(self, queries: Float[Tensor, "q d"], k: int) -> Neighbours:
        """Return the k nearest rows of every subset: score and index `[s q k]`, best first, rows numbered in the whole memory.

        Raises UserError where k is not between 1 and the smallest subset's size, or widths differ, or a value is not finite.
        """
        if not 1 <= k <= min(self.sizes):
            raise UserError(f"k = {k} neighbours: a memory holds {min(self.sizes)} rows; ask for 1 to {min(self.sizes)}")
        if queries.shape[1] != self.memory.shape[1]:
            raise UserError(f"queries have {queries.shape[1]} features and the memory {self.memory.shape[1]}; use one backbone")
        if not self.memory.is_cuda:
            _check_finite(queries, "queries")
            found = self._search(queries, k)
        else:
            length = HostCopy(torch.linalg.vector_norm(queries.to(self.memory.device).float()))
            found = self._search(queries, k)
            longest = float(length.value())  # its copy began before the search, so it has arrived
            if not longest < math.inf:
                _check_finite(queries, "queries")
            if max(longest, self._length) < SAFE:
                return found
        if self.exact:
            check_range(found.score)
        return found


def _precision(first_pass: str, memory: Tensor) -> Precision | None:
    """Return the precision of the first of two passes; None: there is one pass."""
    halves: dict[torch.dtype, Precision] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    if first_pass == "auto":
        return halves.get(memory.dtype, "fp16") if memory.is_cuda else None
    return None if first_pass == "none" else first_pass  # type: ignore[return-value]


def _length(memory: Tensor, what: str) -> float:
    """Return the length of all rows as one vector, which bounds that of each row; on a CPU, where it is not needed, infinity.

    Raises UserError where a value is not finite.
    """
    length = math.inf
    if memory.is_cuda and len(memory):
        parts = [torch.linalg.vector_norm(part.float()) for part in memory.split(2**18)]
        length = float(torch.linalg.vector_norm(torch.stack(parts)))
    if not length < math.inf:  # on a GPU the squares may also have overflowed, so every value is checked
        _check_finite(memory, what)
    return length


def _check_finite(rows: Tensor, what: str) -> None:
    if any(not bool(part.isfinite().all()) for part in rows.split(2**18)):
        raise UserError(f"the {what} hold values that are not finite; the backbone's features overflow: try --precision fp32")
