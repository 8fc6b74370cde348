"""Nearest neighbours: exact with bounded memory, for many subsets of one memory in one pass; faiss and ScaNN as other engines.

The exact search multiplies a chunk of queries with a tile of memory, takes the maximum of every group of some rows, and looks
for each subset's k nearest only inside the k groups whose maxima are largest: the true ones lie there. So the product, which is
nearly all of the work, is done once however many subsets there are. Ties go to the row that comes first.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from densebench.errors import UserError

EXACT_ENGINES = ("exact", "faiss")
ENGINES = (*EXACT_ENGINES, "faiss-ivf", "scann")
Metric = Literal["dot", "l2"]

# Tuned on a server CPU with AVX-512, memory of 1024 images x 196 patches x 384, 16 subsets; seconds of one core for 1024 queries:
# 256 queries x 2^18 rows 1.5, 512 x 2^17 1.7, 1024 x 2^16 2.0.
GROUPS = range(32, 65)  # how many rows one maximum may stand for
TILE = 2**18  # rows multiplied at once; fixed, so that results do not depend on the memory at hand
QUERIES = {"cpu": 256, "cuda": 2048}  # rows of the product: 256 MiB and 2 GiB of float32 with a full tile


@dataclass(frozen=True)
class Neighbours:
    """Nearest rows of a memory, best first. score: inner product, or negative squared distance; index: row of the memory."""

    score: Float[Tensor, "*subsets q k"]
    index: Int[Tensor, "*subsets q k"]


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


def recall(index: Int[Tensor, "q k"], truth: Int[Tensor, "q k"]) -> float:
    """Return recall@k: the share of the true neighbours `truth` that are in `index`, over all queries."""
    return float((index[:, :, None] == truth[:, None, :]).any(1).float().mean())


class Search:
    """A memory prepared for search in any number of subsets of its rows at once.

    segments: lengths of consecutive blocks of rows; members[s, b]: whether subset s holds block b. Rows of a block always
    enter a subset together, such as the patches of one image. Engines other than "exact" build one index a subset.
    """

    def __init__(
        self,
        memory: Float[Tensor, "m d"],
        segments: Int[Tensor, "b"],
        members: Bool[Tensor, "s b"],
        *,
        engine: str = "exact",
        metric: Metric = "dot",
    ) -> None:
        if engine not in ENGINES:
            raise UserError(f"unknown search engine {engine!r}: there are {', '.join(ENGINES)}")
        if metric not in get_args(Metric):
            raise UserError(f"unknown search metric {metric!r}: there are {', '.join(get_args(Metric))}")
        _check_finite(memory, "memory")
        self.memory, self.metric = memory, metric
        self.sizes: list[int] = (members * segments).sum(1).tolist()
        if engine == "exact":
            exact = _Exact(memory, segments, members, metric)
            self._search: Callable[[Tensor, int], Neighbours] = exact.search
        else:
            rows_held = torch.repeat_interleave(members, segments, dim=1)
            indices = [_SubsetIndex(engine, memory, held.nonzero()[:, 0], metric) for held in rows_held]
            self._search = lambda queries, k: _stack([index.search(queries, k) for index in indices])

    def search(self, queries: Float[Tensor, "q d"], k: int) -> Neighbours:
        """Return the k nearest rows of every subset: score and index `[s q k]`, best first, rows numbered in the whole memory.

        Raises UserError where k is not between 1 and the smallest subset's size, or widths differ, or a value is not finite.
        """
        if not 1 <= k <= min(self.sizes):
            raise UserError(f"k = {k} neighbours: a memory holds {min(self.sizes)} rows; ask for 1 to {min(self.sizes)}")
        if queries.shape[1] != self.memory.shape[1]:
            raise UserError(f"queries have {queries.shape[1]} features and the memory {self.memory.shape[1]}; use one backbone")
        _check_finite(queries, "queries")
        return self._search(queries, k)


def _check_finite(rows: Tensor, what: str) -> None:
    if any(not bool(part.isfinite().all()) for part in rows.split(2**18)):
        raise UserError(f"the {what} hold values that are not finite; the backbone's features overflow: try --precision fp32")


def _stack(subsets: list[Neighbours]) -> Neighbours:
    return Neighbours(torch.stack([subset.score for subset in subsets]), torch.stack([subset.index for subset in subsets]))


@dataclass(frozen=True)
class _Tile:
    """Consecutive groups: which rows their slots hold (-1: padding), what is added to the product, and each subset's groups."""

    rows: Int[Tensor, "slots"]
    bias: Float[Tensor, "slots"] | None
    groups: list[Int[Tensor, "_"]]


class _Exact:
    """The tiles of one memory on its device, and their search."""

    def __init__(self, memory: Tensor, segments: Tensor, members: Tensor, metric: Metric) -> None:
        self.memory, self.metric = memory, metric
        self.subsets, self.device = len(members), memory.device
        self.group = group_size(segments)
        self.tiles = list(self._tiles(segments, members))

    def _tiles(self, segments: Tensor, members: Tensor) -> Iterator[_Tile]:
        groups = (segments + self.group - 1) // self.group
        block = torch.repeat_interleave(torch.arange(len(segments)), groups)
        first_row, first_group = segments.cumsum(0) - segments, groups.cumsum(0) - groups
        start = (torch.arange(len(block)) - first_group[block]) * self.group  # within the block
        for span in torch.arange(len(block)).split(max(1, TILE // self.group)):
            slot = start[span, None] + torch.arange(self.group)
            real = slot < segments[block[span], None]
            rows = torch.where(real, first_row[block[span], None] + slot, -1).flatten().to(self.device)
            of_subsets = [held.nonzero()[:, 0].to(self.device) for held in members[:, block[span]]]
            yield _Tile(rows, self._bias(rows), of_subsets)

    def _bias(self, rows: Tensor) -> Tensor | None:
        """Return the bias of the product: minus squared lengths for distances, minus infinity for padding; None: no bias."""
        if self.metric == "dot" and bool((rows >= 0).all()):
            return None
        bias = torch.where(rows >= 0, 0.0, -torch.inf)
        return bias if self.metric == "dot" else bias - self.memory[rows.clamp(min=0)].float().square().sum(1)

    @torch.no_grad()
    def search(self, queries: Tensor, k: int) -> Neighbours:
        queries = queries.to(self.device).float()
        chunks = (queries if self.metric == "dot" else 2 * queries).split(QUERIES[self.device.type])
        # one buffer for all products: a fresh one costs as much as the product itself
        room = queries.new_empty(len(chunks[0]) * max(len(tile.rows) for tile in self.tiles))
        nothing = [Neighbours(chunk.new_empty(len(chunk), 0), chunk.new_empty(len(chunk), 0).long()) for chunk in chunks]
        best = [[none] * self.subsets for none in nothing]
        for tile in self.tiles:
            keys = self._keys(tile)
            for chunk, best_of_chunk in zip(chunks, best, strict=True):
                product = torch.mm(chunk, keys.T, out=room[: len(chunk) * len(keys)].view(len(chunk), len(keys)))
                self._visit(tile, product, best_of_chunk, k)
        stacked = [_stack(best_of_chunk) for best_of_chunk in best]
        score = torch.cat([neighbours.score for neighbours in stacked], 1)
        if self.metric == "l2":
            score = (score - queries.square().sum(1)[:, None]).clamp(max=0.0)  # rounding may leave a distance below zero
        if not bool(score.isfinite().all()):  # an overflow, which padding would turn to NaN and put first
            raise UserError("inner products exceed the range of float32; normalise or scale down the features")
        return Neighbours(score, torch.cat([neighbours.index for neighbours in stacked], 1))

    def _visit(self, tile: _Tile, product: Tensor, best: list[Neighbours], k: int) -> None:
        """Update the best neighbours of every subset with the rows of a tile, given the product with the queries."""
        if tile.bias is not None:
            product += tile.bias
        product = product.unflatten(1, (len(tile.rows) // self.group, self.group))
        maxima = product.amax(2)
        for s, groups in enumerate(tile.groups):
            if len(groups):
                best[s] = _merge(best[s], _in_groups(product, maxima, groups, tile.rows, k), k)

    def _keys(self, tile: _Tile) -> Tensor:
        first, last = int(tile.rows[0]), int(tile.rows[-1])
        if last - first + 1 == len(tile.rows):  # no padding: a view
            return self.memory[first : last + 1].float()
        return self.memory[tile.rows.clamp(min=0)].float()


def group_size(segments: Int[Tensor, "b"]) -> int:
    """Return the size among GROUPS that pads segments of these lengths least; the greatest of equals."""
    return min(GROUPS, key=lambda size: (int((-segments % size).sum()), -size))


def _in_groups(product: Tensor, maxima: Tensor, subset: Tensor, rows: Tensor, k: int) -> Neighbours:
    """Return the k best of a tile among the groups that a subset holds. Padding may be among them, with a score of -inf."""
    size = product.shape[2]
    _, best = top(maxima.index_select(1, subset), min(k, len(subset)))
    groups = subset[best].sort(1).values  # in the order of rows, so that ties go to the first
    scores = product.gather(1, groups[:, :, None].expand(-1, -1, size)).flatten(1)
    score, index = top(scores, min(k, scores.shape[1]))
    group = groups.gather(1, index // size)
    return Neighbours(score, rows[group * size + index % size])


def _merge(best: Neighbours, more: Neighbours, k: int) -> Neighbours:
    """Return the k best of two lists; where scores are equal, those of the first come first."""
    if best.score.shape[1] == 0:
        return more
    scores = torch.cat([best.score, more.score], 1)
    score, index = top(scores, min(k, scores.shape[1]))
    return Neighbours(score, torch.cat([best.index, more.index], 1).gather(1, index))


def top(values: Float[Tensor, "q n"], k: int) -> tuple[Float[Tensor, "q k"], Int[Tensor, "q k"]]:
    """Return the k greatest of each row, greatest first, and their indices; the first index wins a tie.

    `topk` leaves ties open, so rows where one lies among the k + 1 greatest are sorted again, stably.
    """
    value, index = values.topk(min(k + 1, values.shape[1]), dim=1)
    tied = ((value[:, 1:] == value[:, :-1]) & value[:, 1:].isfinite()).any(1).nonzero()[:, 0]
    value, index = value[:, :k], index[:, :k]
    if len(tied):
        again, order = values[tied].sort(dim=1, descending=True, stable=True)
        value, index = value.index_copy(0, tied, again[:, :k]), index.index_copy(0, tied, order[:, :k])
    return value, index


class _SubsetIndex:
    """One subset's index in faiss or ScaNN. Queries for which it finds fewer than k rows are searched exactly."""

    def __init__(self, engine: str, memory: Tensor, rows: Tensor, metric: Metric) -> None:
        self.rows, self.metric = rows.to(memory.device), metric
        self.memory = memory[self.rows].float()
        build = {"faiss": _faiss_flat, "faiss-ivf": faiss_ivf, "scann": _scann}[engine]
        self.find = build(self.memory.cpu().numpy(), metric)

    def search(self, queries: Tensor, k: int) -> Neighbours:
        index = torch.from_numpy(self.find(np.ascontiguousarray(queries.float().cpu().numpy()), k)).to(self.memory.device)
        short = (index < 0).any(1).nonzero()[:, 0]
        if len(short):
            index[short] = nearest(queries[short].to(self.memory.device), self.memory, k, metric=self.metric).index
        keys = self.memory[index]
        query = queries.float().to(keys.device)[:, None]
        score = (query * keys).sum(-1) if self.metric == "dot" else -(query - keys).square().sum(-1)
        score, order = top(score, k)
        return Neighbours(score, self.rows[index.gather(1, order)])


SCANN_LEAST = 16  # it quantises into 16 centres, which as many rows must train
Find = Callable[[np.ndarray, int], np.ndarray]


def _library(name: str, remedy: str) -> ModuleType:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of their generated bindings
            return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"the search engine {name} cannot be imported ({error}); {remedy}") from error


def _faiss_flat(memory: np.ndarray, metric: Metric) -> Find:
    faiss: Any = _library("faiss", "pip install faiss-cpu, or use --engine exact")
    index = (faiss.IndexFlatIP if metric == "dot" else faiss.IndexFlatL2)(memory.shape[1])
    index.add(memory)
    return lambda queries, k: index.search(queries, k)[1]


def faiss_ivf(memory: np.ndarray, metric: Metric) -> Find:
    """Return a search by inverted lists: 4 sqrt(m), as faiss advises, of at least 39 training points each; 32 are searched."""
    faiss: Any = _library("faiss", "pip install faiss-cpu, or use --engine exact")
    lists = max(1, min(int(4 * len(memory) ** 0.5), len(memory) // 39))
    kind = faiss.METRIC_INNER_PRODUCT if metric == "dot" else faiss.METRIC_L2
    index = faiss.index_factory(memory.shape[1], f"IVF{lists},Flat", kind)
    index.train(memory)
    index.add(memory)
    index.nprobe = min(32, lists)
    return lambda queries, k: index.search(queries, k)[1]


def _scann(memory: np.ndarray, metric: Metric) -> Find:
    """Return a search with the settings of open-hummingbird-eval (its documented 4 dimensions per block are 2 in effect).

    512 leaves, of which 32 are searched; in a small memory one leaf per hundred rows, of which a sixteenth, at least four.
    """
    scann: Any = _library("scann", "it runs on Linux x86-64 with Python below 3.14; use --engine exact or faiss")
    if len(memory) < SCANN_LEAST:
        raise UserError(f"the search engine scann takes {SCANN_LEAST} rows or more, not {len(memory)}; use --engine exact")
    leaves = max(1, min(512, len(memory) // 100))
    searched = min(leaves, max(4, leaves // 16))

    @functools.cache
    def built(k: int) -> Any:
        builder = scann.scann_ops_pybind.builder(memory, k, "dot_product" if metric == "dot" else "squared_l2")
        tree = builder.tree(num_leaves=leaves, num_leaves_to_search=searched, training_sample_size=len(memory))
        return tree.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(max(120, k)).build()

    def find(queries: np.ndarray, k: int) -> np.ndarray:
        rows, scores = built(k).search_batched_parallel(queries)
        return np.where(np.isfinite(scores), rows.astype(np.int64), -1)

    return find
